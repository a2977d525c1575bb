"""A learned reward away from its run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._core import InputError
from ..rewards import LearnedReward
from .layout import CONFIG, REWARD, Spaces, damaged, read_config
from .modules import build_reward, describe_reward, in_blocks, load_module, most_at_once


@dataclass(frozen=True, eq=False)
class ExportedReward:
    """r_x(s, a) on NumPy batches, as the policy of the run was given it.

    Get one from `load_reward`. `learned` is the module itself, for JAX programs: of one step, actions in
    [−1, 1] or indices.

    Attributes:
        learned: the module.
        spaces: what it sees, and the environment's units.
        config: what ``config.json`` says.
    """

    learned: LearnedReward
    spaces: Spaces
    config: dict[str, Any]

    def __call__(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """r_x of n steps: (n,) float32, in units of its own.

        Args:
            observations: (n, *o) what was seen before each step: vectors of any float dtype, or uint8
                pictures, height × width × channels.
            actions: (n, a) in the environment's units, beyond its bounds cut as it cuts them; or (n,) indices
                from 0.

        Raises:
            InputError: other shapes or dtypes, or numbers that are not finite.
        """
        seen = self.spaces.observations(observations)
        taken = self.spaces.to_networks(actions, len(seen))
        return in_blocks(self._program, (seen, taken), most_at_once(self.spaces))

    def check_spaces(self, observation_space: Any, action_space: Any) -> None:
        """Raise InputError unless these Gymnasium spaces are those it was learned on.

        Args:
            observation_space: of a Gymnasium environment.
            action_space: of the same environment.

        Raises:
            InputError: they are others.
        """
        self.spaces.check(observation_space, action_space)

    @cached_property
    def _program(self) -> Callable[..., Any]:
        return jax.jit(jax.vmap(self.learned))

    def __getstate__(self) -> dict[str, Any]:
        # A compiled program cannot be copied into another process.
        return {name: value for name, value in self.__dict__.items() if name != "_program"}


def load_reward(folder: Path | str) -> ExportedReward:
    """The learned reward of a folder that ``rewardsmith export`` wrote. Runs nothing that lies there.

    Args:
        folder: with config.json and reward.safetensors.

    Raises:
        InputError: no such folder, a damaged or changed file, or a run that learned no reward.
    """
    folder = Path(folder)
    config = read_config(folder)
    spaces = spaces_of(folder, config)
    entry = config.get("reward")
    if entry is None:
        raise InputError(f"{folder} holds a policy alone, of a run on the true reward: use load_policy")
    if not isinstance(entry, dict):
        raise damaged(folder / CONFIG)
    described = {name: value for name, value in entry.items() if name not in ("mean", "deviation")}
    learned = load_module(folder, described, spaces, build_reward, describe_reward, REWARD)
    return ExportedReward(learned, spaces, config)


def spaces_of(folder: Path, config: dict[str, Any]) -> Spaces:
    """The spaces that ``config.json`` describes."""
    try:
        return Spaces.from_json(config)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(folder / CONFIG) from error
