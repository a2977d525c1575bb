"""PARL: the second term from the curvature of the follower's value in its policy parameters."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..._core import InputError
from ...problem import AnyProblem
from ._blocks import over_tuples
from ._scores import Curvature, draw_curvature, log_probs, parameters, powers
from .baselines import Baseline, ConstantBaseline, LinearBaseline
from .data import Evidence, Follower, LabelledClips, Needs
from .leader import Leader, LeaderState, LeaderStats, check_mixture, descend, mixed, start
from .terms import centred_losses, first_term

# Conjugate gradients stop here: float32 has no more to give.
_LEAST_SHIFT = 1e-12
_TOLERANCE = 1e-6


class SampledPARL(Leader):
    """Policy alignment in RL: implicit differentiation in the parameters θ of the follower's network.

        ∇φ = ∂f/∂x + (∂²_{xθ}V) v,      (−∂²_{θθ}V + δ c I) v = ∂f/∂θ

    V(x, θ) is what the follower maximises, its entropy included. With g = ∇_θ log π and w = l − b,

        ∂f/∂θ = E[Σ_i Σ_h w_h g_h]
        (∂²_{xθ}V) v = E[Σ_k γ^k ∇r(s_k, a_k) Σ_{j≤k} g_j·v]
        −∂²_{θθ}V = τ E[Σ_k γ^k F(s_k)],     F(s) = E_{a~π}[g gᵀ]

    the last at the soft optimum, where Q − τ log π is the same for all actions; elsewhere it stands for the
    curvature and stays positive semidefinite, which the curvature itself need not. V starts where clips
    start. No F is stored: conjugate gradients on products of F, sampled in some states of the clips, with
    fresh actions. c = tr(τ E[Σ γ^k F]) / (states sampled, or parameters, if fewer), the mean curvature of
    the directions that were seen; in all others δ alone holds v.

    v comes from one half of the tuples and meets the other: a score that meets itself does not average out,
    and in a network of more parameters than samples it would outweigh the term. Of a batch of odd size the
    last tuple has no part in this.

    Bias: γ^(H + T) of what was cut off, δ, which shrinks the second term, and a policy that is not optimal.

    Source: Chakraborty et al., ICLR 2024, arXiv 2308.02585. Departures: the entropy of the follower; the
    Fisher matrix for its Hessian; damping; halves; baselines of w and of Σ g·v.

    Args:
        optimiser: turns the gradient into a step of x.
        baseline: b_h(s_h) of ∂f/∂θ.
        further: T, steps behind the clip.
        damping: δ > 0, without unit.
        cg_steps: of conjugate gradients, at most.
        curvature_batch: states in which F is sampled.
        weight, bound: of the second term, as in `SoBiRL`.

    Raises:
        InputError: a number of steps or a damping below what it can be, or a batch of 1.
    """

    optimiser: optax.GradientTransformation = eqx.field(static=True)
    baseline: Baseline = LinearBaseline()
    further: int = eqx.field(default=100, static=True)
    damping: float = eqx.field(default=0.1, static=True)
    cg_steps: int = eqx.field(default=10, static=True)
    curvature_batch: int = eqx.field(default=256, static=True)
    weight: float = eqx.field(default=1.0, static=True)
    bound: float | None = eqx.field(default=None, static=True)

    def __check_init__(self) -> None:
        check_mixture(self.weight, self.bound)
        if self.further < 0:
            raise InputError(f"further is {self.further}; give a number of steps ≥ 0, such as 100")
        if not 0.0 < self.damping < jnp.inf:
            raise InputError(f"damping is {self.damping}; give a positive number, such as 0.1")
        if self.cg_steps < 1 or self.curvature_batch < 1:
            raise InputError(
                f"cg_steps is {self.cg_steps}, curvature_batch {self.curvature_batch}; give each at least 1"
            )

    @property
    def needs(self) -> Needs:
        """See `Leader.needs`: T steps behind each clip."""
        return Needs(further=self.further)

    def init(self, x: PyTree, observation: Any, action: Any, key: PRNGKeyArray) -> LeaderState:
        """See `Leader.init`."""
        return start(self.optimiser, x)

    def step(
        self, problem: AnyProblem, state: LeaderState, evidence: Evidence, key: PRNGKeyArray
    ) -> tuple[LeaderState, LeaderStats]:
        """See `Leader.step`."""
        loss, first = first_term(problem, state.x, evidence.clips)
        second = self._second(problem, state.x, evidence, key)
        gradient, stats = mixed(loss, first, second, self.weight, self.bound)
        return descend(self.optimiser, state, gradient), stats

    def _second(self, problem: AnyProblem, x: PyTree, evidence: Evidence, key: PRNGKeyArray) -> PyTree:
        follower, clips = evidence.follower, evidence.recent
        half = clips.count // 2
        if half < 1:
            raise InputError("a batch of 1 has no two halves; give at least 2 tuples")
        discount = problem.world.discount
        losses = centred_losses(problem, x, clips, self.baseline)
        halves, losses = jax.tree.map(
            lambda leaf: leaf[: 2 * half].reshape(2, half, *leaf.shape[1:]), (clips, losses)
        )
        curvature = draw_curvature(follower.policy, clips, discount, self.curvature_batch, key)
        slopes = jax.vmap(_slope, (None, 0, 0))(follower, halves, losses)
        directions = self._solve(curvature, follower.temperature, slopes)
        others = jax.tree.map(lambda leaf: leaf[::-1], directions)
        along = jax.vmap(_sums_along, (None, 0, 0))(follower, halves, others)
        scale = powers(discount, along.shape[3], along) / (2 * half * along.shape[2])
        coefficients = jax.lax.stop_gradient(jnp.where(halves.valid, scale * along, 0.0))

        def objective(x: PyTree) -> Float[Array, ""]:
            def reward(observation: Array, action: Array) -> Array:
                return problem.reward_at(x, observation, action)

            of_half = partial(over_tuples, jax.vmap(jax.vmap(reward)))
            rewards = jax.vmap(of_half)(halves.observations, halves.actions)
            return jnp.sum(jnp.where(halves.valid, coefficients * rewards, 0.0))

        return eqx.filter_grad(objective)(x)

    def _solve(self, curvature: Curvature, temperature: Float[Array, ""], slopes: PyTree) -> PyTree:
        """v of each half."""
        size = sum(leaf[0].size for leaf in jax.tree.leaves(slopes))
        # A policy that is certain of all its actions has no curvature: 0/0 must not become x.
        shift = self.damping * curvature.trace() / min(size, self.curvature_batch) + _LEAST_SHIFT

        product = curvature.operator()

        def damped(v: PyTree) -> PyTree:
            return jax.tree.map(lambda a, b: a + shift * b, product(v), v)

        def solve(slope: PyTree) -> PyTree:
            v, _ = jax.scipy.sparse.linalg.cg(damped, slope, tol=_TOLERANCE, maxiter=self.cg_steps)
            return jax.tree.map(lambda leaf: leaf / (temperature * curvature.mass), v)

        return jax.vmap(solve)(slopes)


def _slope(follower: Follower, clips: LabelledClips, losses: Float[Array, "B I H"]) -> PyTree:
    """∂f/∂θ = E[Σ_i Σ_h w_h ∇_θ log π(a_h|s_h)]."""
    theta, make = parameters(follower.policy)
    horizon = losses.shape[2]
    compared = LabelledClips(
        clips.observations[:, :, :horizon], clips.actions[:, :, :horizon], clips.valid[:, :, :horizon], None
    )
    return jax.grad(lambda theta: jnp.sum(losses * log_probs(make(theta), compared)) / len(losses))(theta)


def _sums_along(follower: Follower, clips: LabelledClips, v: PyTree) -> Float[Array, "B I L"]:
    """Σ_{j≤k} g_j·v at every step k, less its mean over the other tuples; that mean tends to 0."""
    theta, make = parameters(follower.policy)
    along = jax.jvp(lambda theta: log_probs(make(theta), clips), (theta,), (v,))[1]
    sums = jnp.cumsum(along, axis=2)
    return sums - ConstantBaseline().fit(clips.observations, sums)
