"""``python -m benchmarks.native_worlds``: steps per second of environments written in JAX, on one core.

One `scan` of constant actions that keeps the last state alone, random numbers and restarts included; and the
same world stepped from the host. Prints the rows of the table in docs/environments.md.
"""

import os
import statistics
import time

_ROUNDS = 5
_SCANNED = [("gymnax/Pendulum-v1", 8, 20_000), ("gymnax/Pendulum-v1", 64, 5_000)]
_SCANNED += [("gymnax/Pendulum-v1", 1024, 500), ("brax/halfcheetah/spring", 64, 200)]
_FROM_HOST = 2_000


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import jax
    import jax.numpy as jnp
    import numpy as np

    from rewardsmith.envs.native import NativeVectorEnv, advance, begin, make_native

    def told(name: str, copies: int, rates: list[float]) -> None:
        median, least, most = statistics.median(rates), min(rates), max(rates)
        print(f"| {name} | {copies} | {median:,.0f} ({least:,.0f} – {most:,.0f}) |", flush=True)

    def rates(steps: int, once) -> list[float]:
        once()
        found = []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            once()
            found.append(steps / (time.perf_counter() - started))
        return found

    for name, copies, length in _SCANNED:
        env = make_native(name)
        action = env.from_policy(jnp.zeros((copies, *env.spec.action_shape)))
        step = lambda worlds, _, env=env, action=action: (advance(env, worlds, action)[0], None)  # noqa: E731
        scan = jax.jit(lambda worlds, step=step, length=length: jax.lax.scan(step, worlds, length=length)[0])
        worlds = begin(env, 0, copies)
        once = lambda scan=scan, worlds=worlds: jax.block_until_ready(scan(worlds))  # noqa: E731
        told(name, copies, rates(copies * length, once))
    vector = NativeVectorEnv(make_native("gymnax/Pendulum-v1"), 8)
    vector.reset(0)
    still = np.zeros((8, 1), np.float32)
    told(
        "the same, stepped from the host",
        8,
        rates(8 * _FROM_HOST, lambda: [vector.step(still) for _ in range(_FROM_HOST)]),
    )


if __name__ == "__main__":
    main()
