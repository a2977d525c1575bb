"""Native worlds behind the interface of every other environment."""

from functools import partial
from typing import Any

import jax
import numpy as np

from ..._core import InputError
from ..base import StepResult, VectorEnv, check_num_envs, check_state, not_started
from .base import NativeEnv
from .worlds import Worlds, WorldsStep, advance, begin, from_rows, rows, streams


class NativeVectorEnv(VectorEnv):
    """N copies of a native environment, stepped from the host: one compiled call and one copy back a step.

    Args:
        env: the environment.
        num_envs: N.

    Raises:
        InputError: no copies.
    """

    restorable = True

    def __init__(self, env: NativeEnv, num_envs: int):
        check_num_envs(num_envs)
        self.env = env
        self.spec = env.spec
        self.num_envs = num_envs
        self._worlds: Worlds | None = None

    @property
    def worlds(self) -> Worlds:
        """The copies as a compiled program takes them; set to what it returned to go on from there.

        Raises:
            InputError: `reset` was never called.
        """
        if self._worlds is None:
            raise not_started(self.spec.env_id)
        return self._worlds

    @worlds.setter
    def worlds(self, worlds: Worlds) -> None:
        if len(worlds.elapsed) != self.num_envs:
            raise InputError(f"these are {len(worlds.elapsed)} worlds: pass {self.num_envs}")
        self._worlds = worlds

    def reset(self, seed: int) -> np.ndarray:
        """See `VectorEnv.reset`."""
        self._worlds = begin(self.env, seed, self.num_envs)
        return np.array(self._worlds.observation)

    def step(self, action: np.ndarray) -> StepResult:
        """See `VectorEnv.step`."""
        before = self.worlds
        actions = self.spec.checked_actions(action, self.num_envs)
        self._worlds, step = _advance(self.env, before, actions)
        return StepResult(
            np.array(step.observation),
            np.array(step.next_observation),
            step.reward.sealed(),
            np.array(step.terminated),
            np.array(step.truncated),
        )

    def get_state(self) -> dict[str, np.ndarray]:
        """See `VectorEnv.get_state`; names and shapes are those of `worlds.rows`."""
        return {name: np.array(array) for name, array in rows(self.worlds).items()}

    def set_state(self, state: dict[str, np.ndarray]) -> np.ndarray:
        """See `VectorEnv.set_state`."""
        like = jax.eval_shape(lambda: begin(self.env, 0, self.num_envs))
        needed = {name: array.shape for name, array in jax.eval_shape(rows, like).items()}
        check_state(self.spec.env_id, state, needed)
        self._worlds = from_rows(like, state)
        return np.array(self._worlds.observation)

    def streams(self, seed: int) -> np.ndarray:
        """See `VectorEnv.streams`; the environments are left as they are."""
        return np.array(jax.random.key_data(streams(seed, self.num_envs)))

    def close(self) -> None:
        """Nothing to release."""


@partial(jax.jit, static_argnums=0)
def _advance(env: NativeEnv, worlds: Worlds, action: Any) -> tuple[Worlds, WorldsStep]:
    return advance(env, worlds, action)
