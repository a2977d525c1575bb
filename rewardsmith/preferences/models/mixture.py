"""Labellers of several minds: K groups with rewards of their own, told apart by what they answer."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._core import InputError
from .base import Prediction, PreferenceModel, ScoreModel
from .scores import PartialReturn

_SWEEPS = 20


class Mixture(PreferenceModel):
    """P = Σ_k q_k P_k: each of K groups has rewards of its own, and q says to which a labeller belongs.

    Predictions have K rewards a member. With q held still from the last expectation step, the loss is that of
    the maximisation step, Σ_k q_k l_k; without, −log Σ_k P(y)_k/K, as if each answer were by someone new.

    Source: Chakraborty et al., *MaxMin-RLHF*, ICML 2024, arXiv 2402.08925. Departures: the groups' models
    share what lies before their last layer; q is soft; gradient steps in place of full maximisation.

    Args:
        groups: K >= 2.
        each: the model of one group, with its noise; with a margin, each group's members have their own.

    Raises:
        InputError: fewer than two groups.
    """

    groups: int = eqx.field(default=2, static=True)
    each: ScoreModel = PartialReturn()

    def __check_init__(self) -> None:
        if self.groups < 2:
            raise InputError(f"groups is {self.groups}; give at least 2, or another preference model")

    def loss(
        self,
        first: Prediction,
        second: Prediction,
        label: Float[Array, ""],
        groups: Float[Array, " K"] | None = None,
    ) -> Float[Array, ""]:
        """See `PreferenceModel.loss`."""
        losses = self.each.losses(first, second, label)
        if groups is None:
            return -jnp.mean(jax.nn.logsumexp(-losses, axis=1) - jnp.log(self.groups))
        return jnp.mean(losses @ groups.astype(losses.dtype))

    def probability(
        self, first: Prediction, second: Prediction, groups: Float[Array, " K"] | None = None
    ) -> Float[Array, " M"]:
        """See `PreferenceModel.probability`; without `groups`, of a labeller who may belong to any."""
        probabilities = self.each.probabilities(first, second)
        if groups is None:
            return jnp.mean(probabilities, axis=1)
        return probabilities @ groups.astype(probabilities.dtype)

    def log_likelihoods(
        self, first: Prediction, second: Prediction, label: Float[Array, ""]
    ) -> Float[Array, " K"]:
        """log P(y) if whoever answered belongs to group k, its mean over members (nats).

        Args:
            first: of one pair of clips.
            second: of one pair of clips.
            label: y in [0, 1].
        """
        return -jnp.mean(self.each.losses(first, second, label), axis=0)


def responsibilities(log_likelihood: Float[Array, "L K"], prior: Float[Array, " K"]) -> Float[Array, "L K"]:
    """q: how likely labeller l belongs to group k, given all answers of l. The expectation step.

        q_lk ∝ p_k exp(log_likelihood_lk)

    Args:
        log_likelihood: the sum over a labeller's answers of their log-probability in each group, nats.
        prior: p, the groups' sizes.
    """
    return jax.nn.softmax(log_likelihood + jnp.log(prior), axis=1)


def group_sizes(log_likelihood: Float[Array, "L K"]) -> Float[Array, " K"]:
    """p that goes with the responsibilities it gives: its own maximisation step, until it stands.

    One labeller is added to each group, so that none dies out.

    Args:
        log_likelihood: (L, K), the sum over a labeller's answers of their log-probability in each group,
            nats.
    """
    labellers, groups = log_likelihood.shape

    def sweep(prior: Float[Array, " K"], _: None) -> tuple[Float[Array, " K"], None]:
        belonging = jnp.sum(responsibilities(log_likelihood, prior), axis=0)
        return (belonging + 1.0) / (labellers + groups), None

    start = jnp.full(groups, 1.0 / groups, log_likelihood.dtype)
    return jax.lax.scan(sweep, start, None, length=_SWEEPS)[0]


def min_max_weights(
    weights: Float[Array, " K"], gains: Float[Array, " K"], step_size: float = 0.5
) -> Float[Array, " K"]:
    """w for the policy's next reward Σ_k w_k r_k: more for the group that has least of the policy of now.

        w_k ∝ w_k exp(−step_size · gain_k)

    Multiplicative weights against a policy that answers best: their averages approach the max–min of the
    gains over policies and groups (Freund and Schapire, *Games and Economic Behavior* 29, 1999).

    Args:
        weights: of now; need not sum to 1.
        gains: what each group has of the policy, in a unit that is fair between groups.
        step_size: larger is quicker, and swings by more.
    """
    return jax.nn.softmax(jnp.log(weights) - step_size * gains)
