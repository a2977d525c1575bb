"""BC-HG: the leader's centred advantage times the follower's reward gradients along one trajectory."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from .._core import InputError
from ..mdp import Trajectories
from ..upper_losses import LeaderReturn
from . import _trajectories as along
from .enumeration import exact_upper_loss
from .lower_level import Answer, TabularLevel
from .method import Method, MethodState, StepStats, advance, begin, step_stats


class Tables(NamedTuple):
    """What BC-HG carries beside x: the follower's V, and the leader's Q where the leader earns a return."""

    values: Float[Array, " S"]
    leader_q: Float[Array, "S A"] | None


class BCHG(Method):
    """One centred factor is enough: a leader's advantage, and one trajectory's rewards for the follower's Q.

        ∇F = E[Σ_t γ_L^t ∇r_L] + (1/τ) E_{s~d_L}[Cov_{a~π}(Q_L, ∇Q_F)]
           = E[Σ_t γ_L^t ∇r_L] + (1/τ) E[Σ_t γ_L^t A_L(s_t, a_t) Σ_{m>=t} γ^(m−t) ∇r(s_m, a_m)]

    and f = −F: the upper loss is a `LeaderReturn`. A_L = Q_L − Σ_a π Q_L, with Q_L from a table that learns
    by SARSA from step to step and is first used at the second. No branching and no second visit of a state.

    For any other f the exact g = ∂f/∂π, centred, plays the part of d_L A_L, and each state takes the mean
    over its visits in the first half of a trajectory: ∂f/∂x + (1/τ) Σ_s mean[(g − Σ_a π g) ∇Q_F]. States not
    visited count nothing. Where the leader moves P, ∇r becomes ∇r + γ Σ_t ∇P V(t), with ∇P exact.

    Unbiased for the right Q_L, but for the cut at T, of order max(γ, γ_L)^T; for other f consistent as
    trajectories grow, but for γ^(T/2).

    Source: Kudo, Tanabe, Wachi and Akimoto, ICAPS 2026, arXiv 2603.14867. Departures: SARSA moves
    each pair by the mean error of its visits in the step; ∇P in place of ∇log P; other f.

    Args:
        step_size: β of x ← x + β · update, a number.
        optimiser: any of optax; the update.
        trajectories: N drawn a step.
        horizon: T, steps of each at most; 2 or more.
        sarsa_step_size: α of the leader's table, a number, 0 < α <= 1.
        sarsa_sweeps: times it goes through the trajectories of a step; more follow x faster.
        sweeps: soft Bellman sweeps of the follower a step: a follower that is not optimal. None: solve it.
        reset: the follower starts each step from V = 0 instead of its last V.
        tolerance: of the follower, relative to τ, where it is solved.

    Raises:
        InputError: no sweeps, a horizon below 2, or a SARSA step outside (0, 1].
    """

    step_size: Array = eqx.field(converter=jnp.asarray)
    optimiser: optax.GradientTransformation = eqx.field(default=optax.sgd(1.0), static=True, kw_only=True)
    trajectories: int = eqx.field(default=100, static=True, kw_only=True)
    horizon: int = eqx.field(default=100, static=True, kw_only=True)
    sarsa_step_size: Array = eqx.field(default=0.5, converter=jnp.asarray, kw_only=True)
    sarsa_sweeps: int = eqx.field(default=5, static=True, kw_only=True)
    sweeps: int | None = eqx.field(default=None, static=True, kw_only=True)
    reset: bool = eqx.field(default=False, static=True, kw_only=True)
    tolerance: float = eqx.field(default=1e-12, static=True, kw_only=True)

    def __check_init__(self):
        along.check_sizes(trajectories=self.trajectories, sarsa_sweeps=self.sarsa_sweeps)
        if self.horizon < 2:
            raise InputError(f"horizon is {self.horizon}; give at least 2: SARSA learns from pairs of steps")
        if self.sweeps is not None and self.sweeps < 1:
            raise InputError(f"sweeps is {self.sweeps}; give at least 1, or None to solve the follower")
        rate = self.sarsa_step_size
        if not isinstance(rate, Tracer) and not np.all((rate > 0) & (rate <= 1)):
            raise InputError(f"sarsa_step_size is {rate}; give 0 < sarsa_step_size <= 1, such as 0.5")

    def init(self, problem: Any, x: PyTree, key: PRNGKeyArray) -> MethodState:
        """See `Method.init`; V = 0, Q_L = 0."""
        along.check_sampled(problem)
        world, leader_q = problem.world, None
        if isinstance(problem.upper_loss, LeaderReturn):
            leader_q = jnp.zeros((world.num_states, world.num_actions), world.initial.dtype)
        return begin(self, x, Tables(TabularLevel(problem).start(), leader_q), key)

    def step(self, problem: Any, state: MethodState) -> tuple[MethodState, StepStats]:
        """See `Method.step`; the loss told is exact, for the record only."""
        x, level, loss_of = state.x, TabularLevel(problem), problem.upper_loss
        answer = self._follow(level, x, level.start() if self.reset else state.memory.values)
        policy = level.policy(x, answer.y)
        key, draw = jax.random.split(state.key)
        drawn = along.sample(problem, x, policy, draw, self.trajectories, self.horizon)
        q = state.memory.leader_q
        if isinstance(loss_of, LeaderReturn):
            loss = exact_upper_loss(problem, x, policy)
            # The table of before these trajectories: with its own noise in it, A_L would covary with theirs.
            advantage = along.centred(q, policy)
            weights = along.powers(loss_of.discount, drawn)
            coefficients = -weights * along.at_steps(advantage, drawn)
            occupancy = along.by_pair(drawn, weights, policy)
            values = jnp.sum(policy * q, axis=1)
            direct = jax.tree.map(jnp.negative, along.pull_leader(loss_of, x, values, occupancy))
            rewards = along.at_steps(loss_of.reward(x), drawn)
            learning = self.sarsa_step_size, self.sarsa_sweeps
            q = _sarsa(q, drawn, rewards, problem.world.terminal, loss_of.discount, *learning)
        else:
            loss, direct, g = along.partial_derivatives(problem, x, policy)
            counted = along.first_half(drawn, policy.dtype)
            visits = along.by_pair(drawn, counted, policy).sum(axis=1)
            share = along.mean_by(jnp.ones_like(visits), visits)
            coefficients = counted * along.at_steps(along.centred(g, policy) * share[:, None], drawn)
        table = along.suffix_coefficients(drawn, coefficients / problem.tau, problem.world.discount, policy)
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
        return advance(self, state, gradient, Tables(answer.y, q), key), stats

    def _follow(self, level: TabularLevel, x: PyTree, values: Float[Array, " S"]) -> Answer:
        if self.sweeps is None:
            return level.solve(x, values, self.tolerance)
        values = level.iterate(x, values, self.sweeps)
        sweeps = jnp.asarray(self.sweeps + 1, jnp.int32)
        return Answer(values, level.residual(x, values), sweeps, jnp.zeros((), jnp.int32))


def _sarsa(
    q: Float[Array, "S A"],
    drawn: Trajectories,
    rewards: Float[Array, "N T"],
    terminal: Bool[Array, " S"],
    discount: Float[Array, ""],
    step_size: Float[Array, ""],
    sweeps: int,
) -> Float[Array, "S A"]:
    """Q(s,a) ← Q(s,a) + α (r + γ_L Q(s',a') − Q(s,a)), by the mean over all visits of (s,a) at once."""
    ends = terminal[drawn.states]
    # The last step of a trajectory that was cut has no next action to learn from.
    whole = drawn.alive & (ends | (jnp.arange(drawn.alive.shape[1]) < drawn.alive.shape[1] - 1))
    following = jnp.roll(drawn.states, -1, axis=1), jnp.roll(drawn.actions, -1, axis=1)
    visits = along.by_pair(drawn, whole.astype(q.dtype), q)

    def sweep(q: Array, _: None) -> tuple[Array, None]:
        targets = rewards + jnp.where(ends, 0.0, discount * q[following])
        errors = jnp.where(whole, targets - q[drawn.states, drawn.actions], 0.0)
        change = along.mean_by(along.by_pair(drawn, errors.astype(q.dtype), q), visits)
        return (q + step_size * change).astype(q.dtype), None

    return jax.lax.scan(sweep, q, None, length=sweeps)[0]
