"""Replay memory on the device: a ring of transitions, uniform sampling."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped


class Transition(eqx.Module):
    """One step (s, a, s', terminated); with any leading axes, many.

    Attributes:
        observation: s, a vector (float) or a picture (uint8, height × width × channels).
        action: a, a vector in [−1, 1] or, where actions are discrete, an integer of shape ``()``.
        next_observation: s', the final observation where an episode ended.
        terminated: nothing follows s'. An episode that was cut by its time limit is not terminated.
        true_reward: None for every learner that learns its reward: then there is no column to read. Only the
            ceiling, SAC on the true reward, stores one.
    """

    observation: Shaped[Array, "*observations"]
    action: Shaped[Array, "..."]
    next_observation: Shaped[Array, "*observations"]
    terminated: Bool[Array, "*batch"]
    true_reward: Float[Array, "*batch"] | None = None


class Replay(eqx.Module):
    """A ring of `capacity` transitions, the oldest overwritten first.

    Attributes:
        data: all slots, leading axis `capacity`.
        position: of the slot that is written next.
        size: slots that are filled.
    """

    data: Transition
    position: Int[Array, ""]
    size: Int[Array, ""]

    @property
    def capacity(self) -> int:
        """Number of transitions it holds when full."""
        return self.data.terminated.shape[0]


def empty_replay(
    capacity: int,
    observation_size: int,
    action_size: int,
    *,
    discrete: bool = False,
    with_true_reward: bool = False,
) -> Replay:
    """A replay with room for `capacity` transitions: 4·(2·o + a + 1) + 1 bytes each; a = 1 if `discrete`.

    Args:
        capacity: transitions.
        observation_size: o, numbers in an observation.
        action_size: a, numbers in an action; of no matter if `discrete`.
        discrete: actions are indices.
        with_true_reward: with a column for the true reward: for the ceiling alone, and 4 bytes more.
    """
    action = jnp.zeros((capacity,), jnp.int32) if discrete else jnp.zeros((capacity, action_size))
    return Replay(
        data=Transition(
            observation=jnp.zeros((capacity, observation_size)),
            action=action,
            next_observation=jnp.zeros((capacity, observation_size)),
            terminated=jnp.zeros((capacity,), bool),
            true_reward=jnp.zeros((capacity,)) if with_true_reward else None,
        ),
        position=jnp.zeros((), jnp.int32),
        size=jnp.zeros((), jnp.int32),
    )


def add(replay: Replay, transitions: Transition) -> Replay:
    """Store a batch of transitions; donate `replay` to do it in place.

    Args:
        replay: what is held so far.
        transitions: leading axis n ≤ capacity.
    """
    count = transitions.terminated.shape[0]
    slots = (replay.position + jnp.arange(count)) % replay.capacity
    data = jax.tree.map(lambda stored, new: stored.at[slots].set(new), replay.data, transitions)
    return Replay(
        data=data,
        position=(replay.position + count) % replay.capacity,
        size=jnp.minimum(replay.size + count, replay.capacity),
    )


def sample(replay: Replay, key: PRNGKeyArray, shape: tuple[int, ...]) -> Transition:
    """Transitions drawn uniformly with replacement.

    Args:
        replay: not empty.
        key: of the draw.
        shape: leading axes of what is drawn, such as (updates, batch size).
    """
    indices = jax.random.randint(key, shape, 0, replay.size)
    return jax.tree.map(lambda stored: stored[indices], replay.data)
