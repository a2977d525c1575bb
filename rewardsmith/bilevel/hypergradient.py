"""The exact hyper-gradient of a tabular problem."""

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from .._core import InputError, as_tolerance
from ..follower import solve_follower
from ..mdp import MDP
from ..problem import BilevelProblem, ClipLoss
from .adjoints import Exact
from .enumeration import check_enumerable, exact_upper_loss
from .implicit_gradient import differentiate
from .lower_level import LowerLevel
from .method import movable


def hypergradient(
    problem: BilevelProblem[MDP] | LowerLevel, x: PyTree, *, tolerance: float = 1e-12
) -> tuple[Float[Array, ""], PyTree]:
    """φ(x) = f(x, π*(x)) and ∇φ(x), exact to rounding.

    With g = ∂f/∂π and U[s,a,t] = 1{s=t} − γP[s,a,t],

        ∇φ = ∂f/∂x + (1/τ) Σ π g ∇r_x − (1/τ) (Σ_a π ∇r_x)ᵀ w,    (I − γP^π)ᵀ w = Uᵀ(π g)

    (Yang, Gao and Yuan, AISTATS 2025, arXiv 2405.19697), computed in reverse mode: one follower solve, one
    transposed S×S solve and one vector–Jacobian product through r_x, whose n×S×A Jacobian is never formed.

    Args:
        problem: on an `MDP`; its upper loss a function of x and the policy, or a `ClipLoss`, whose clips
            are enumerated. Or a `FixedPointProblem`, solved and differentiated by its own iteration.
        x: any pytree. Its floating-point arrays are differentiated, all else is left alone and has
            gradient None.
        tolerance: of the follower, relative to τ, and of linear solves in worlds of more than 1,000 states,
            relative to their right-hand side.

    Returns:
        φ, and ∇φ as a pytree like x.

    Raises:
        InputError: no tabular world, nothing in x to differentiate, or a reward or upper loss of the wrong
            shape.

    Examples:
        The leader pays x for the first of two actions, which it wants taken: φ = −π = −σ(x/τ).

        >>> import jax.numpy as jnp
        >>> import rewardsmith as rs
        >>> world = rs.MDP([[[1.0], [1.0]]], initial=[1.0], discount=0.0)
        >>> def pay(x):
        ...     return jnp.array([[1.0, 0.0]]) * x
        >>> problem = rs.BilevelProblem(world, pay, lambda x, policy: -policy[0, 0], temperature=0.5)
        >>> phi, gradient = rs.hypergradient(problem, 0.0)
        >>> round(float(phi), 6), round(float(gradient), 6)
        (-0.5, -0.5)
    """
    x, tolerance = movable("x", x), as_tolerance("tolerance", tolerance)
    if isinstance(problem, LowerLevel):
        return _finite(*_of_contraction(problem, x, tolerance))
    if not isinstance(problem, BilevelProblem) or not isinstance(problem.world, MDP):
        raise InputError("the exact hyper-gradient needs an MDP; on a simulator use a sampled method")
    if isinstance(problem.upper_loss, ClipLoss):
        check_enumerable(problem.world, problem.upper_loss)
    return _finite(*_value_and_grad(x, problem, tolerance))


def _finite(loss: Array, gradient: PyTree) -> tuple[Float[Array, ""], PyTree]:
    held = [loss, *jax.tree.leaves(gradient)]
    if not any(isinstance(leaf, Tracer) for leaf in held):
        if not all(np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in held):
            raise InputError(
                f"the upper loss is {float(loss):.6g} and it or its gradient is not finite; "
                "check the reward and the upper loss at x"
            )
    return loss, gradient


@eqx.filter_jit
@eqx.filter_value_and_grad
def _value_and_grad(x: PyTree, problem: BilevelProblem[MDP], tolerance: float) -> Float[Array, ""]:
    answer = solve_follower(
        problem.world_at(x),
        problem.reward(x),
        problem.tau,
        regulariser=problem.regulariser,
        tolerance=tolerance,
    )
    return exact_upper_loss(problem, x, answer.policy)


@eqx.filter_jit
def _of_contraction(level: LowerLevel, x: PyTree, tolerance: float) -> tuple[Float[Array, ""], PyTree]:
    y = level.solve(x, level.start(), tolerance).y
    return differentiate(level, x, y, Exact(), tolerance)[:2]
