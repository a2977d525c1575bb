"""PBRL: x and a policy move together, a penalty holds the policy near the follower's best."""

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._core import InputError
from ..mdp import MDP, q_values, solve_policy
from ..problem import BilevelProblem
from ._policy_value import (
    check_exploration,
    everywhere,
    explored_start,
    log_policy,
    regularised_values,
    require_softmax,
)
from .enumeration import exact_upper_loss
from .lower_level import lower_level
from .method import Method, MethodState, StepStats, advance, begin, step_stats

_FAR = 3.0


class Policies(NamedTuple):
    """What PBRL carries beside x: V, whose softmax is π̂ ≈ π*(x), and log y."""

    values: Float[Array, " S"]
    log_policy: Float[Array, "S A"]


class PBRL(Method):
    """Penalty-based bilevel RL: min over x and policies y of f(x, y) + λ p(x, y).

        value:    p = ρ·(V*_x − V^y_x)             ∇_x p = ∇_x ρ·V^π̂ − ∇_x ρ·V^y
        Bellman:  p = τ/S Σ_s KL(y(s) ‖ π*_x(s))    ∇_x p = 1/S Σ_{s,a} (π̂ − y) ∇_x Q^π̂

    with the follower's regulariser in V and Q, and π̂, y held still. No second derivatives and no adjoint;
    the
    price is a bias: with y at its best, the gradient followed, ∂_x(f + λp), misses ∇φ by O(1/λ).

    y moves by natural gradient (mirror descent), y ∝ exp θ:

        θ ← (1 − η) θ + η (Q/τ + log μ − g/(λτw)),    g = ∂f/∂y

    value: Q = Q^y, w = d_y, how often y visits; Bellman: Q = Q*, w = 1/S; log μ with `KullbackLeibler` only.

    Source: Shen, Yang and Chen, JMLR 26(114), arXiv 2402.06886. Departures: y moves by a natural gradient,
    by at most 3 in log y at once; y starts at π*(x) and moves before x, not with it; the value penalty may
    start elsewhere than at ρ.

    Args:
        step_size: β of x ← x + β · update, a number.
        optimiser: any of optax; the update.
        penalty: λ > 0, a number, in units of f per unit of reward.
        kind: "value" or "bellman".
        policy_step_size: η, a number from 0 to 1; smaller where y does not settle: λτw small beside the
            curvature of f.
        inner_steps: of y per step of x; 1 is as published. y lags behind π̂ as x moves, the more so the
            smaller η, and λ multiplies the lag: where x will not settle, 2 or 3, or a smaller β.
        sweeps: of V per step of x, from the last V; None: solve it to `tolerance`.
        exploration: weight, a number from 0 to 1, of the uniform distribution in the value penalty's ρ;
            that of f stays. Where y never goes, nothing holds it, and y = π̂ is taken.
        tolerance: of the follower, relative to τ.

    Raises:
        InputError: another `kind`, a number of steps below 1, a penalty that is not positive, or an η outside
            (0, 1].
    """

    step_size: Array = eqx.field(converter=jnp.asarray)
    optimiser: optax.GradientTransformation = eqx.field(default=optax.sgd(1.0), static=True, kw_only=True)
    penalty: Array = eqx.field(default=100.0, converter=jnp.asarray, kw_only=True)
    kind: Literal["value", "bellman"] = eqx.field(default="value", static=True, kw_only=True)
    policy_step_size: Array = eqx.field(default=1.0, converter=jnp.asarray, kw_only=True)
    inner_steps: int = eqx.field(default=1, static=True, kw_only=True)
    sweeps: int | None = eqx.field(default=None, static=True, kw_only=True)
    exploration: Array = eqx.field(default=0.1, converter=jnp.asarray, kw_only=True)
    tolerance: float = eqx.field(default=1e-12, static=True, kw_only=True)

    def __check_init__(self):
        check_exploration(self.exploration)
        if self.kind not in ("value", "bellman"):
            raise InputError(f'kind is {self.kind!r}; give "value" or "bellman"')
        if self.inner_steps < 1:
            raise InputError(f"inner_steps is {self.inner_steps}; give at least 1")
        if self.sweeps is not None and self.sweeps < 1:
            raise InputError(f"sweeps is {self.sweeps}; give at least 1, or None to solve to tolerance")
        if not everywhere(self.penalty, lambda value: value > 0):
            raise InputError(f"penalty is {self.penalty}; give a positive number, such as 100")
        if not everywhere(self.policy_step_size, lambda value: (value > 0) & (value <= 1)):
            raise InputError(f"policy_step_size is {self.policy_step_size}; give more than 0 and at most 1")

    def init(self, problem: Any, x: PyTree, key: PRNGKeyArray) -> MethodState:
        """See `Method.init`; y = π*(x), for which the follower is solved, uncounted."""
        require_softmax(problem)
        # Any other y would be pulled back by λ times its gap, and x with it.
        level = lower_level(problem)
        values = level.solve(x, level.start(), self.tolerance).y
        q = q_values(problem.world_at(x), problem.reward(x), values)
        return begin(self, x, Policies(values, _log_policy(problem, q)), key)

    def step(self, problem: Any, state: MethodState) -> tuple[MethodState, StepStats]:
        """See `Method.step`."""
        level = lower_level(problem)
        moving, rest = eqx.partition(state.x, eqx.is_inexact_array)
        if self.sweeps is None:
            values, residual, sweeps, solved = level.solve(state.x, state.memory.values, self.tolerance)
        else:
            values = level.iterate(state.x, state.memory.values, self.sweeps)
            residual, sweeps, solved = level.residual(state.x, values), self.sweeps + 1, 0
        world, reward = problem.world_at(state.x), problem.reward(state.x)
        best = _log_policy(problem, q_values(world, reward, values))

        def improve(_: Array, held: tuple[Array, Array]) -> tuple[Array, Array]:
            log_y, count = held
            aim, products = self._aim(problem, state.x, world, reward, best, log_y)
            step = self.policy_step_size
            move = aim - log_y
            # No further than this at once: g may be enormous where y is small, and less so a little on.
            move = jnp.clip(move - jnp.sum(jnp.exp(log_y) * move, axis=1, keepdims=True), -_FAR, _FAR)
            moved = jax.nn.log_softmax(log_y + step * move, axis=1)
            return moved.astype(log_y.dtype), count + products

        zero = jnp.zeros((), jnp.int32)
        log_y, inner = jax.lax.fori_loop(0, self.inner_steps, improve, (state.memory.log_policy, zero))
        (_, (loss, outer)), gradient = jax.value_and_grad(
            lambda m: self._penalised(problem, eqx.combine(m, rest), jnp.exp(best), jnp.exp(log_y)),
            has_aux=True,
        )(moving)
        stats = step_stats(
            loss,
            gradient,
            residual=residual,
            # f forwards and backwards for each step of y and for x; r_x and its product.
            oracle_calls=2 * self.inner_steps + 4,
            sweeps=sweeps,
            linear_iterations=solved + inner + outer,
        )
        return advance(self, state, gradient, Policies(values, log_y)), stats

    def _aim(
        self,
        problem: BilevelProblem[MDP],
        x: PyTree,
        world: MDP,
        reward: Float[Array, "S A"],
        best: Float[Array, "S A"],
        log_y: Float[Array, "S A"],
    ) -> tuple[Float[Array, "S A"], Int[Array, ""]]:
        """θ that a full natural-gradient step from y leads to, and the products it took."""
        y = jnp.exp(log_y)
        g = jax.grad(lambda policy: exact_upper_loss(problem, x, policy))(y)
        push = g / (self.penalty * problem.tau)
        if self.kind == "bellman":
            return best - push * world.num_states, jnp.zeros((), jnp.int32)
        start = explored_start(world, self.exploration)
        visits, first = solve_policy(world, y, start, transposed=True)
        values, second = _values(problem, world, reward, y)
        seen = (visits > 0)[:, None]
        aim = _log_policy(problem, q_values(world, reward, values))
        aim = jnp.where(seen, aim - push / jnp.where(seen, visits[:, None], 1.0), best)
        return aim, first + second

    def _penalised(
        self, problem: BilevelProblem[MDP], x: PyTree, best: Float[Array, "S A"], y: Float[Array, "S A"]
    ) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Int[Array, ""]]]:
        """f + λp, up to what its gradient in x does not feel; f; the products both ways."""
        world, reward = problem.world_at(x), problem.reward(x)
        top, products = _values(problem, world, reward, best)
        if self.kind == "bellman":
            gap = jnp.sum((best - y) * q_values(world, reward, top)) / world.num_states
        else:
            values, more = _values(problem, world, reward, y)
            gap, products = explored_start(world, self.exploration) @ (top - values), products + more
        loss = exact_upper_loss(problem, x, y)
        return loss + self.penalty * gap, (loss, 2 * products)


def _log_policy(problem: BilevelProblem[MDP], q: Float[Array, "S A"]) -> Float[Array, "S A"]:
    return log_policy(problem.regulariser, q, problem.tau)


def _values(problem: BilevelProblem[MDP], world: MDP, reward: Array, policy: Array) -> tuple[Array, Array]:
    return regularised_values(world, reward, policy, problem.tau, problem.regulariser)
