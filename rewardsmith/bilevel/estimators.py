"""Estimators of ∇Q − ∇V from clips, each as the weights of a scalar whose gradient is the second term.

The second term of the hyper-gradient is (1/τ) E[Σ_h w_h (∇Q − ∇V)(s_h, a_h)] with w_h = l − b_h(s_h). An
estimator writes Σ_h w_h (∇Q − ∇V) as the gradient in x of a sum of rewards with constant coefficients, so
that one backward pass through the reward model gives it and no table of gradients is ever stored.
"""

import abc
from collections.abc import Callable
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Shaped

from .._core import InputError


class Policy(Protocol):
    """What an estimator asks of a follower: fresh actions of π."""

    def sample(self, observation: Any, key: PRNGKeyArray, /) -> Any:
        """One action a ~ π(·|observation)."""
        ...


class Estimator(eqx.Module):
    """How Σ_h w_h (∇Q − ∇V)(s_h, a_h) is estimated along one trajectory.

    Attributes:
        further: T, steps of the trajectory it wants behind the clip.
    """

    further: eqx.AbstractVar[int]

    @abc.abstractmethod
    def surrogate(
        self,
        reward_at: Callable[[Any, Any], Float[Array, ""]],
        observations: Shaped[Array, "L ..."],
        actions: Shaped[Array, "L ..."],
        valid: Bool[Array, " L"],
        weights: Float[Array, " H"],
        policy: Policy,
        discount: float,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        """The scalar whose gradient in x is the estimate.

        Args:
            reward_at: r_x of one observation and action; all that depends on x.
            observations, actions, valid: a clip of H steps and the L − H steps behind it; false in `valid`
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
        horizon = weights.shape[0]
        return _one_step(
            reward_at, observations[:horizon], actions[:horizon], weights, policy, self.num_actions, key
        )


class Suffix(Estimator):
    """∇Q from the discounted rewards along the rest of the trajectory, ∇V left to the baseline.

        ∇Q(s_h, a_h) − ∇V(s_h) ≈ ∇r(s_h, a_h) − E_{a'~π} ∇r(s_h, a') + Σ_{k>h} γ^{k−h} ∇r(s_k, a_k)

    What is left out of ∇V is a function of s_h, so it adds nothing when the baseline b_h(s_h) is E[l | s_h]:
    use a baseline that is learned. The subtracted expectation is such a function too; it is there because
    it lowers the variance. The sum ends with the trajectory: bias γ^T of what was cut off.

    Args:
        further: T, steps behind the clip. 1/(1 − γ) steps carry 63 % of the sum; variance grows with T.
        num_actions: fresh actions a' for the expectation.
    """

    further: int = eqx.field(default=100, static=True)
    num_actions: int = eqx.field(default=4, static=True)

    def __check_init__(self) -> None:
        if self.num_actions < 1 or self.further < 0:
            raise InputError("num_actions must be at least 1 and further at least 0")

    def surrogate(self, reward_at, observations, actions, valid, weights, policy, discount, key):
        """See `Estimator.surrogate`."""
        horizon = weights.shape[0]
        now = _one_step(
            reward_at, observations[:horizon], actions[:horizon], weights, policy, self.num_actions, key
        )
        coefficients = suffix_coefficients(weights, observations.shape[0], discount)
        rewards = jax.vmap(reward_at)(observations, actions)
        return now + jnp.sum(jnp.where(valid, coefficients * rewards, 0.0))


def suffix_coefficients(weights: Float[Array, " H"], length: int, discount: float) -> Float[Array, " L"]:
    """c_k = Σ_{h < min(k, H)} γ^{k−h} w_h for k = 0 … `length` − 1, by c_{k+1} = γ (c_k + w_k)."""

    def step(carry: Float[Array, ""], weight: Float[Array, ""]):
        return discount * (carry + weight), carry

    padded = jnp.concatenate([weights, jnp.zeros(length - weights.shape[0], weights.dtype)])
    return jax.lax.scan(step, jnp.zeros((), weights.dtype), padded)[1]


def _one_step(
    reward_at: Callable[[Any, Any], Float[Array, ""]],
    observations: Shaped[Array, "H ..."],
    actions: Shaped[Array, "H ..."],
    weights: Float[Array, " H"],
    policy: Policy,
    num_actions: int,
    key: PRNGKeyArray,
) -> Float[Array, ""]:
    def advantage(observation: Any, action: Any, step_key: PRNGKeyArray) -> Float[Array, ""]:
        fresh = jax.vmap(lambda k: policy.sample(observation, k))(jax.random.split(step_key, num_actions))
        expected = jnp.mean(jax.vmap(lambda a: reward_at(observation, a))(fresh))
        return reward_at(observation, action) - expected

    keys = jax.random.split(key, weights.shape[0])
    return jnp.sum(weights * jax.vmap(advantage)(observations, actions, keys))
