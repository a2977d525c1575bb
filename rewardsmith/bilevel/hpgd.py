"""HPGD: the leader learns from trajectories of a follower that has solved its own problem."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..mdp import Trajectories
from ..upper_losses import LeaderReturn
from . import _trajectories as along
from .enumeration import exact_upper_loss
from .lower_level import TabularLevel
from .method import Method, MethodState, StepStats, advance, begin, step_stats


class HPGD(Method):
    """Hyper policy gradient descent: both factors of the indirect term averaged over visits.

        ∇F = E[Σ_t γ_L^t ∇r_L] + (1/τ) E[Σ_t γ_L^t Ā_L(s_t, a_t) ∇A_F(s_t, a_t)]
        ∇A_F(s,a) = mean over visits of (s,a) − mean over visits of s, of Σ_{m>=t} γ^(m−t) ∇r(s_m, a_m)

    with Ā_L from the leader's own rewards in the same way, and f = −F: the upper loss is a `LeaderReturn`.
    For any other f the exact g = ∂f/∂π plays the part of d_L Q_L, and only ∇A_F is sampled: ∂f/∂x +
    (1/τ) Σ π g ∇A_F. Pairs that were not visited count nothing. Where the leader moves P, ∇r becomes
    ∇r + γ Σ_t ∇P V(t), with ∇P exact.

    Consistent as trajectories grow, but for the cut at T: means are taken over visits in the first half of a
    trajectory, so that each sees T/2 steps or more; error of order γ^(T/2), and γ_L^T in the leader's sums.

    Source: Thoma et al., NeurIPS 2024, arXiv 2406.01575. Departures: roll-outs of fixed instead of geometric
    length; ∇P in place of ∇log P; other f.

    Args:
        step_size: β of x ← x + β · update, a number.
        optimiser: any of optax; the update. The authors clip the norm to 1.
        trajectories: N drawn a step.
        horizon: T, steps of each at most.
        tolerance: of the follower, relative to τ; it starts from its last V.
    """

    step_size: Array = eqx.field(converter=jnp.asarray)
    optimiser: optax.GradientTransformation = eqx.field(default=optax.sgd(1.0), static=True, kw_only=True)
    trajectories: int = eqx.field(default=100, static=True, kw_only=True)
    horizon: int = eqx.field(default=100, static=True, kw_only=True)
    tolerance: float = eqx.field(default=1e-12, static=True, kw_only=True)

    def __check_init__(self):
        along.check_sizes(trajectories=self.trajectories, horizon=self.horizon)

    def init(self, problem: Any, x: PyTree, key: PRNGKeyArray) -> MethodState:
        """See `Method.init`; V = 0."""
        along.check_sampled(problem)
        return begin(self, x, TabularLevel(problem).start(), key)

    def step(self, problem: Any, state: MethodState) -> tuple[MethodState, StepStats]:
        """See `Method.step`; the loss told is exact, for the record only."""
        x, level = state.x, TabularLevel(problem)
        answer = level.solve(x, state.memory, self.tolerance)
        policy = level.policy(x, answer.y)
        key, draw = jax.random.split(state.key)
        drawn = along.sample(problem, x, policy, draw, self.trajectories, self.horizon)
        counted = along.first_half(drawn, policy.dtype)
        visits = along.by_pair(drawn, counted, policy)
        if isinstance(problem.upper_loss, LeaderReturn):
            loss = exact_upper_loss(problem, x, policy)
            direct, weights = _leader(problem.upper_loss, x, drawn, counted, visits)
        else:
            loss, direct, g = along.partial_derivatives(problem, x, policy)
            weights = policy * along.centred(g, policy)
        coefficients = _visit_coefficients(drawn, counted, visits, weights / problem.tau)
        table = along.suffix_coefficients(drawn, coefficients, problem.world.discount, policy)
        indirect = along.pull_follower(problem, x, answer.y, table)
        gradient = jax.tree.map(jnp.add, direct, indirect)
        stats = step_stats(
            loss,
            gradient,
            residual=answer.residual,
            # r_x and its product, f (or r_L) with its derivatives.
            oracle_calls=4,
            sweeps=answer.sweeps,
            linear_iterations=answer.linear_iterations,
            samples=along.steps_drawn(drawn),
        )
        return advance(self, state, gradient, answer.y, key), stats


def _leader(
    loss: LeaderReturn,
    x: PyTree,
    drawn: Trajectories,
    counted: Float[Array, "N T"],
    visits: Float[Array, "S A"],
) -> tuple[PyTree, Float[Array, "S A"]]:
    """∂f/∂x at the policy held still, and −d_L π Ā_L, all of it from the trajectories."""
    rewards = along.at_steps(loss.reward(x), drawn)
    returns = counted * along.suffix_sums(rewards, loss.discount)
    totals = along.by_pair(drawn, returns, visits)
    overall = jnp.sum(totals) / jnp.maximum(jnp.sum(visits), 1.0)
    # ∇P has rows of sum 0: a state never seen is best taken for an average one.
    values = along.mean_by(totals.sum(axis=1), visits.sum(axis=1), overall)
    advantage = along.mean_by(totals, visits) - values[:, None]
    occupancy = along.by_pair(drawn, along.powers(loss.discount, drawn), visits)
    direct = jax.tree.map(jnp.negative, along.pull_leader(loss, x, values, occupancy))
    return direct, -occupancy * advantage


def _visit_coefficients(
    drawn: Trajectories,
    counted: Float[Array, "N T"],
    visits: Float[Array, "S A"],
    weights: Float[Array, "S A"],
) -> Float[Array, "N T"]:
    """c_i with Σ_i c_i G_i = Σ_{s,a} weights (mean of G over visits of (s,a) − mean over visits of s)."""
    known = jnp.where(visits > 0, weights, 0.0)
    pair = along.mean_by(known, visits)
    state = along.mean_by(known.sum(axis=1), visits.sum(axis=1))
    return counted * (pair - state[:, None])[drawn.states, drawn.actions]
