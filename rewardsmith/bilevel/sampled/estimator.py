"""What an estimator of ∇Q − ∇V is: the weights of a scalar whose gradient is the second term.

The second term of the hyper-gradient is (1/τ) E[Σ_h w_h (∇Q − ∇V)(s_h, a_h)] with w_h = l − b_h(s_h). An
estimator writes Σ_h w_h (∇Q − ∇V) as the gradient in x of a sum of rewards with constant coefficients, so
that one backward pass through the reward model gives it and no table of gradients is ever stored.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from ._blocks import over_tuples
from .data import FinitePolicy, LabelledClips, Needs, Policy, Visits

RewardAt = Callable[[Any, Any], Float[Array, ""]]
Features = Callable[[Any, Any], Float[Array, " f"]]
Discount = float | Float[Array, ""]


class Estimator(eqx.Module):
    """How E[Σ_i Σ_h w_h (∇Q − ∇V)(s_h^i, a_h^i)] is estimated."""

    @property
    @abc.abstractmethod
    def needs(self) -> Needs:
        """What must be collected for it."""

    @abc.abstractmethod
    def surrogate(
        self,
        reward_at: RewardAt,
        clips: LabelledClips,
        weights: Float[Array, "B I H"],
        visits: Visits | None,
        policy: Policy,
        discount: Discount,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        """The scalar whose gradient in x is the estimate, summed over the B tuples.

        Args:
            reward_at: r_x of one observation and action; all that depends on x.
            clips: with what `needs` asks for.
            weights: w_h = l − b_h(s_h), constants; times `clips.importance`, where that is given.
            visits: replayed transitions, if `needs` asks for them.
            policy: the follower's.
            discount: γ.
            key: for the policy's fresh actions.
        """


def noise_of_mean(policy: Policy, num_actions: int) -> float:
    """Share of the covariance of f − (its mean over fresh actions) that is the noise of that mean."""
    return 0.0 if isinstance(policy, FinitePolicy) else 1.0 / (num_actions + 1)


def action_features(observation: Any, action: Any) -> Float[Array, " f"]:
    """The action itself: enough where an action's effect is linear in it and the same everywhere."""
    del observation
    return jnp.ravel(action)


def suffix_coefficients(weights: Float[Array, " H"], length: int, discount: Discount) -> Float[Array, " L"]:
    """c_k = Σ_{h < min(k, H)} γ^{k−h} w_h for k = 0 … `length` − 1, by c_{k+1} = γ (c_k + w_k)."""

    def step(carry: Float[Array, ""], weight: Float[Array, ""]) -> tuple[Array, Array]:
        return discount * (carry + weight), carry

    padded = jnp.concatenate([weights, jnp.zeros(length - weights.shape[0], weights.dtype)])
    return jax.lax.scan(step, jnp.zeros((), weights.dtype), padded)[1]


def minus_expected(
    function: Callable[[Any, Any], Float[Array, "..."]],
    observations: Shaped[Array, "B I H ..."],
    actions: Shaped[Array, "B I H ..."],
    policy: Policy,
    num_actions: int,
    key: PRNGKeyArray,
) -> Float[Array, "B I H ..."]:
    """f(s, a) − the mean of f(s, a') over `num_actions` fresh a' ~ π(·|s), at every step.

    Where actions can be counted it is f(s, a) − Σ_a' π(a'|s) f(s, a').
    """

    if isinstance(policy, FinitePolicy):
        del key
        chances = over_tuples(jax.vmap(jax.vmap(policy.probabilities)), observations)

        def exact(observation: Any, action: Any, chance: Float[Array, " A"]) -> Float[Array, "..."]:
            values = jax.vmap(lambda a: function(observation, a))(jnp.arange(chance.shape[0]))
            return values[action] - jnp.tensordot(chance.astype(values.dtype), values, axes=1)

        return over_tuples(jax.vmap(jax.vmap(exact)), observations, actions, jax.lax.stop_gradient(chances))

    def difference(observation: Any, action: Any, key: PRNGKeyArray) -> Float[Array, "..."]:
        fresh = jax.vmap(lambda k: policy.sample(observation, k))(jax.random.split(key, num_actions))
        expected = jnp.mean(jax.vmap(lambda a: function(observation, a))(fresh), axis=0)
        return function(observation, action) - expected

    keys = jax.random.split(key, observations.shape[:3])
    return over_tuples(jax.vmap(jax.vmap(difference)), observations, actions, keys)
