"""Training itself: environment, policy, updates and leader together, one update for each environment step."""

import dataclasses
import time
from pathlib import Path

import jax
import polars as pl

from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.metrics import read_metrics
from rewardsmith.runs.progress import Progress
from rewardsmith.runs.train import train
from rewardsmith.runs.training import Training

from .subject import PEERS, Side, Subject

PACKAGES = ("rewardsmith", "jax", "equinox", "optax", "numpy", "mujoco", "gymnasium")
SHARES = (__name__, "shares")
_DEFAULTS = TrainConfig()
_RANDOM_STEPS = 400


def subject(quick: bool) -> Subject:
    # A turn of the learned reward holds whole sessions of the leader, never a part of one.
    session = 200 if quick else 1000
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
        seconds=0.8 if quick else 4.0,
    )


def build(method: str, num_envs: str = "8", session: str = "1000"):
    if method == "shares":
        return shares
    every = int(session)
    config = TrainConfig(
        method=method,
        num_envs=int(num_envs),
        # Long enough never to end here, with the default's comparisons for each step.
        steps=1_000_000,
        comparisons=1_000_000 * _DEFAULTS.comparisons // _DEFAULTS.steps,
        replay=100_000,
        learning_starts=_RANDOM_STEPS,
        leader_every=every,
        leader_steps=_leader_steps(every),
        leader_warmup_steps=1,
        eval_every=10**9,
        checkpoint_every=10**9,
    )
    training = Training([config], [RunFolder.create(Path("run"), dataclasses.asdict(config))])
    training.progress = Progress(config.steps)

    def measure(count: int) -> float:
        started = time.perf_counter()
        end = training.step + count
        while training.step < end:
            training._iterate()
        jax.block_until_ready((training.follower, training.leader))
        return time.perf_counter() - started

    # Through the first session of the leader, and one more: each compiles its own program.
    measure(_RANDOM_STEPS + every)
    return measure


def shares(steps: int) -> dict[str, float]:
    """Where the time of a short sobirl run goes: fractions of wall time over its second half.

    From the run's own metrics, which hold shares since its start. `rest` is evaluations and bookkeeping.
    """
    every = steps // 4
    config = TrainConfig(
        method="sobirl",
        steps=steps,
        comparisons=max(10, steps * _DEFAULTS.comparisons // _DEFAULTS.steps),
        learning_starts=min(_RANDOM_STEPS, every // 2),
        leader_every=every,
        leader_steps=_leader_steps(every),
        eval_every=every,
        checkpoint_every=10**9,
    )
    metrics = read_metrics(train(config, Path("shares")).path)
    rows = metrics.filter(pl.col("kind") == "learner", pl.col("step") >= steps // 2).rows(named=True)
    first, last = rows[0], rows[-1]
    seconds = last["seconds"] - first["seconds"]
    parts = {
        name: (last[f"share_{name}"] * last["seconds"] - first[f"share_{name}"] * first["seconds"]) / seconds
        for name in ("env", "learner", "leader")
    }
    rate = (last["step"] - first["step"]) / seconds
    return {**parts, "rest": 1.0 - sum(parts.values()), "steps_per_second": rate}


def _leader_steps(every: int) -> int:
    return max(1, round(_DEFAULTS.leader_steps * every / _DEFAULTS.leader_every))
