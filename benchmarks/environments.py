"""Stepping alone: all simulations in one batch, against Gymnasium's vector environment."""

import time

import numpy as np

from rewardsmith.envs import make

from .subject import Side, Subject

PACKAGES = ("rewardsmith", "mujoco", "gymnasium", "numpy")
_ENV = "HalfCheetah-v5"
_COPIES = (8, 32)


def subject(quick: bool) -> Subject:
    sides, ratios = [], []
    for copies in _COPIES:
        pair = [
            Side(f"{word}, {copies}", (__name__,), {"backend": backend, "copies": copies}, multiple=copies)
            for word, backend in (("MujocoBatchEnv", "mujoco"), ("SyncVectorEnv", "gymnasium"))
        ]
        sides += pair
        ratios.append((pair[0].label, pair[1].label))
    return Subject(
        name="environments",
        title="Environment steps",
        how=(
            f"{_ENV}, 8 and 32 copies, random actions, one thread, observation, reward and resets included. "
            "Peer: Gymnasium's SyncVectorEnv behind the same interface (they agree bit for bit)."
        ),
        unit="steps/s",
        sides=tuple(sides),
        ratios=tuple(ratios),
        rounds=5 if quick else 7,
        seconds=0.2 if quick else 0.4,
    )


def build():
    envs = {
        (backend, copies): make(_ENV, copies, backend)
        for backend in ("mujoco", "gymnasium")
        for copies in _COPIES
    }
    rng = np.random.default_rng(0)
    actions = {}
    for (_, copies), env in envs.items():
        env.reset(0)
        actions[copies] = rng.uniform(-1.0, 1.0, (64, copies, *env.spec.action_shape)).astype(np.float32)

    def measure(count: int, backend: str, copies: int) -> float:
        env, choices = envs[backend, copies], actions[copies]
        started = time.perf_counter()
        for i in range(count // copies):
            env.step(choices[i % len(choices)])
        return time.perf_counter() - started

    return measure
