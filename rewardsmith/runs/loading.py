"""What is read back of a run: its newest good checkpoint, and of that the reward or the policy."""

import contextlib
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np

from .._core import InputError
from .._core.serialise import load_tree
from ..agents import CategoricalPolicy, Policy, SACState, TanhGaussianPolicy
from ..bilevel import LeaderState
from ..rewards import LearnedReward
from .config import TrainConfig
from .experiment import Experiment
from .folder import RunFolder, checked_step
from .parts import make_env, seen_by_networks


class _PolicyOnly(eqx.Module):
    """As much of `SACState` as an evaluation reads from a checkpoint."""

    policy: Policy


def newest_checkpoint(folder: RunFolder) -> Path:
    """The newest good checkpoint of a run; those that were skipped are told.

    Raises:
        InputError: there is none.
    """
    checkpoint, skipped = folder.latest_valid_checkpoint()
    for line in skipped:
        print(line)
    if checkpoint is None:
        raise InputError(
            f"{folder.path} has no checkpoint yet: go on with rewardsmith train --resume {folder.path}"
        )
    return checkpoint


class Newest(NamedTuple):
    """What the newest good checkpoint of a run holds of its networks.

    Attributes:
        experiment: the run's programs.
        follower: with the policy.
        leader: with the reward x; None where the true one is learned from.
        step: environment steps.
    """

    experiment: Experiment
    follower: SACState
    leader: LeaderState | None
    step: int


def load_newest(folder: RunFolder, config: TrainConfig, *, judged: bool = False) -> Newest:
    """The networks of a run's newest good checkpoint; `judged`: for the environment of evaluations."""
    with contextlib.closing(make_env(config, 1, judged=judged)) as env:
        experiment = Experiment(config, env.spec)
    followers, leader = jax.eval_shape(experiment.init, jax.random.key(0))
    like = {"follower": followers[0], "leader": leader, "step": np.asarray(0)}
    checkpoint = newest_checkpoint(folder)
    part = load_tree(checkpoint, like, allow_extra=True)
    return Newest(experiment, part["follower"], part["leader"], checked_step(checkpoint, part["step"]))


def load_reward(folder: RunFolder, config: TrainConfig) -> tuple[Experiment, LearnedReward, int]:
    """The learned reward of a run's newest good checkpoint, with the run's programs and the step."""
    newest = load_newest(folder, config)
    assert newest.leader is not None
    return newest.experiment, newest.leader.x, newest.step


def load_policy(path: Path | str) -> tuple[RunFolder, TrainConfig, Policy, int]:
    """The policy of a run's newest good checkpoint, with the run's folder and settings and its step."""
    folder = RunFolder.open(path)
    config = TrainConfig.from_json(folder.config)
    checkpoint = newest_checkpoint(folder)
    with contextlib.closing(make_env(config, 1)) as env:
        spec = env.spec
    make_policy = TanhGaussianPolicy if spec.num_actions is None else CategoricalPolicy
    seen = seen_by_networks(config, spec)
    # Its shapes alone: a config.json may ask for networks that no memory holds.
    policy = jax.eval_shape(lambda key: make_policy(*seen, config.hidden, key=key), jax.random.key(0))
    part = load_tree(checkpoint, {"follower": _PolicyOnly(policy), "step": np.asarray(0)}, allow_extra=True)
    return folder, config, part["follower"].policy, checked_step(checkpoint, part["step"])
