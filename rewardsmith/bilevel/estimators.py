"""Estimators of ∇Q − ∇V from clips, each as the weights of a scalar whose gradient is the second term.

The second term of the hyper-gradient is (1/τ) E[Σ_h w_h (∇Q − ∇V)(s_h, a_h)] with w_h = l − b_h(s_h). An
estimator writes Σ_h w_h (∇Q − ∇V) as the gradient in x of a sum of rewards with constant coefficients, so
that one backward pass through the reward model gives it and no table of gradients is ever stored.
"""

import abc
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Shaped

from .._core import InputError
from ._ridge import left_out_predictions

RewardAt = Callable[[Any, Any], Float[Array, ""]]
Discount = float | Float[Array, ""]


@runtime_checkable
class Policy(Protocol):
    """What an estimator asks of a follower: fresh actions of π."""

    def sample(self, observation: Any, key: PRNGKeyArray, /) -> Any:
        """One action a ~ π(·|observation)."""
        ...


class Estimator(eqx.Module):
    """How Σ_i Σ_h w_h (∇Q − ∇V)(s_h^i, a_h^i) is estimated from trajectories.

    Attributes:
        further: T, steps of the trajectory it wants behind the clip.
    """

    further: eqx.AbstractVar[int]

    @abc.abstractmethod
    def surrogate(
        self,
        reward_at: RewardAt,
        observations: Shaped[Array, "B I L ..."],
        actions: Shaped[Array, "B I L ..."],
        valid: Bool[Array, "B I L"],
        weights: Float[Array, "B I H"],
        policy: Policy,
        discount: Discount,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        """The scalar whose gradient in x is the estimate, summed over the B tuples.

        Args:
            reward_at: r_x of one observation and action; all that depends on x.
            observations, actions, valid: clips of H steps and the L − H steps behind each; false in `valid`
                behind the end of the episode.
            weights: w_h = l − b_h(s_h), constants.
            policy: the follower's.
            discount: γ.
            key: for the policy's fresh actions.
        """


class OneStep(Estimator):
    """∇Q − ∇V ≈ ∇r(s, a) − E_{a'~π} ∇r(s, a'): what the action changes at once, nothing later.

    The bias is that of γ = 0; it is what published deep implementations of SoBiRL compute. No bias where an
    action has no consequences.

    Args:
        num_actions: fresh actions a' for the expectation.
    """

    further: int = eqx.field(default=0, init=False, static=True)
    num_actions: int = eqx.field(default=4, static=True)

    def __check_init__(self) -> None:
        if self.num_actions < 1:
            raise InputError(f"num_actions is {self.num_actions}; give at least 1")

    def surrogate(self, reward_at, observations, actions, valid, weights, policy, discount, key):
        """See `Estimator.surrogate`."""
        del valid, discount
        horizon = weights.shape[2]
        differences = _minus_expected(
            reward_at, observations[:, :, :horizon], actions[:, :, :horizon], policy, self.num_actions, key
        )
        return jnp.sum(weights * differences)


def _action(observation: Any, action: Any) -> Float[Array, " f"]:
    del observation
    return jnp.ravel(action)


class Suffix(Estimator):
    """∇Q − ∇V from the rewards along the rest of the trajectory, which are a sample of ∇Q:

        Σ_h w_h (∇r(s_h, a_h) − E_{a'~π} ∇r(s_h, a')) + Σ_h c_h Σ_{k>h} γ^{k−h} ∇r(s_k, a_k)

    with c_h an estimate of E[l | s_h, a_h] − E[l | s_h]. The plain w_h = l − b_h would not do for what comes
    later: l and ∇r(s_k, a_k) both depend on the rest of the clip, so for h < H − 1 their product does not
    average to E[l | s_h, a_h] ∇Q, and the error outgrows the term itself. c_h depends on (s_h, a_h) alone.

    c_h is linear in features of (s, a) less their mean over fresh actions, z = f(s, a) − f̄(s): ridge
    regression of w_h on z, one per step h, for each tuple from the others. E[c_h | s_h] = 0 whatever was
    fitted, so what is left out of ∇V adds nothing.

    Bias: γ^T of what was cut off, and the part of E[l | s_h, a_h] and of ∇Q that the features miss, where
    they miss both. With one-hot features of a finite world nothing is missed.

    Args:
        further: T, steps behind the clip. 1/(1 − γ) steps carry 63 % of the sum; variance grows with T.
        num_actions: fresh actions a' for each expectation.
        features: f, of one observation and action; the action itself unless given.
        ridge: weight of the penalty, relative to the number of clips in the batch.
    """

    further: int = eqx.field(default=100, static=True)
    num_actions: int = eqx.field(default=4, static=True)
    features: Callable[[Any, Any], Float[Array, " f"]] = eqx.field(default=_action, static=True)
    ridge: float = eqx.field(default=1e-2, static=True)

    def __check_init__(self) -> None:
        if self.num_actions < 1 or self.further < 0:
            raise InputError("num_actions must be at least 1 and further at least 0")
        if not self.ridge > 0.0:
            raise InputError(f"ridge is {self.ridge}; give a positive number, such as 0.01")

    def surrogate(self, reward_at, observations, actions, valid, weights, policy, discount, key):
        """See `Estimator.surrogate`."""
        now_key, credit_key = jax.random.split(key)
        now = OneStep(self.num_actions).surrogate(
            reward_at, observations, actions, valid, weights, policy, discount, now_key
        )
        credits = self._credits(observations, actions, weights, policy, credit_key)
        rewards = jax.vmap(jax.vmap(jax.vmap(reward_at)))(observations, actions)
        coefficients = jax.vmap(jax.vmap(suffix_coefficients, (0, None, None)), (0, None, None))(
            credits, observations.shape[2], discount
        )
        return now + jnp.sum(jnp.where(valid, coefficients * rewards, 0.0))

    def _credits(
        self,
        observations: Shaped[Array, "B I L ..."],
        actions: Shaped[Array, "B I L ..."],
        weights: Float[Array, "B I H"],
        policy: Policy,
        key: PRNGKeyArray,
    ) -> Float[Array, "B I H"]:
        horizon = weights.shape[2]
        centred = _minus_expected(
            self.features,
            observations[:, :, :horizon],
            actions[:, :, :horizon],
            policy,
            self.num_actions,
            key,
        ).astype(weights.dtype)

        def fit_step(centred: Float[Array, "B I f"], weights: Float[Array, "B I"]) -> Float[Array, "B I"]:
            # Given s, z has 1 + 1/K times the covariance of f: the mean over K fresh actions is noisy too.
            share = 1.0 / (self.num_actions + 1)
            return left_out_predictions(centred, weights, self.ridge, intercept=False, noise_share=share)

        return jax.lax.stop_gradient(jax.vmap(fit_step, 2, 2)(centred, weights))


def suffix_coefficients(weights: Float[Array, " H"], length: int, discount: Discount) -> Float[Array, " L"]:
    """c_k = Σ_{h < min(k, H)} γ^{k−h} w_h for k = 0 … `length` − 1, by c_{k+1} = γ (c_k + w_k)."""

    def step(carry: Float[Array, ""], weight: Float[Array, ""]):
        return discount * (carry + weight), carry

    padded = jnp.concatenate([weights, jnp.zeros(length - weights.shape[0], weights.dtype)])
    return jax.lax.scan(step, jnp.zeros((), weights.dtype), padded)[1]


def _minus_expected(
    function: Callable[[Any, Any], Float[Array, "..."]],
    observations: Shaped[Array, "B I H ..."],
    actions: Shaped[Array, "B I H ..."],
    policy: Policy,
    num_actions: int,
    key: PRNGKeyArray,
) -> Float[Array, "B I H ..."]:
    """f(s, a) − the mean of f(s, a') over `num_actions` fresh a' ~ π(·|s), at every step."""

    def difference(observation: Any, action: Any, key: PRNGKeyArray) -> Float[Array, "..."]:
        fresh = jax.vmap(lambda k: policy.sample(observation, k))(jax.random.split(key, num_actions))
        expected = jnp.mean(jax.vmap(lambda a: function(observation, a))(fresh), axis=0)
        return function(observation, action) - expected

    keys = jax.random.split(key, observations.shape[:3])
    return jax.vmap(jax.vmap(jax.vmap(difference)))(observations, actions, keys)
