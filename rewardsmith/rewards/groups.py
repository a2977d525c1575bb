"""Rewards of several groups of people, and the one reward that the follower is given of them."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped, UInt8

from .._core import InputError
from .ensemble import Output, check_output, prepared
from .networks import LearnedReward, RewardNetwork, moments


class GroupEnsemble(LearnedReward):
    """r_x(s, a) = Σ_k w_k r_k(s, a): K rewards a member, each normalised or cut as by `RewardEnsemble`.

    w, which sums to 1, and the groups' μ and σ are constants between two calls of `weighed` and `normalise`.
    Each group counts by its own deviation: who states preferences more sharply has no larger say for it.

    Args:
        networks: M of width K >= 2, by `make_networks`.
        output: "normalise", "clamp" or "raw".
        visible: see `visible_pixels`.

    Raises:
        InputError: networks of fewer than two groups.
    """

    networks: RewardNetwork
    weights: Float[Array, " k"]
    mean: Float[Array, " k"]
    deviation: Float[Array, " k"]
    visible: UInt8[Array, "h w 1"] | None
    output: Output = eqx.field(static=True)

    def __init__(
        self,
        networks: RewardNetwork,
        *,
        output: Output = "normalise",
        visible: UInt8[Array, "h w 1"] | None = None,
    ):
        check_output(output)
        groups = networks.width
        if groups is None or groups < 2:
            raise InputError(f"networks have width {groups}; give at least 2 groups, or a RewardEnsemble")
        self.networks, self.visible = networks, visible
        self.weights = jnp.full(groups, 1.0 / groups)
        self.mean, self.deviation = jnp.zeros(groups), jnp.ones(groups)
        self.output = output

    def __call__(self, observation: Shaped[Array, "*o"], action: Shaped[Array, "*a"]) -> Float[Array, ""]:
        """See `LearnedReward.__call__`."""
        rewards = prepared(self.of_groups(observation, action), self.mean, self.deviation, self.output)
        weights = jax.lax.stop_gradient(self.weights)
        # An optimiser that decays what it moves has shrunk them all alike.
        return jnp.vdot(weights / jnp.sum(weights), rewards)

    def of_groups(self, observation: Shaped[Array, "*o"], action: Shaped[Array, "*a"]) -> Float[Array, " k"]:
        """Each group's reward of one step, the mean over members, neither normalised nor cut.

        Args:
            observation: of one step.
            action: of the same step.
        """
        return jnp.mean(self.members(observation, action), axis=0)

    def normalise(
        self, observation: Shaped[Array, "n *o"], action: Shaped[Array, "n *a"], least_deviation: float = 1e-3
    ) -> "GroupEnsemble":
        """See `LearnedReward.normalise`: each group's μ and σ, and the moments of "batch" norms."""
        x = self.measured(observation)
        rewards = jax.vmap(lambda o, a: jnp.mean(x.members(o, a), axis=0))(observation, action)
        found = moments(rewards, least_deviation)
        return eqx.tree_at(lambda r: (r.mean, r.deviation), x, found)

    def weighed(self, weights: Float[Array, " k"]) -> "GroupEnsemble":
        """The same with other weights."""
        return eqx.tree_at(lambda r: r.weights, self, weights.astype(self.weights.dtype))
