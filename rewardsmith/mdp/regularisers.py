"""What makes the follower's best answer unique and smooth: a strongly convex penalty on its policy.

    V(s) = max over π of  Σ_a π(a) Q(s,a) − τ Ω_s(π),      π(·|s) its argmax

The derivative of V in Q is π (the envelope theorem), whatever Ω; so one implicit differentiation serves all.

Geist, Scherrer and Pietquin, "A theory of regularized Markov decision processes", ICML 2019.
"""

import abc
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .._core import InputError, as_floats

Temperature = Float[Array, ""] | float


class Regulariser(eqx.Module):
    """Ω, by its maximal value and maximising policy. Abstract; one row a state, rows apart.

    Source: Geist, Scherrer and Pietquin, "A theory of regularized Markov decision processes", ICML 2019.
    """

    @abc.abstractmethod
    def value(self, q_values: Float[Array, "*S A"], temperature: Temperature) -> Float[Array, "*S"]:
        """V; tends to max_a Q as τ → 0, without overflow on the way.

        Args:
            q_values: Q, (*S, A), in units of reward.
            temperature: τ > 0, in units of reward.
        """

    @abc.abstractmethod
    def policy(self, q_values: Float[Array, "*S A"], temperature: Temperature) -> Float[Array, "*S A"]:
        """π; rows sum to 1, greedy (ties shared) as τ → 0.

        Args:
            q_values: Q, (*S, A), in units of reward.
            temperature: τ > 0, in units of reward.
        """

    @abc.abstractmethod
    def penalty(self, policy: Float[Array, "*S A"]) -> Float[Array, "*S"]:
        """Ω of each row.

        Args:
            policy: π, (*S, A), rows sum to 1.
        """

    @abc.abstractmethod
    def sensitivity(
        self, policy: Float[Array, "*S A"], cotangent: Float[Array, "*S A"]
    ) -> Float[Array, "*S A"]:
        """τ (∂π/∂Q)ᵀ g, row by row, told from π alone; symmetric, so it serves dQ as well.

        Args:
            policy: π, (*S, A), rows sum to 1.
            cotangent: g, (*S, A).
        """


class Shannon(Regulariser):
    """Negative entropy, Ω(π) = Σ_a π log π: V = τ log Σ_a exp(Q/τ), π = exp((Q − V)/τ).

    Source: Geist, Scherrer and Pietquin, "A theory of regularized Markov decision processes", ICML 2019.
    """

    def value(self, q_values: Float[Array, "*S A"], temperature: Temperature) -> Float[Array, "*S"]:
        """See `Regulariser.value`."""
        # V does not depend on the pivot, so nothing is lost by holding it still, and ties cost no gradient.
        pivot = jax.lax.stop_gradient(jnp.max(q_values, axis=-1, keepdims=True))
        scaled = jnp.exp((q_values - pivot) / temperature)
        return pivot[..., 0] + temperature * jnp.log(jnp.sum(scaled, axis=-1))

    def policy(self, q_values: Float[Array, "*S A"], temperature: Temperature) -> Float[Array, "*S A"]:
        """See `Regulariser.policy`."""
        # Before the division: Q/τ overflows for small τ, the difference only underflows.
        pivot = jax.lax.stop_gradient(jnp.max(q_values, axis=-1, keepdims=True))
        return jax.nn.softmax((q_values - pivot) / temperature, axis=-1)

    def penalty(self, policy: Float[Array, "*S A"]) -> Float[Array, "*S"]:
        """See `Regulariser.penalty`."""
        return jnp.sum(_times_log(policy, policy), axis=-1)

    def sensitivity(
        self, policy: Float[Array, "*S A"], cotangent: Float[Array, "*S A"]
    ) -> Float[Array, "*S A"]:
        """See `Regulariser.sensitivity`."""
        return _softmax_sensitivity(policy, cotangent)


