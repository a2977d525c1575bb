"""gymnax's environments: classic control, MinAtar, bsuite and others."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, Num

from ..._core import InputError, TracedTrueReward
from ..base import EnvSpec
from ._package import check_known, import_package
from .base import NativeEnv, NativeTransition, State

_NEVER_ENDS = (
    *("Pendulum-v1", "DiscountingChain-bsuite", "Freeway-MinAtar", "BernoulliBandit-misc"),
    *("GaussianBandit-misc", "PointRobot-misc", "Reacher-misc", "Swimmer-misc"),
)
_ENDS = (
    *("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"),
    *("Asterix-MinAtar", "Breakout-MinAtar", "Seaquest-MinAtar", "SpaceInvaders-MinAtar"),
    *("Catch-bsuite", "DeepSea-bsuite", "MemoryChain-bsuite", "UmbrellaChain-bsuite", "SimpleBandit-bsuite"),
    *("FourRooms-misc", "MetaMaze-misc", "Pong-misc", "FrozenLake-misc"),
)
_CAN_TERMINATE = dict.fromkeys(_NEVER_ENDS, False) | dict.fromkeys(_ENDS, True)
_DOWNLOADS = "MNISTBandit-bsuite"


class GymnaxEnv(NativeEnv):
    """A registered environment of gymnax, with its default parameters.

    gymnax's own automatic reset and time limit are left out; its limit becomes `EnvSpec.max_episode_steps`.

    Args:
        name: gymnax's name, such as ``"Pendulum-v1"``; ours is ``"gymnax/Pendulum-v1"``.
        flatten_observations: make one vector of pictures, indices (one-hot) and other observations.

    Raises:
        InputError: gymnax is not installed, an unknown name, or observations or actions that are not
            understood.
    """

    def __init__(self, name: str, *, flatten_observations: bool = False):
        env_id = f"gymnax/{name}"
        registration = import_package(env_id, "gymnax.registration")
        check_known(env_id, name, [each for each in registration.registered_envs if each != _DOWNLOADS])
        self._env, self._params = registration.make(name)
        space = self._env.observation_space(self._params)
        self._categories: int | None = getattr(space, "n", None)
        self._flatten = flatten_observations
        seen = jax.eval_shape(lambda key: self._env.reset_env(key, self._params)[0], jax.random.key(0))
        self._check_observation(env_id, seen)
        low, high, num_actions = _read_actions(env_id, self._env.action_space(self._params))
        self.spec = EnvSpec(
            env_id=env_id,
            observation_shape=jax.eval_shape(self._vector, seen).shape,
            observation_dtype=np.dtype(np.float32),
            action_shape=() if low is None else low.shape,
            action_low=low,
            action_high=high,
            num_actions=num_actions,
            max_episode_steps=int(self._params.max_steps_in_episode),
            can_terminate=_CAN_TERMINATE.get(name),
        )

    def reset(self, key: Key[Array, ""]) -> tuple[State, Float[Array, "..."]]:
        """See `NativeEnv.reset`."""
        observation, state = self._env.reset_env(key, self._params)
        return state, self._vector(observation)

    def step(self, state: State, action: Num[Array, "..."], key: Key[Array, ""]) -> NativeTransition:
        """See `NativeEnv.step`."""
        observation, state, reward, terminated, _ = self._env.step_env(key, state, action, self._params)
        paid = jnp.asarray(reward, jnp.float32).reshape(())
        ended = jnp.asarray(terminated, bool).reshape(())
        return NativeTransition(state, self._vector(observation), TracedTrueReward(paid), ended)

    def _vector(self, observation: Any) -> Float[Array, "..."]:
        if self._flatten and self._categories is not None:
            observation = jax.nn.one_hot(observation, self._categories)
        elif self._flatten:
            observation = ravel_pytree(observation)[0]
        return jnp.asarray(observation, jnp.float32)

    def _check_observation(self, env_id: str, seen: Any) -> None:
        if self._flatten or (isinstance(seen, jax.ShapeDtypeStruct) and len(seen.shape) == 1):
            return
        if self._categories is not None:
            what = "an index"
        elif isinstance(seen, jax.ShapeDtypeStruct):
            what = f"a picture or table of {' × '.join(map(str, seen.shape)) or 'no'} numbers"
        else:
            what = f"a {type(seen).__name__}"
        raise InputError(f"{env_id} observes {what}: give --flatten-observations to have it as one vector")


def _read_actions(env_id: str, space: Any) -> tuple[np.ndarray | None, np.ndarray | None, int | None]:
    """Bounds (float32) of a Box, or the number of actions."""
    if hasattr(space, "n"):
        return None, None, int(space.n)
    if not hasattr(space, "low") or not np.issubdtype(np.dtype(space.dtype), np.floating):
        raise InputError(f"{env_id} acts by {space}: choose a task with Discrete or Box float actions")
    low, high = (
        np.array(np.broadcast_to(bound, space.shape), np.float32) for bound in (space.low, space.high)
    )
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise InputError(f"{env_id} has unbounded actions: choose a task with bounds")
    return low, high, None
