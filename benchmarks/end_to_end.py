"""Training itself: environment, policy, updates and leader together, one update for each environment step."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax

from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.progress import Progress
from rewardsmith.runs.training import Training

from .subject import PEERS, Side, Subject

PACKAGES = ("rewardsmith", "jax", "equinox", "optax", "numpy", "mujoco", "gymnasium")
_DEFAULTS = TrainConfig()
_RANDOM_STEPS = 400


def subject(quick: bool) -> Subject:
    # A turn of the learned reward holds whole sessions of the leader, never a part of one.
    session = 200 if quick else 600
    ours = (
        Side("rewardsmith, true reward", (__name__, "sac", "8", str(session)), multiple=8),
        Side("rewardsmith, learned reward", (__name__, "drlhf", "8", str(session)), multiple=session),
        Side("rewardsmith, true reward, 1 environment", (__name__, "sac", "1", str(session))),
    )
    peers = (
        Side("stable-baselines3", ("benchmarks.peers", "sb3", "end-to-end"), home=PEERS),
        Side("sbx", ("benchmarks.peers", "sbx", "end-to-end"), home=PEERS),
        Side("sbx, 8 environments", ("benchmarks.peers", "sbx", "end-to-end", "8"), {}, 8, PEERS),
    )
    return Subject(
        name="end-to-end",
        title="Training, end to end",
        how=(
            "HalfCheetah-v5, one update for each environment step: stepping, acting and learning, after "
            "warm-up and compilation. rewardsmith steps 8 environments and makes 8 fused updates unless the "
            "row says otherwise; peers run `learn` with 1 environment and 1 update, their default, or as the "
            "row says. Learned reward: every batch asks the reward of now, and leader sessions (drlhf, 50 "
            "steps for each 2000 environment steps) are inside the time; peers have the true reward."
        ),
        unit="steps/s",
        sides=(*ours, *peers),
        ratios=tuple((mine.label, theirs.label) for mine in ours[:2] for theirs in peers)
        + tuple((ours[2].label, theirs.label) for theirs in peers[:2]),
        rounds=5,
        seconds=0.8 if quick else 2.5,
    )


def build(method: str, num_envs: str = "8", session: str = "600", seeds: str = "1"):
    every, count = int(session), int(seeds)
    training = begin(
        count,
        # Long enough never to end here, with the default's comparisons for each step.
        steps=1_000_000,
        comparisons=1_000_000 * _DEFAULTS.comparisons // _DEFAULTS.steps,
        method=method,
        num_envs=int(num_envs),
        replay=100_000,
        learning_starts=_RANDOM_STEPS,
        leader_every=every,
        leader_steps=max(1, round(_DEFAULTS.leader_steps * every / _DEFAULTS.leader_every)),
        leader_warmup_steps=1,
        eval_every=10**9,
        checkpoint_every=10**9,
    )

    def measure(count: int) -> float:
        """Seconds of that many steps of all seeds together."""
        started = time.perf_counter()
        advance(training, count // len(training.seats))
        return time.perf_counter() - started

    # Through the first session of the leader, and one more: each compiles its own program.
    measure((_RANDOM_STEPS + every) * count)
    return measure


def begin(seeds: int, **settings: Any) -> Training:
    """Runs in the working directory, side by side, that take steps when they are told to."""
    configs = [TrainConfig(seed=seed, **settings) for seed in range(seeds)]
    folders = [RunFolder.create(Path(f"run-{own.seed}"), dataclasses.asdict(own)) for own in configs]
    training = Training(configs, folders)
    training.progress = Progress(configs[0].steps)
    return training


def advance(training: Training, count: int) -> None:
    """At least `count` environment steps of each run, with all they lead to."""
    end = training.step + count
    while training.step < end:
        training._iterate()
    jax.block_until_ready((training.followers, training.leader))
