"""One environment as pure functions of its state."""

import abc
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Key, Num, Shaped

from ..._core import TracedTrueReward
from ..base import EnvSpec

State = Any
"""A pytree of arrays; what is in it is the environment's own affair."""


class NativeTransition(NamedTuple):
    """What one step of one environment led to.

    Attributes:
        state: what to step next; of the same structure, shapes and dtypes as before.
        observation: (*obs) of that state, float32.
        reward: () the true reward, sealed.
        terminated: () whether the episode came to its own end.
    """

    state: State
    observation: Float[Array, "..."]
    reward: TracedTrueReward
    terminated: Bool[Array, ""]


class NativeEnv(abc.ABC):
    """One environment; all there is to know of where it stands is the state it hands out.

    It neither restarts by itself nor knows a time limit: `worlds.advance` does both. All randomness comes
    from the keys that it is given, and its state holds no true reward.

    Attributes:
        spec: facts of it; observations are float32.
    """

    spec: EnvSpec

    @abc.abstractmethod
    def reset(self, key: Key[Array, ""]) -> tuple[State, Float[Array, "..."]]:
        """The state and the observation (*obs) at the start of an episode."""

    @abc.abstractmethod
    def step(self, state: State, action: Num[Array, "..."], key: Key[Array, ""]) -> NativeTransition:
        """Act once; `action` (*action_shape) is in the environment's own units."""

    def from_policy(self, action: Shaped[ArrayLike, "..."]) -> Shaped[Array, "..."]:
        """A policy's actions, in [−1, 1] or indices, in the environment's units: `EnvSpec.from_policy`."""
        spec = self.spec
        if spec.action_low is None or spec.action_high is None:
            return jnp.asarray(action)
        centre = 0.5 * (spec.action_high + spec.action_low)
        half_range = 0.5 * (spec.action_high - spec.action_low)
        return jnp.clip(centre + half_range * jnp.asarray(action), spec.action_low, spec.action_high)
