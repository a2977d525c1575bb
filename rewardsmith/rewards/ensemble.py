"""A reward learned from comparisons: an ensemble of small networks, normalised for the follower."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._core import MLP


class RewardEnsemble(eqx.Module):
    """r_x(s, a) = (mean over members of r_m(s, a) − μ) / σ.

    Comparisons tell nothing of a reward's offset, so the follower gets it centred and with unit deviation
    on the states it visits. μ and σ are constants between two calls of `normalise`: no gradient flows into
    them, and ∇r_x is (mean ∇r_m)/σ.

    Args:
        observation_size, action_size: sizes of flat observations and actions.
        hidden: widths of the hidden layers.
        num_members: M.
    """

    networks: MLP
    mean: Float[Array, ""]
    deviation: Float[Array, ""]

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int] = (128, 128),
        num_members: int = 3,
        *,
        key: PRNGKeyArray,
    ):
        sizes = [observation_size + action_size, *hidden, 1]
        self.networks = jax.vmap(lambda k: MLP(sizes, key=k))(jax.random.split(key, num_members))
        self.mean, self.deviation = jnp.zeros(()), jnp.ones(())

    def members(self, observation: Float[Array, " o"], action: Float[Array, " a"]) -> Float[Array, " m"]:
        """Each member's own reward, not normalised."""
        inputs = jnp.concatenate([observation, action])
        return jax.vmap(lambda network: network(inputs)[0])(self.networks)

    def __call__(self, observation: Float[Array, " o"], action: Float[Array, " a"]) -> Float[Array, ""]:
        """The reward the follower maximises, one step."""
        mean, deviation = jax.lax.stop_gradient((self.mean, self.deviation))
        return (jnp.mean(self.members(observation, action)) - mean) / deviation

    def normalise(
        self, observation: Float[Array, "n o"], action: Float[Array, "n a"], least_deviation: float = 1e-3
    ) -> "RewardEnsemble":
        """The same networks with μ and σ measured on the n given steps."""
        rewards = jax.vmap(lambda o, a: jnp.mean(self.members(o, a)))(observation, action)
        moments = jnp.mean(rewards), jnp.maximum(jnp.std(rewards), least_deviation)
        return eqx.tree_at(lambda r: (r.mean, r.deviation), self, moments)
