"""Replay memory on the device: a ring of transitions, uniform sampling."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped


class Transition(eqx.Module):
    """One step (s, a, s', terminated); with any leading axes, many.

    Observations are vectors (float) or images (uint8, height × width × channels); actions are vectors or,
    where they are discrete, integers of shape ``()``.

    `true_reward` is None for every learner that learns its reward: then there is no column to read. Only
    the ceiling, SAC on the true reward, stores one.
    """

    observation: Shaped[Array, "*observations"]
    action: Shaped[Array, "..."]
    next_observation: Shaped[Array, "*observations"]
    terminated: Bool[Array, "*batch"]
    true_reward: Float[Array, "*batch"] | None = None


class Replay(eqx.Module):
    """A ring of `capacity` transitions, the oldest overwritten first."""

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
    """A replay with room for `capacity` transitions: 4·(2·o + a + 1) + 1 bytes each; a = 1 if `discrete`."""
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
    """Store a batch of transitions (leading axis n ≤ capacity); donate `replay` to do it in place."""
    count = transitions.terminated.shape[0]
    slots = (replay.position + jnp.arange(count)) % replay.capacity
    data = jax.tree.map(lambda stored, new: stored.at[slots].set(new), replay.data, transitions)
    return Replay(
        data=data,
        position=(replay.position + count) % replay.capacity,
        size=jnp.minimum(replay.size + count, replay.capacity),
    )


def sample(replay: Replay, key: PRNGKeyArray, shape: tuple[int, ...]) -> Transition:
    """Transitions drawn uniformly with replacement; leading axes `shape`. The replay must not be empty."""
    indices = jax.random.randint(key, shape, 0, replay.size)
    return jax.tree.map(lambda stored: stored[indices], replay.data)
