"""Deep followers in worlds written as functions: what the examples with soft actor-critic share.

A world is three pure functions, so that a whole run is one compiled program.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from rewardsmith.agents import Policy, Replay, Transition, act, add


class World(NamedTuple):
    """One world; nothing in it ends for good.

    Attributes:
        reset: key -> state, a pytree.
        observe: state -> the vector that the policy sees.
        step: (state, action, key) -> the next state.
    """

    reset: Callable[[PRNGKeyArray], Any]
    observe: Callable[[Any], Float[Array, " o"]]
    step: Callable[[Any, Any, PRNGKeyArray], Any]


class Walks(eqx.Module):
    """M walks of H steps: what was seen, what was done, what it led to."""

    observations: Float[Array, "M H o"]
    actions: Shaped[Array, "M H ..."]
    next_observations: Float[Array, "M H o"]

    @property
    def transitions(self) -> Transition:
        """All M·H steps."""
        steps = (self.observations, self.actions, self.next_observations)
        seen, actions, following = (leaf.reshape(-1, *leaf.shape[2:]) for leaf in steps)
        return Transition(seen, actions, following, jnp.zeros(len(seen), bool))


def begin(world: World, count: int, key: PRNGKeyArray) -> Any:
    """`count` states to start from."""
    return jax.vmap(world.reset)(jax.random.split(key, count))


def walk(world: World, policy: Policy, states: Any, steps: int, key: PRNGKeyArray) -> tuple[Any, Walks]:
    """Act from each of the states; returns where that led to, and the walks."""

    def one(states: Any, key: PRNGKeyArray) -> tuple[Any, Walks]:
        act_key, step_key = jax.random.split(key)
        seen = jax.vmap(world.observe)(states)
        actions = act(policy, seen, act_key)
        states = jax.vmap(world.step)(states, actions, jax.random.split(step_key, len(seen)))
        return states, Walks(seen, actions, jax.vmap(world.observe)(states))

    states, walks = jax.lax.scan(one, states, jax.random.split(key, steps))
    return states, jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), walks)


def stored(replay: Replay, walks: Walks) -> Replay:
    """The replay with every step of the walks."""
    return add(replay, walks.transitions)
