"""Unsupervised exploration in front of the first comparisons: what PEBBLE adds to DRLHF."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from ..agents import SAC, Replay, SACState, SACStats, Transition, add, exploration_rewards, sample
from .config import TrainConfig
from .lanes import Lanes

_VISITED = 1024


class Exploration:
    """Its compiled program: the policy learns to be where it has not been.

    The reward of a transition is the distance from s' to the k-th nearest of 1,024 states drawn from the
    replay, in units of the mean of its batch. Nothing of it is stored. Departs from the paper, where the
    neighbours are sought among all states and the scale is a running one.

    Source: Lee, Smith and Abbeel, ICML 2021, arXiv 2106.05091.

    Args:
        sac: the follower.
        config: settings.
        lanes: how many runs go side by side.
    """

    def __init__(self, sac: SAC, config: TrainConfig, lanes: Lanes):
        self._sac, self._config = sac, config
        self.learn = jax.jit(lanes.lift(self.update), donate_argnums=(0, 1))

    def update(
        self, followers: tuple[SACState, ...], replay: Replay, transitions: Transition, key: PRNGKeyArray
    ) -> tuple[tuple[SACState, ...], Replay, SACStats]:
        """Store one step of all environments, then update the policy for the reward of exploring."""
        config = self._config
        replay = add(replay, transitions)
        visited_key, batch_key, noise_key = jax.random.split(key, 3)
        visited = sample(replay, visited_key, (_VISITED,)).observation
        shape = (config.updates_per_iteration, config.batch_size)
        batches = sample(replay, batch_key, shape)
        rewards = jax.vmap(partial(exploration_rewards, visited=visited, neighbours=config.neighbours))(
            batches.next_observation
        )
        noise = jax.random.normal(noise_key, (*shape, 2, followers[0].policy.noise_size))

        def body(state: SACState, inputs: tuple[Transition, Array, Array]) -> tuple[SACState, SACStats]:
            return self._sac.update_on_batch(state, *inputs)

        follower, stats = jax.lax.scan(body, followers[0], (batches, rewards, noise))
        return (follower, *followers[1:]), replay, jax.tree.map(jnp.mean, stats)


def with_fresh_critics(follower: SACState, fresh: SACState) -> SACState:
    """The policy of `follower` with the critics of `fresh`: those it has value another reward."""
    names = ("critic", "target_critic", "critic_optimiser")
    return eqx.tree_at(
        lambda state: [getattr(state, name) for name in names],
        follower,
        [getattr(fresh, name) for name in names],
        is_leaf=lambda leaf: leaf is None,
    )
