"""Small records of the reward and the policy along a run, for whoever judges how they came to be."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from .._core.serialise import load_tree, save_tree
from ..agents import Policy
from ..envs import EnvSpec
from ..rewards import LearnedReward
from .config import TrainConfig
from .experiment import Experiment
from .folder import RunFolder

_MOST, _MOST_OF_PICTURES = 32, 12


def snapshot_steps(config: TrainConfig, spec: EnvSpec) -> tuple[int, ...]:
    """The environment steps at which a run keeps a snapshot, increasing; the last is its end.

    Sessions of the leader, spread evenly over the run if there are more than 32, or 12 where networks are of
    pictures and so large. They follow from the settings alone, so a resumed run keeps the same ones.
    """
    later = range(config.leader_every, config.steps, config.leader_every)
    sessions = [config.first_session, *(step for step in later if step > config.first_session)]
    return evenly((*sessions, config.steps), _MOST if spec.image is None else _MOST_OF_PICTURES)


def evenly(values: Iterable[Any], most: int) -> tuple[Any, ...]:
    """At most so many of the values, evenly spread by position, the first and the last among them."""
    everything = tuple(values)
    if len(everything) <= most:
        return everything
    return tuple(everything[round(index)] for index in np.linspace(0, len(everything) - 1, most))


def save_snapshot(folder: RunFolder, step: int, policy: Policy, x: LearnedReward | None) -> None:
    """Write the snapshot of `step`; `x` is None where the reward is not learned."""
    tree = {"policy": policy} if x is None else {"policy": policy, "reward": x}
    save_tree(folder.snapshot_path(step), tree)


def load_snapshot(
    folder: RunFolder, step: int, experiment: Experiment
) -> tuple[Policy, LearnedReward | None]:
    """The policy and the learned reward at `step`, of a run with the programs `experiment`.

    Raises:
        InputError: there is no such snapshot, or it is damaged.
    """
    followers, leader = jax.eval_shape(experiment.init, jax.random.key(0))
    like: dict[str, Any] = {"policy": followers[0].policy}
    if leader is not None:
        like["reward"] = leader.x
    tree = load_tree(folder.snapshot_path(step), like)
    return tree["policy"], tree.get("reward")
