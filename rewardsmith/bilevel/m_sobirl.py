"""M-SoBiRL: follower, adjoint and reward move together, none waits for another to be solved."""

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._core import InputError
from ..mdp import MDP, Shannon, expect, q_values, soft_bellman, soft_policy
from ..problem import BilevelProblem
from .enumeration import exact_upper_loss
from .lower_level import require_table
from .method import Method, MethodState, StepStats, advance, begin, step_stats


class Iterates(NamedTuple):
    """What M-SoBiRL carries beside x: V, the adjoint w, and the policy of the last sweep."""

    values: Float[Array, " S"]
    adjoint: Float[Array, " S"]
    policy: Float[Array, "S A"]


class MSoBiRL(Method):
    """Model-based soft bilevel RL: one step on w, one on x, N sweeps on V, each from where it was.

        w ← w − ξ (AᵀA w − Aᵀb),    A = (I − γP^π)ᵀ,  b = Uᵀ(π g)
        x ← x − β ∇̂φ(x, π, w),      then V ← T_x V, N times

    with g = ∂f/∂π, U[s,a,t] = 1{s=t} − γP[s,a,t]. O(1/ε) steps in all, no inner log factor.

    Source: Yang, Gao and Yuan, AISTATS 2025, arXiv 2405.19697. Beyond the paper: other regularisers, and
    transitions that the leader moves.

    Args:
        step_size: β of x ← x + β · update, a number.
        optimiser: any of optax; the update.
        adjoint_step_size: ξ, below 2/(1+γ)² lest w diverge.
        adjoint_update: "gradient" is as published, and gains a factor 1 − ξ(1−γ)² a step; "sweep" is
            w ← b + γ(P^π)ᵀ w, which gains γ and takes half the products: for γ near 1.
        adjoint_steps: of w per step of x; 1 is as published.
        sweeps: N.
        sweep_tolerance: a number; stop sweeping when max|TV − V| falls below it, in units of reward.
        normalise: policies are softmax(Q/τ). False, with entropy only, is as published: π = exp((Q − V)/τ),
            whose rows sum to 1 but for the error of V.

    Raises:
        InputError: no sweeps or adjoint steps, or another `adjoint_update`.
    """

    step_size: Array = eqx.field(converter=jnp.asarray)
    optimiser: optax.GradientTransformation = eqx.field(default=optax.sgd(1.0), static=True, kw_only=True)
    adjoint_step_size: Array = eqx.field(default=0.5, converter=jnp.asarray, kw_only=True)
    adjoint_update: Literal["gradient", "sweep"] = eqx.field(default="gradient", static=True, kw_only=True)
    adjoint_steps: int = eqx.field(default=1, static=True, kw_only=True)
    sweeps: int = eqx.field(default=10, static=True, kw_only=True)
    sweep_tolerance: Array = eqx.field(default=0.0, converter=jnp.asarray, kw_only=True)
    normalise: bool = eqx.field(default=True, static=True, kw_only=True)

    def __check_init__(self):
        if self.sweeps < 1:
            raise InputError(f"sweeps is {self.sweeps}; give at least 1")
        if self.adjoint_steps < 1:
            raise InputError(f"adjoint_steps is {self.adjoint_steps}; give at least 1")
        if self.adjoint_update not in ("gradient", "sweep"):
            raise InputError(f'adjoint_update is {self.adjoint_update!r}; give "gradient" or "sweep"')

    def init(self, problem: Any, x: PyTree, key: PRNGKeyArray) -> MethodState:
        """See `Method.init`; V = 0, w = 0."""
        require_table(problem)
        if not self.normalise and not isinstance(problem.regulariser, Shannon):
            raise InputError(
                "normalise=False is for the entropy; leave normalise=True with other regularisers"
            )
        zeros = jnp.zeros(problem.world.num_states, problem.world.initial.dtype)
        q = q_values(problem.world_at(x), problem.reward(x), zeros)
        policy = soft_policy(q, problem.tau, problem.regulariser)
        return begin(self, x, Iterates(zeros, zeros, policy), key)

    def step(self, problem: Any, state: MethodState) -> tuple[MethodState, StepStats]:
        """See `Method.step`."""
        values, w, policy = state.memory
        moving, rest = eqx.partition(state.x, eqx.is_inexact_array)
        world = problem.world_at(state.x)

        def q_of(m: PyTree) -> Array:
            x = eqx.combine(m, rest)
            return q_values(problem.world_at(x), problem.reward(x), values)

        loss, (direct, g) = jax.value_and_grad(
            lambda m, p: exact_upper_loss(problem, eqx.combine(m, rest), p), argnums=(0, 1)
        )(moving, policy)
        q, pull = jax.vjp(q_of, moving)
        weighed = policy * g
        if self.normalise:
            # The same for the entropy; other policies move otherwise with Q.
            mean = jnp.sum(weighed, axis=1, keepdims=True)
            weighed = problem.regulariser.sensitivity(policy, g) + policy * mean
        # A sweep is w − (A w − b), a gradient step w − ξ Aᵀ(A w − b).
        size = self.adjoint_step_size if self.adjoint_update == "gradient" else None
        w = jax.lax.fori_loop(
            0, self.adjoint_steps, lambda _, held: _adjoint_step(world, policy, weighed, held, size), w
        )
        proper = policy if self.normalise else soft_policy(q, problem.tau)
        indirect = pull((weighed - proper * w[:, None]) / problem.tau)[0]
        gradient = jax.tree.map(jnp.add, direct, indirect)
        after = advance(self, state, gradient, state.memory)
        values, policy, residual, sweeps = self._sweep(problem, after.x, values)
        after = eqx.tree_at(lambda held: held.memory, after, Iterates(values, w, policy))
        stats = step_stats(
            loss,
            gradient,
            residual=residual,
            # f forwards and backwards, r_x before and after the step, r_x's product.
            oracle_calls=5,
            sweeps=sweeps + 1,
            # A gradient step takes a product with A and one with its transpose, a sweep the first.
            linear_iterations=self.adjoint_steps * (2 if self.adjoint_update == "gradient" else 1),
        )
        return after, stats

    def _sweep(
        self, problem: BilevelProblem[MDP], x: PyTree, values: Float[Array, " S"]
    ) -> tuple[Float[Array, " S"], Float[Array, "S A"], Float[Array, ""], Int[Array, ""]]:
        world, reward = problem.world_at(x), problem.reward(x)

        def unsolved(state: tuple[Array, Array, Array]) -> Array:
            _, moved, count = state
            return (count < self.sweeps) & (moved > self.sweep_tolerance)

        def sweep(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            values, _, count = state
            swept = soft_bellman(world, reward, problem.tau, values, problem.regulariser)
            return swept, jnp.max(jnp.abs(swept - values)), count + 1

        first = jnp.asarray(jnp.inf, values.dtype)
        values, residual, count = jax.lax.while_loop(
            unsolved, sweep, (values, first, jnp.zeros((), jnp.int32))
        )
        q = q_values(world, reward, values)
        if not self.normalise:
            return values, jnp.exp((q - values[:, None]) / problem.tau), residual, count
        return values, soft_policy(q, problem.tau, problem.regulariser), residual, count


def _adjoint_step(
    world: MDP,
    policy: Float[Array, "S A"],
    weighed: Float[Array, "S A"],
    w: Float[Array, " S"],
    step_size: Float[Array, ""] | None,
) -> Float[Array, " S"]:
    """One gradient step on ½‖A w − b‖²; without a step size, one sweep."""
    _, pull = jax.vjp(lambda v: expect(world.transition, v), w)

    def from_before(table: Float[Array, "S A"]) -> Float[Array, " S"]:
        """γ Σ_{s,a} P[s,a,t] table(s,a)."""
        return world.discount * pull(table)[0]

    # A w − b, where Pᵀ is needed once: b = Uᵀ(π g) = Σ_a π g − γPᵀ(π g).
    gap = w - jnp.sum(weighed, axis=1) - from_before(policy * w[:, None] - weighed)
    if step_size is None:
        return w - gap
    back = gap - world.discount * jnp.sum(policy * expect(world.transition, gap), axis=1)
    return w - step_size * back
