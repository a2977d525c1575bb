"""A policy away from its run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._core import InputError
from ..agents import Policy
from .layout import CONFIG, POLICY, Spaces, damaged, read_config
from .modules import build_policy, describe_policy, in_blocks, load_module, most_at_once
from .reward import spaces_of


@dataclass(eq=False)
class ExportedPolicy:
    """π(·|s) on NumPy batches. Get one from `load_policy`.

    Attributes:
        network: the module, for JAX programs: of one observation, actions in [−1, 1] or indices.
        spaces: what it sees, and the environment's units.
        config: what ``config.json`` says.
        seed: of sampled actions.
    """

    network: Policy
    spaces: Spaces
    config: dict[str, Any]
    seed: int = 0
    _calls: int = 0

    def act(self, observations: np.ndarray, deterministic: bool = True) -> np.ndarray:
        """Actions (n, a) float32 in the environment's units, or (n,) indices from 0.

        Args:
            observations: (n, *o) vectors of any float dtype, or uint8 pictures.
            deterministic: by the policy's mode; False: a sample, another at every call, the same sequence for
                the same seed.

        Raises:
            InputError: another shape or dtype, or numbers that are not finite.
        """
        seen = self.spaces.observations(observations)
        if deterministic:
            found = in_blocks(self._mode, (seen,), most_at_once(self.spaces))
        else:
            count = len(seen)
            draws = np.full(count, self._calls, np.uint32), np.arange(count, dtype=np.uint32)
            self._calls += 1
            found = in_blocks(self._sample, (seen, *draws), most_at_once(self.spaces))
        return self.spaces.from_networks(found)

    @cached_property
    def _mode(self) -> Callable[..., Any]:
        return jax.jit(jax.vmap(self.network.mode))

    @cached_property
    def _sample(self) -> Callable[..., Any]:
        def sample(observation: Any, call: Any, row: Any) -> Any:
            key = jax.random.fold_in(jax.random.key(self.seed), call)
            return self.network.sample(observation, jax.random.fold_in(key, row))

        return jax.jit(jax.vmap(sample))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_mode", "_sample")}


def load_policy(folder: Path | str, seed: int = 0) -> ExportedPolicy:
    """The policy of a folder that ``rewardsmith export`` wrote. Runs nothing that lies there.

    Args:
        folder: with config.json and policy.safetensors.
        seed: of sampled actions.

    Raises:
        InputError: no such folder, a damaged or changed file, or a negative seed.
    """
    folder = Path(folder)
    if seed < 0:
        raise InputError(f"seed is {seed}: give 0 or a positive whole number")
    config = read_config(folder)
    spaces = spaces_of(folder, config)
    entry = config.get("policy")
    if not isinstance(entry, dict):
        raise damaged(folder / CONFIG)
    network = load_module(folder, entry, spaces, build_policy, describe_policy, POLICY)
    return ExportedPolicy(network, spaces, config, seed)
