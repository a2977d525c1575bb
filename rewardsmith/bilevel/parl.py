"""PARL: the hyper-gradient from the curvature of the follower's value in its policy parameters."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._core import InputError
from ..follower import solve_follower
from ..mdp import MDP, solve_policy
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
from .method import Method, MethodState, StepStats, advance, begin, step_stats


class PARL(Method):
    """Policy alignment in RL: implicit differentiation in the policy's parameters θ, π = softmax(θ).

        ∇φ = ∂f/∂x + ∂²_{xθ}V v,    (−∂²_{θθ}V + δ D) v = ∂f/∂θ,    D = τ diag(d π)

    V(x, θ) = ρ·V^π is what the follower maximises, its regulariser included; d π is how often each state and
    action occur. On softmax tables ∂²_{θθ}V has rank S(A−1), hence the damping δ. At the optimum of θ it
    shrinks the second term by 1/(1+δ) and does nothing else: with δ → 0 the estimate is the exact
    hyper-gradient. Solved by conjugate gradients on Hessian–vector products, scaled by D, so that one or two
    do at the optimum.

    Source: Chakraborty et al., ICLR 2024, arXiv 2308.02585. Beyond the paper: regularised followers,
    transitions that the leader moves, the scaling, and a start that visits every state, without which what f
    says of the other states is lost.

    Args:
        step_size: β of x ← x + β · update, a number.
        optimiser: any of optax; the update.
        damping: δ >= 0, a number without unit; far from the follower's optimum 1 or more makes the system
            definite.
        exploration: weight, a number from 0 to 1, of the uniform distribution in the ρ of V; that of f stays.
            0 is as published, and right where ρ and π visit every state.
        max_steps: of conjugate gradients, each one Hessian–vector product.
        tolerance: of the follower, relative to τ, and of v, relative to ∂f/∂θ.
        follower_steps: steps of natural policy gradient (with step 1/τ: soft policy iteration) from the last
            policy; None: solve to `tolerance`.

    Raises:
        InputError: a number of steps below 1, or a damping below 0.
    """

    step_size: Array = eqx.field(converter=jnp.asarray)
    optimiser: optax.GradientTransformation = eqx.field(default=optax.sgd(1.0), static=True, kw_only=True)
    damping: Array = eqx.field(default=1e-8, converter=jnp.asarray, kw_only=True)
    exploration: Array = eqx.field(default=0.1, converter=jnp.asarray, kw_only=True)
    max_steps: int = eqx.field(default=100, static=True, kw_only=True)
    tolerance: float = eqx.field(default=1e-12, static=True, kw_only=True)
    follower_steps: int | None = eqx.field(default=None, static=True, kw_only=True)

    def __check_init__(self):
        check_exploration(self.exploration)
        if self.max_steps < 1:
            raise InputError(f"max_steps is {self.max_steps}; give at least 1")
        if self.follower_steps is not None and self.follower_steps < 1:
            raise InputError(
                f"follower_steps is {self.follower_steps}; give at least 1, or None to solve to tolerance"
            )
        if not everywhere(self.damping, lambda value: value >= 0):
            raise InputError(f"damping is {self.damping}; give a number >= 0, such as 1e-8")

    def init(self, problem: Any, x: PyTree, key: PRNGKeyArray) -> MethodState:
        """See `Method.init`; V = 0."""
        require_softmax(problem)
        return begin(self, x, jnp.zeros(problem.world.num_states, problem.world.initial.dtype), key)

    def step(self, problem: Any, state: MethodState) -> tuple[MethodState, StepStats]:
        """See `Method.step`."""
        moving, rest = eqx.partition(state.x, eqx.is_inexact_array)
        world, reward, tau = problem.world_at(state.x), problem.reward(state.x), problem.tau
        answer = solve_follower(
            world,
            reward,
            tau,
            regulariser=problem.regulariser,
            initial_values=state.memory,
            tolerance=self.tolerance,
            max_steps=self.follower_steps or 100,
            throw=False,
        )
        theta = log_policy(problem.regulariser, answer.q_values, tau)
        loss, (direct, target) = jax.value_and_grad(
            lambda m, t: exact_upper_loss(problem, eqx.combine(m, rest), _softmax(t)), argnums=(0, 1)
        )(moving, theta)
        v, products = self._solve(problem, world, reward, theta, target)

        def slope(t: Array) -> PyTree:
            """∂V/∂x at θ = t."""

            def value(m: PyTree) -> Array:
                x = eqx.combine(m, rest)
                return self._value(problem, problem.world_at(x), problem.reward(x), t)

            return jax.grad(value)(moving)

        _, indirect = jax.jvp(slope, (theta,), (v,))
        gradient = jax.tree.map(jnp.add, direct, indirect)
        stats = step_stats(
            loss,
            gradient,
            residual=answer.residual,
            # r_x, f forwards and backwards, r_x's product.
            oracle_calls=4,
            # T was applied once more to see the residual.
            sweeps=answer.steps + 1,
            # V^π twice: for its curvature in θ, and in x and θ.
            linear_iterations=answer.linear_iterations + products + 2,
        )
        return advance(self, state, gradient, answer.values), stats

    def _value(
        self, problem: BilevelProblem[MDP], world: MDP, reward: Array, theta: Float[Array, "S A"]
    ) -> Float[Array, ""]:
        """V(x, θ)."""
        values, _ = regularised_values(
            world,
            reward,
            _softmax(theta),
            problem.tau,
            problem.regulariser,
        )
        return explored_start(world, self.exploration) @ values

    def _solve(
        self,
        problem: BilevelProblem[MDP],
        world: MDP,
        reward: Float[Array, "S A"],
        theta: Float[Array, "S A"],
        target: Float[Array, "S A"],
    ) -> tuple[Float[Array, "S A"], Int[Array, ""]]:
        """v, and the products it took."""
        policy = _softmax(theta)
        visits, products = solve_policy(
            world, policy, explored_start(world, self.exploration), transposed=True
        )
        # Linearised once, so that the products share one factorisation.
        _, curve = jax.linearize(jax.grad(lambda t: self._value(problem, world, reward, t)), theta)
        # At the optimum −∂²V = τ d (diag π − ππᵀ), state by state: scaled by D it is a projector.
        diagonal = (problem.tau * visits)[:, None] * policy
        seen = diagonal > 0
        scale = jnp.where(seen, 1 / jnp.sqrt(jnp.where(seen, diagonal, 1.0)), 0.0)

        def apply(u: Array) -> Array:
            return self.damping * u - scale * curve(scale * u)

        scaled = scale * target
        size = jnp.max(jnp.abs(scaled))
        size = jnp.where(size > 0, size, 1.0)
        unit = scaled / size
        reachable = max(self.tolerance, 100 * float(jnp.finfo(unit.dtype).eps))
        operator = lx.FunctionLinearOperator(
            apply, jax.eval_shape(lambda: unit), lx.positive_semidefinite_tag
        )
        solver = lx.CG(rtol=reachable, atol=reachable, max_steps=self.max_steps)
        solution = lx.linear_solve(operator, unit, solver, throw=False)
        return scale * solution.value * size, products + jnp.asarray(solution.stats["num_steps"], jnp.int32)


def _softmax(theta: Float[Array, "S A"]) -> Float[Array, "S A"]:
    return jax.nn.softmax(theta, axis=1)
