"""What is read back of a run: its newest good checkpoint, and of that the reward or the policy."""

import contextlib
from pathlib import Path

import equinox as eqx
import jax
import numpy as np

from .._core import InputError
from .._core.serialise import load_tree
from ..agents import CategoricalPolicy, Policy, TanhGaussianPolicy
from ..rewards import LearnedReward
from .config import TrainConfig
from .experiment import Experiment
from .folder import RunFolder
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


def load_reward(folder: RunFolder, config: TrainConfig) -> tuple[Experiment, LearnedReward, int]:
    """The learned reward of a run's newest good checkpoint, with the run's programs and the step."""
    with contextlib.closing(make_env(config, 1)) as env:
        experiment = Experiment(config, env.spec)
    _, leader = jax.eval_shape(experiment.init, jax.random.key(0))
    like = {"leader": leader, "step": np.asarray(0)}
    part = load_tree(newest_checkpoint(folder), like, allow_extra=True)
    return experiment, part["leader"].x, int(part["step"])


def load_policy(path: Path | str) -> tuple[RunFolder, TrainConfig, Policy, int]:
    """The policy of a run's newest good checkpoint, with the run's folder and settings and its step."""
    folder = RunFolder.open(path)
    config = TrainConfig.from_json(folder.config)
    checkpoint = newest_checkpoint(folder)
    with contextlib.closing(make_env(config, 1)) as env:
        spec = env.spec
    make_policy = TanhGaussianPolicy if spec.num_actions is None else CategoricalPolicy
    like = {
        "follower": _PolicyOnly(
            make_policy(*seen_by_networks(config, spec), config.hidden, key=jax.random.key(0))
        ),
        "step": np.asarray(0),
    }
    part = load_tree(checkpoint, like, allow_extra=True)
    return folder, config, part["follower"].policy, int(part["step"])
