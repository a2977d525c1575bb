"""Features of observations and actions for `Suffix`, `FittedAdjoint` and baselines: hashable callables."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._core import InputError

# A side, of the fields into which a picture is divided.
_FIELDS = 5


@dataclass(frozen=True)
class RandomFeatures:
    """`count` random ReLU features of (s, a), and the constant 1:

        f_j(s, a) = relu(w_j·s / (scale √|s|) + v_j·a / √|a| + c_j),    w, v, c standard normal

    For observations and actions that are arrays of numbers, of about the same size in all entries; an action
    is taken to be of size 1. Their span grows towards all continuous functions with `count`.

    Source: Rahimi and Recht, NeurIPS 2008 (random kitchen sinks).

    Args:
        count: how many.
        scale: usual size of an entry of an observation.
        seed: of w, v and c.
        num_actions: A, where actions are indices; they are then one-hot.
    """

    count: int = 256
    scale: float = 1.0
    seed: int = 0
    num_actions: int | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or not 0.0 < self.scale < np.inf:
            raise InputError(
                f"count is {self.count} and scale {self.scale}; give at least 1 and a positive number"
            )

    def __call__(self, observation: Any, action: Any) -> Float[Array, " f"]:
        """`count` + 1 numbers."""
        state, action = state_vector(observation), action_vector(action, self.num_actions)
        rng = np.random.default_rng(self.seed)
        # From numpy, so that a compiled program holds them as constants.
        w, v, c = (rng.normal(size=(self.count, size)) for size in (state.size, action.size, 1))
        inner = jnp.asarray(w / (self.scale * np.sqrt(state.size)), state.dtype) @ state
        inner += jnp.asarray(v / np.sqrt(action.size), action.dtype) @ action
        hidden = jax.nn.relu(inner + jnp.asarray(c[:, 0], inner.dtype))
        return jnp.concatenate([hidden, jnp.ones(1, hidden.dtype)])


@dataclass(frozen=True)
class ActionInteractions:
    """[a, a ⊗ s]: an action's effect is linear in it, and its slope linear in the observation.

    Args:
        num_actions: A, where actions are indices; they are then one-hot.
    """

    num_actions: int | None = None

    def __call__(self, observation: Any, action: Any) -> Float[Array, " f"]:
        """|a| (1 + |s|) numbers."""
        state, action = state_vector(observation), action_vector(action, self.num_actions)
        return jnp.concatenate([action, jnp.outer(action, state).ravel()])


@dataclass(frozen=True)
class OneHotPairs:
    """1 at the pair (s, a) of a table, 0 elsewhere: nothing is missed.

    Args:
        num_states: S.
        num_actions: A.
    """

    num_states: int
    num_actions: int

    def __call__(self, observation: Any, action: Any) -> Float[Array, " f"]:
        """S·A numbers."""
        pair = observation * self.num_actions + action
        return jax.nn.one_hot(pair, self.num_states * self.num_actions, dtype=float)


@dataclass(frozen=True)
class OneHotStates:
    """1 at the state of a table, 0 elsewhere; features of a baseline.

    Args:
        num_states: S.
    """

    num_states: int

    def __call__(self, observation: Any) -> Float[Array, " f"]:
        """S numbers."""
        return jax.nn.one_hot(observation, self.num_states, dtype=float)


@dataclass(frozen=True)
class Pairs:
    """[s, a]: what a network of both is shown.

    Args:
        num_actions: A, where actions are indices; they are then one-hot.
    """

    num_actions: int | None = None

    def __call__(self, observation: Any, action: Any) -> Float[Array, " f"]:
        """|s| + |a| numbers."""
        return jnp.concatenate([state_vector(observation), action_vector(action, self.num_actions)])


def state_vector(observation: Any) -> Float[Array, " n"]:
    """An observation as a vector: flat; a picture as the mean brightness of 5 × 5 fields, and its change.

    Of a picture (uint8, height × width × channels) the last channel counts, and the last less the first, the
    newest frame and the oldest of a grey stack: 50 numbers that a regression on a few clips can bear.
    """
    if observation.dtype != jnp.uint8 or observation.ndim != 3:
        return _flat(observation)
    side = min(_FIELDS, *observation.shape[:2])
    height, width = (size // side for size in observation.shape[:2])
    cropped = observation[: height * side, : width * side].astype(float) / 255.0
    fields = cropped.reshape(side, height, side, width, -1).mean((1, 3))
    return jnp.stack([fields[..., -1], fields[..., -1] - fields[..., 0]]).ravel()


def action_vector(action: Any, num_actions: int | None) -> Float[Array, " n"]:
    """An action as a vector: flat, or one-hot where there are `num_actions`."""
    return _flat(action) if num_actions is None else jax.nn.one_hot(action, num_actions, dtype=float)


def _flat(numbers: Any) -> Float[Array, " n"]:
    flat = jnp.ravel(numbers)
    return flat if jnp.issubdtype(flat.dtype, jnp.floating) else flat.astype(float)
