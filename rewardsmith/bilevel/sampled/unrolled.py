"""Unrolled: the second term through K steps of the follower, differentiated as they stand (ITD)."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..._core import InputError
from ...problem import AnyProblem
from ._blocks import over_tuples
from ._scores import draw_curvature, log_probs, parameters, powers
from .baselines import Baseline, ConstantBaseline, LinearBaseline
from .data import Evidence, Follower, LabelledClips, Needs
from .leader import Leader, LeaderState, LeaderStats, check_mixture, descend, mixed, start
from .terms import centred_losses, first_term

# e³: where one action would become this much likelier within K steps, it stops pulling.
_LARGEST_LOG_RATIO = 3.0


class SampledUnrolled(Leader):
    """Iterative differentiation: ∇_x through K gradient steps of the actor from where it stands, θ_0.

        θ_{k+1} = θ_k + η ∇_θ S(θ_k, x),      second term = ∇_x E[Σ_i Σ_h w_h log π_{θ_K(x)}(a_h|s_h)]

        S(θ, x) = E[Σ_t γ^t (ρ_t A_t − τ (ρ_t log ρ_t − ρ_t + 1))],      ρ_t = π_θ(a_t|s_t)/π_{θ_0}(a_t|s_t)

    with w = l − b and A_t = R_t − mean of R_t over the other tuples, R_t = Σ_{k≥t} γ^{k−t} (r_x − τ log
    π_{θ_0})(s_k, a_k). S is the follower's value to first order, less τ times the divergence from π_{θ_0}:
    what follows from ρ_t (G_t − τ log π_θ) with E[ρ_t] = 1 put in. Only A depends on x, linearly in r_x.

    At the soft optimum S has the slope 0 and the curvature −C = −τ E[Σ γ^t F(s_t)], so that the second term
    is that of `SampledPARL` with (1 − (1 − ηC)^K) C⁻¹ for C⁻¹: K steps of Richardson's iteration in place
    of the solve. What K steps do not reach is missing: the term is too short, the more so along directions
    of little curvature; its direction gets better with K. η is measured in 1/tr C, so that η ≤ 1 is stable.

    The K steps are taken on some of the tuples, and judged on all others: a score that meets itself does not
    average out. Memory is that of one step: each is computed again on the way back.

    Bias: K, γ^(H + T) of what was cut off, and a policy that is not optimal.

    Sources: Franceschi et al., ICML 2018; Grazzi et al., ICML 2020 (arXiv 2006.16218). Departures: steps of
    the policy on recorded trajectories; SAC's own critic has no part in them.

    Args:
        optimiser: turns the gradient into a step of x.
        baseline: b_h(s_h) of w.
        further: T, steps behind the clip.
        steps: K.
        step_size: η, without unit, in 1/tr C.
        tuples: on which the K steps are taken; at most half of the batch is.
        curvature_batch: states in which tr C is sampled.
        weight, bound: of the second term, as in `SoBiRL`.

    Raises:
        InputError: a number of steps, tuples or a step size below what it can be, or a batch of fewer than 4.
    """

    optimiser: optax.GradientTransformation = eqx.field(static=True)
    baseline: Baseline = LinearBaseline()
    further: int = eqx.field(default=100, static=True)
    steps: int = eqx.field(default=5, static=True)
    step_size: float = eqx.field(default=0.5, static=True)
    tuples: int = eqx.field(default=16, static=True)
    curvature_batch: int = eqx.field(default=64, static=True)
    weight: float = eqx.field(default=1.0, static=True)
    bound: float | None = eqx.field(default=None, static=True)

    def __check_init__(self) -> None:
        check_mixture(self.weight, self.bound)
        if self.further < 0:
            raise InputError(f"further is {self.further}; give a number of steps ≥ 0, such as 100")
        if not 0.0 < self.step_size < jnp.inf:
            raise InputError(f"step_size is {self.step_size}; give a positive number, such as 0.5")
        if self.steps < 1 or self.curvature_batch < 1:
            raise InputError(
                f"steps is {self.steps}, curvature_batch {self.curvature_batch}; give at least 1 of each"
            )
        if self.tuples < 2:
            raise InputError(f"tuples is {self.tuples}; give at least 2, for a mean over the others")

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
        count = min(self.tuples, clips.count // 2)
        if count < 2:
            raise InputError("a batch of fewer than 4 cannot be shared out; give at least 4 tuples")
        order_key, curvature_key = jax.random.split(key)
        order = jax.random.permutation(order_key, clips.count)
        stepped, judged = clips.take(order[:count]), clips.take(order[count:])
        losses = centred_losses(problem, x, clips, self.baseline)[order[count:]]
        discount, horizon = problem.world.discount, losses.shape[2]
        curvature = draw_curvature(follower.policy, clips, discount, self.curvature_batch, curvature_key)
        largest = follower.temperature * curvature.mass * curvature.trace()
        step_size = self.step_size / jnp.maximum(largest, 1e-30)
        compared = LabelledClips(
            judged.observations[:, :, :horizon],
            judged.actions[:, :, :horizon],
            judged.valid[:, :, :horizon],
            None,
        )
        _, make = parameters(follower.policy)

        def objective(x: PyTree) -> Float[Array, ""]:
            advantages = _advantages(problem, x, follower, stepped)
            theta = self._unroll(follower, stepped, advantages, discount, step_size)
            return jnp.sum(losses * log_probs(make(theta), compared)) / len(losses)

        return eqx.filter_grad(objective)(x)

    def _unroll(
        self,
        follower: Follower,
        clips: LabelledClips,
        advantages: Float[Array, "B I L"],
        discount: Float[Array, ""] | float,
        step_size: Float[Array, ""],
    ) -> PyTree:
        """θ_K."""
        start, make = parameters(follower.policy)
        before = log_probs(follower.policy, clips)
        weights = powers(discount, advantages.shape[2], advantages) / before[:, :, 0].size

        def gain(theta: PyTree) -> Float[Array, ""]:
            logs = jnp.minimum(log_probs(make(theta), clips) - before, _LARGEST_LOG_RATIO)
            ratios = jnp.exp(logs)
            terms = ratios * advantages - follower.temperature * (ratios * logs - ratios + 1.0)
            return jnp.sum(jnp.where(clips.valid, weights * terms, 0.0))

        @jax.checkpoint
        def ascend(theta: PyTree, _: None) -> tuple[PyTree, None]:
            slope = jax.grad(gain)(theta)
            return jax.tree.map(lambda a, b: a + (step_size * b).astype(a.dtype), theta, slope), None

        return jax.lax.scan(ascend, start, None, length=self.steps)[0]


def _advantages(
    problem: AnyProblem, x: PyTree, follower: Follower, clips: LabelledClips
) -> Float[Array, "B I L"]:
    """A_t = R_t − its mean over the other tuples, R_t = r_t − τ log π_t + γ R_{t+1}."""

    def reward(observation: Array, action: Array) -> Array:
        return problem.reward_at(x, observation, action)

    rewards = over_tuples(jax.vmap(jax.vmap(reward)), clips.observations, clips.actions)
    soft = jnp.where(clips.valid, rewards - follower.temperature * log_probs(follower.policy, clips), 0.0)

    def add(later: Float[Array, "B I"], now: Float[Array, "B I"]) -> tuple[Array, Array]:
        returns = now + problem.world.discount * later
        return returns, returns

    _, returns = jax.lax.scan(add, jnp.zeros_like(soft[:, :, 0]), jnp.moveaxis(soft, 2, 0), reverse=True)
    returns = jnp.moveaxis(returns, 0, 2)
    return returns - ConstantBaseline().fit(clips.observations, returns)
