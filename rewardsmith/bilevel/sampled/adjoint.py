"""The adjoint estimator: what comes later, from replayed transitions under a fitted signed density."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from ..._core import InputError
from ._blocks import over_tuples
from .data import FinitePolicy, LabelledClips, Needs, Policy, Visits
from .estimator import Discount, Estimator, Features, RewardAt, minus_expected
from .features import RandomFeatures

Equation = Literal["projected", "least-squares"]


class FittedAdjoint(Estimator):
    """Σ w (∇Q − ∇V) as one signed sum of ∇r over replayed transitions, their weights fitted.

    With the signed measure of the clips, b = E Σ_i Σ_h w_h (δ_{s_h,a_h} − δ_{s_h} ⊗ π), the second term is
    (1/τ)⟨b, ∇Q⟩, and ∇Q = (I − γP^π)⁻¹ ∇r, so that

        ⟨b, ∇Q⟩ = ⟨(I − γP^π)⁻ᵀ b, ∇r⟩ = E_D[ω ∇r],    E_D[ω (f − γP^π f)] = ⟨b, f⟩ for every f,

    where D is the law of the replay and ω a density on it, the part that the adjoint w plays in the exact
    hyper-gradient. No roll-outs, no trajectories, transitions of any policy. ψ' below is the mean of
    ψ(s', a') over fresh actions of π, 0 where s' ended the episode.

    `equation="projected"`: ω = uᵀψ, the condition asked of f in the span of ψ alone:

        E_D[(ψ − γψ') ψᵀ] u = ⟨b, ψ⟩

    Linear in ψ', so one sample of s' suffices. It is exact if either ∇Q or ω lies in the span of ψ:
    if ∇Q = Θψ,  ⟨b, ∇Q⟩ = Θ⟨b, ψ⟩ = E_D[ω (∇Q − γP^π ∇Q)] = E_D[ω ∇r], whatever ω is;
    if the true ω is uᵀψ, it meets the condition for every f, ψ too, so it is the one solution.

    `equation="least-squares"`: ω = ν − γν', where ν = uᵀψ minimises

        ½ E_D[(ν(s, a) − γν(s', a'₁)) (ν(s, a) − γν(s', a'₂))] − ⟨b, ν⟩

    with a'₁, a'₂ independent. But both actions share s', so that γ² E_D Var_{s'}[E_{a'} ν(s', a')] comes on
    top: for worlds that are deterministic. In others the bias stays however much is sampled. With few visits
    the sampled form need not be positive, and can be near singular.

    Bias: that, what the features miss, and of order ridge and 1/visits. D must reach what the follower does.
    Source of the least-squares form: Nachum et al., *DualDICE*, NeurIPS 2019; of the projected one: its
    optimality condition, solved as in least-squares temporal differences (Bradtke and Barto, 1996).

    Args:
        features: ψ, of one observation and action; scaled here to unit deviation.
        visits: transitions a leader step.
        ridge: added to the diagonal of the system, the features being of unit deviation.
        num_actions: fresh actions for each expectation under π.
        equation: which of the two.

    Raises:
        InputError: no visits or actions, a ridge that is not positive, or another `equation`.
    """

    features: Features = eqx.field(default=RandomFeatures(), static=True)
    visits: int = eqx.field(default=4096, static=True)
    ridge: float = eqx.field(default=1e-3, static=True)
    num_actions: int = eqx.field(default=4, static=True)
    equation: Equation = eqx.field(default="projected", static=True)

    def __check_init__(self) -> None:
        if self.visits < 1 or self.num_actions < 1:
            raise InputError(
                f"visits is {self.visits} and num_actions {self.num_actions}; give at least 1 of both"
            )
        if not self.ridge > 0.0:
            raise InputError(f"ridge is {self.ridge}; give a positive number, such as 0.001")
        if self.equation not in ("projected", "least-squares"):
            raise InputError(f'equation is "{self.equation}"; give "projected" or "least-squares"')

    @property
    def needs(self) -> Needs:
        """See `Estimator.needs`: replayed transitions."""
        return Needs(visits=self.visits)

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
        """See `Estimator.surrogate`."""
        assert visits is not None, "Needs.visits"
        clip_key, next_key = jax.random.split(key)
        horizon = weights.shape[2]
        centred = minus_expected(
            self.features,
            clips.observations[:, :, :horizon],
            clips.actions[:, :, :horizon],
            policy,
            self.num_actions,
            clip_key,
        )
        target = jnp.einsum("bih,bihf->f", weights, centred.astype(weights.dtype))
        here = jax.vmap(self.features)(visits.observations, visits.actions).astype(weights.dtype)
        first, second = self._next_features(visits, policy, next_key).astype(weights.dtype)
        if self.equation == "projected":
            density = projected_density(
                here, 0.5 * (first + second), visits.weights, target, discount, self.ridge
            )
        else:
            density = least_squares_density(here, first, second, visits.weights, target, discount, self.ridge)
        rewards = over_tuples(reward_at, visits.observations, visits.actions)
        return jnp.sum(jax.lax.stop_gradient(visits.weights * density) * rewards)

    def _next_features(self, visits: Visits, policy: Policy, key: PRNGKeyArray) -> Float[Array, "2 N f"]:
        """Two independent means over fresh actions, or twice the sum over all."""

        def expected(observation: Array, keys: Key[Array, "2 K"]) -> Float[Array, "2 f"]:
            if isinstance(policy, FinitePolicy):
                probabilities = policy.probabilities(observation)
                actions = jnp.arange(probabilities.shape[0])
                mean = probabilities @ jax.vmap(lambda a: self.features(observation, a))(actions)
                return jnp.stack([mean, mean])
            one = jax.vmap(lambda k: self.features(observation, policy.sample(observation, k)))
            return jnp.mean(jax.vmap(one)(keys), axis=1)

        keys = jax.random.split(key, (visits.terminated.shape[0], 2, self.num_actions))
        features = over_tuples(expected, visits.next_observations, keys).swapaxes(0, 1)
        return jnp.where(visits.terminated[:, None], 0.0, features)


def projected_density(
    here: Float[Array, "N f"],
    there: Float[Array, "N f"],
    weights: Float[Array, " N"],
    target: Float[Array, " f"],
    discount: Discount,
    ridge: float,
) -> Float[Array, " N"]:
    """ω = uᵀψ at each of N transitions, where (E_D[(ψ − γψ') ψᵀ] + ridge) u = ⟨b, ψ⟩.

    Args:
        here: ψ.
        there: ψ', its mean under π a step later.
        weights: D, of sum 1.
        target: ⟨b, ψ⟩.
        discount: γ.
        ridge: in units of ψ's deviation, to which all is scaled; 0 where the system is regular.
    """
    scale = _deviation(here, weights)
    here, there, target = here / scale, there / scale, target / scale
    moments = ((here - discount * there) * weights[:, None]).T @ here
    return here @ _solve(moments, target, ridge)


def least_squares_density(
    here: Float[Array, "N f"],
    first: Float[Array, "N f"],
    second: Float[Array, "N f"],
    weights: Float[Array, " N"],
    target: Float[Array, " f"],
    discount: Discount,
    ridge: float,
) -> Float[Array, " N"]:
    """ω = ν − γν' at each of N transitions, ν = uᵀψ the minimiser of ½E_D[(ν − γν'₁)(ν − γν'₂)] − ⟨b, ν⟩.

    Args:
        here: ψ.
        first, second: ψ'₁ and ψ'₂, means over independent actions a step later; ν' is the mean of both.
        weights, target, discount, ridge: as in `projected_density`.
    """
    scale = _deviation(here, weights)
    target = target / scale
    residuals = [(here - discount * there) / scale for there in (first, second)]
    moments = (residuals[0] * weights[:, None]).T @ residuals[1]
    return 0.5 * (residuals[0] + residuals[1]) @ _solve(0.5 * (moments + moments.T), target, ridge)


def _solve(moments: Float[Array, "f f"], target: Float[Array, " f"], ridge: float) -> Float[Array, " f"]:
    return jnp.linalg.solve(moments + ridge * jnp.eye(target.shape[0], dtype=target.dtype), target)


def _deviation(features: Float[Array, "N f"], weights: Float[Array, " N"]) -> Float[Array, " f"]:
    """Standard deviation of each under D; 1 for a constant."""
    deviation = jnp.sqrt(weights @ (features - weights @ features) ** 2)
    return jnp.where(deviation > 1e-6, deviation, 1.0)