class KullbackLeibler(Regulariser):
    """Divergence from a reference policy μ, Ω_s(π) = Σ_a π log(π/μ): π ∝ μ exp(Q/τ).

    V = τ log Σ_a μ exp(Q/τ). What language models are tuned with. Actions with μ = 0 are forbidden, so it
    masks actions too.

    Source: Geist, Scherrer and Pietquin, "A theory of regularized Markov decision processes", ICML 2019.

    Args:
        reference: μ, (S, A); rows sum to 1.

    Raises:
        InputError: a row is not a distribution.
    """

    reference: Float[Array, "*S A"]

    def __init__(self, reference: ArrayLike | Sequence[object]):
        self.reference = as_floats("reference", reference)
        if self.reference.ndim != 2:
            raise InputError(f"reference has shape {self.reference.shape}; give (states, actions)")
        if not isinstance(self.reference, Tracer):
            mu = np.asarray(self.reference)
            sums = mu.sum(axis=1, dtype=np.float64)
            # Written so that NaN fails.
            bad = ~((mu >= 0).all(axis=1) & (abs(sums - 1) <= 1e-5))
            if bad.any():
                s = int(np.argmax(bad))
                raise InputError(
                    f"reference[{s}] is no distribution (sum {sums[s]:.6g}); divide each row by its sum"
                )

    def value(self, q_values: Float[Array, "*S A"], temperature: Temperature) -> Float[Array, "*S"]:
        """See `Regulariser.value`."""
        pivot, weights = self._weights(q_values, temperature)
        return pivot[..., 0] + temperature * jnp.log(jnp.sum(weights, axis=-1))

    def policy(self, q_values: Float[Array, "*S A"], temperature: Temperature) -> Float[Array, "*S A"]:
        """See `Regulariser.policy`."""
        _, weights = self._weights(q_values, temperature)
        return weights / jnp.sum(weights, axis=-1, keepdims=True)

    def penalty(self, policy: Float[Array, "*S A"]) -> Float[Array, "*S"]:
        """See `Regulariser.penalty`."""
        allowed = self.reference > 0
        ratio = policy / jnp.where(allowed, self.reference, 1.0)
        return jnp.sum(jnp.where(allowed, _times_log(policy, ratio), 0.0), axis=-1)

    def sensitivity(
        self, policy: Float[Array, "*S A"], cotangent: Float[Array, "*S A"]
    ) -> Float[Array, "*S A"]:
        """See `Regulariser.sensitivity`."""
        return _softmax_sensitivity(policy, cotangent)

    def _weights(self, q_values: Array, temperature: Temperature) -> tuple[Array, Array]:
        allowed = self.reference > 0
        pivot = jax.lax.stop_gradient(jnp.max(jnp.where(allowed, q_values, -jnp.inf), axis=-1, keepdims=True))
        # A forbidden action may be worth much: taken out before exp, or 0·∞ would be its gradient.
        gap = jnp.where(allowed, q_values - pivot, 0.0)
        return pivot, self.reference * jnp.exp(gap / temperature)


class Tsallis(Regulariser):
    """Tsallis entropy of index 2, Ω(π) = ½ (Σ_a π² − 1): π = sparsemax(Q/τ), exactly zero for bad actions.

    π is piecewise linear in Q: its derivative exists but where an action enters or leaves the support.

    Sources: Lee, Choi and Oh, RA-L 2018 (arXiv 1709.06293); Martins and Astudillo, ICML 2016.
    """

    def value(self, q_values: Float[Array, "*S A"], temperature: Temperature) -> Float[Array, "*S"]:
        """See `Regulariser.value`."""
        return _sparse_value(q_values, jnp.asarray(temperature, q_values.dtype))

    def policy(self, q_values: Float[Array, "*S A"], temperature: Temperature) -> Float[Array, "*S A"]:
        """See `Regulariser.policy`."""
        pivot = jax.lax.stop_gradient(jnp.max(q_values, axis=-1, keepdims=True))
        scaled = (q_values - pivot) / temperature
        falling = -jnp.sort(-scaled, axis=-1)
        ranks = jnp.arange(1, scaled.shape[-1] + 1, dtype=scaled.dtype)
        inside = 1 + ranks * falling > jnp.cumsum(falling, axis=-1)
        # Sorting serves only to find how many actions are in; the rest is linear in Q.
        size = jnp.sum(inside, axis=-1, keepdims=True)
        last = jax.lax.stop_gradient(jnp.take_along_axis(falling, size - 1, axis=-1))
        support = jax.lax.stop_gradient(scaled) >= last
        count = jnp.sum(support, axis=-1, keepdims=True)
        threshold = (jnp.sum(jnp.where(support, scaled, 0.0), axis=-1, keepdims=True) - 1) / count
        return jnp.where(support, jnp.maximum(scaled - threshold, 0.0), 0.0)

    def penalty(self, policy: Float[Array, "*S A"]) -> Float[Array, "*S"]:
        """See `Regulariser.penalty`."""
        return 0.5 * (jnp.sum(policy**2, axis=-1) - 1)

    def sensitivity(
        self, policy: Float[Array, "*S A"], cotangent: Float[Array, "*S A"]
    ) -> Float[Array, "*S A"]:
        """See `Regulariser.sensitivity`."""
        inside = (policy > 0).astype(policy.dtype)
        mean = jnp.sum(inside * cotangent, axis=-1, keepdims=True) / jnp.sum(inside, axis=-1, keepdims=True)
        return inside * (cotangent - mean)


@jax.custom_jvp
def _sparse_value(q_values: Array, temperature: Array) -> Array:
    policy = Tsallis().policy(q_values, temperature)
    pivot = jnp.max(q_values, axis=-1, keepdims=True)
    # Σ π Q with the largest Q taken out first: as τ → 0 the rest is small and rounds less.
    best = pivot[..., 0] + jnp.sum(policy * (q_values - pivot), axis=-1)
    return best - temperature * Tsallis().penalty(policy)


@_sparse_value.defjvp
def _sparse_value_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    q_values, temperature = primals
    policy = Tsallis().policy(q_values, temperature)
    moved = jnp.sum(policy * tangents[0], axis=-1) - tangents[1] * Tsallis().penalty(policy)
    return _sparse_value(q_values, temperature), moved


def _softmax_sensitivity(policy: Array, cotangent: Array) -> Array:
    return policy * (cotangent - jnp.sum(policy * cotangent, axis=-1, keepdims=True))


def _times_log(factor: Array, argument: Array) -> Array:
    """factor·log(argument), 0 where the factor is, in value and gradient."""
    positive = factor > 0
    return jnp.where(positive, factor * jnp.log(jnp.where(positive, argument, 1.0)), 0.0)
