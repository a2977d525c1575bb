"""What learning a reward from clips of pictures costs: ``python -m benchmarks.picture_reward``.

One update, as a run takes it, on comparisons of 25 steps of Atari (84 × 84, grey, stacks of 4): seconds, and
by how much the memory of the process grows, that of the comparisons themselves left out.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rewardsmith.agents import empty_replay
from rewardsmith.envs import EnvSpec
from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.experiment import Experiment

from .memory import HORIZON, IMAGE, peak_memory
from .worker import Worker, run_program

PACKAGES = ("rewardsmith", "jax", "equinox", "optax", "numpy")
_ACTIONS = 9


def compared(pairs: int) -> dict[str, np.ndarray]:
    """Comparisons as a queue holds them: random frames, random answers."""
    rng = np.random.default_rng(0)
    frames = IMAGE.stack - 1 + HORIZON
    return {
        "observations": rng.integers(0, 256, (pairs, 2, frames, *IMAGE.frame_shape), np.uint8),
        "actions": rng.integers(0, _ACTIONS, (pairs, 2, HORIZON), np.int32),
        "valid": np.ones((pairs, 2, HORIZON), bool),
        "label": rng.integers(0, 2, pairs).astype(np.float32),
    }


def make_update(pairs: int) -> Callable[[], float]:
    """A call takes the next update and gives the loss before it."""
    spec = EnvSpec(
        env_id="ALE/BeamRider-v5",
        observation_shape=IMAGE.shape,
        observation_dtype=np.dtype(np.uint8),
        action_shape=(),
        action_low=None,
        action_high=None,
        num_actions=_ACTIONS,
        max_episode_steps=None,
        can_terminate=True,
        image=IMAGE,
    )
    config = TrainConfig(
        env=spec.env_id,
        method="drlhf",
        clip_length=HORIZON,
        hidden=(1,),
        # Of the reward, as the preset for Atari has it.
        reward_hidden=(64,),
        ensemble=1,
        reward_norm="batch",
        reward_output="clamp",
        reward_weight_decay=0.01,
    )
    experiment = Experiment(config, spec)
    (follower,), state = experiment.init(jax.random.key(0))
    assert state is not None
    clips = compared(pairs)
    # The first term asks neither replay nor policy.
    nothing = empty_replay(1, 1, _ACTIONS, discrete=True), (jnp.zeros((1, 1)), jnp.zeros((1, 1)))

    def update() -> float:
        nonlocal state
        newest = {name: array[:1] for name, array in clips.items()}
        state, stats = experiment.warm_up_once(state, clips, newest, follower, *nothing, jax.random.key(1))
        return float(jax.block_until_ready((stats, state))[0].loss)

    return update


def build():
    def measure(pairs: int, updates: int) -> dict[str, float]:
        update = make_update(pairs)
        before = peak_memory()
        update()
        seconds = []
        for _ in range(updates):
            started = time.perf_counter()
            update()
            seconds.append(time.perf_counter() - started)
        return {
            "seconds": statistics.median(seconds),
            "least": min(seconds),
            "most": max(seconds),
            "grown": peak_memory() - before,
        }

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture_reward", description=__doc__)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--updates", type=int, default=5)
    options = parser.parse_args()
    core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    with Worker(sys.executable, core, ("benchmarks.kept", "benchmarks.picture_reward")) as worker:
        found = worker.measure(pairs=options.pairs, updates=options.updates)
    frames = 2 * HORIZON * options.pairs
    print(f"an update on {options.pairs} comparisons, {frames} pictures; one core, {options.updates} updates")
    print(f"{found['seconds']:.2f} s ({found['least']:.2f} – {found['most']:.2f})")
    print(f"{1000 * found['seconds'] / options.pairs:.1f} ms a comparison")
    print(f"memory grows by {found['grown'] / 2**30:.2f} GiB, compilation included")


if __name__ == "__main__":
    run_program(main, "picture_reward")
