"""ImplicitGradient (AID): solve the follower, solve the adjoint system, step."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._core import InputError
from .adjoints import Adjoint, Exact
from .lower_level import LowerLevel, lower_level
from .method import Method, MethodState, StepStats, advance, begin, step_stats


class ImplicitGradient(Method):
    """Approximate implicit differentiation: ∇φ = ∂f/∂x + (∂Φ/∂x)ᵀ w, (I − ∂Φ/∂y)ᵀ w = ∂f/∂y.

    On a table y is V and Φ a soft Bellman sweep, so that I − ∂Φ/∂y = I − γP^π. With the defaults the gradient
    is the exact hyper-gradient. The follower starts from its last answer.

    Sources: Pedregosa, ICML 2016; Grazzi et al., ICML 2020 (arXiv 2006.16218).

    Args:
        step_size: β of x ← x + β · update, a number.
        optimiser: any of optax; the update.
        adjoint: how the adjoint system is solved: `Exact()`, `Neumann(terms)`, `ConjugateGradient(...)`.
        sweeps: of the follower a step, from its last V; None: solve it to `tolerance`.
        tolerance: of the follower, relative to τ, and of the adjoint, relative to ∂f/∂y.

    Raises:
        InputError: `sweeps` below 1.
    """

    step_size: Array = eqx.field(converter=jnp.asarray)
    optimiser: optax.GradientTransformation = eqx.field(default=optax.sgd(1.0), static=True, kw_only=True)
    adjoint: Adjoint = eqx.field(default=Exact(), kw_only=True)
    sweeps: int | None = eqx.field(default=None, static=True, kw_only=True)
    tolerance: float = eqx.field(default=1e-12, static=True, kw_only=True)

    def __check_init__(self):
        if self.sweeps is not None and self.sweeps < 1:
            raise InputError(f"sweeps is {self.sweeps}; give at least 1, or None to solve to tolerance")

    def init(self, problem: Any, x: PyTree, key: PRNGKeyArray) -> MethodState:
        """See `Method.init`."""
        return begin(self, x, lower_level(problem).start(), key)

    def step(self, problem: Any, state: MethodState) -> tuple[MethodState, StepStats]:
        """See `Method.step`."""
        level = lower_level(problem)
        if self.sweeps is None:
            y, residual, sweeps, products = level.solve(state.x, state.memory, self.tolerance)
        else:
            y = level.iterate(state.x, state.memory, self.sweeps)
            residual, sweeps, products = level.residual(state.x, y), self.sweeps + 1, 0
        loss, gradient, more = differentiate(level, state.x, y, self.adjoint, self.tolerance)
        stats = step_stats(
            loss,
            gradient,
            residual=residual,
            # r_x for the solve, f forwards and backwards, r_x's product with the adjoint.
            oracle_calls=4,
            sweeps=sweeps,
            linear_iterations=products + more,
        )
        return advance(self, state, gradient, y), stats


def differentiate(
    level: LowerLevel, x: PyTree, y: PyTree, adjoint: Adjoint, tolerance: float
) -> tuple[Float[Array, ""], PyTree, Int[Array, ""]]:
    """f(x, y), its total derivative in x as if y were the fixed point, and the products the adjoint took."""
    moving, rest = eqx.partition(x, eqx.is_inexact_array)
    loss, pull_upper = jax.vjp(lambda m, held: level.upper(eqx.combine(m, rest), held), moving, y)
    direct, target = pull_upper(jnp.ones_like(loss))
    _, pull = jax.vjp(lambda m, held: level.sweep(eqx.combine(m, rest), held), moving, y)
    w, products = adjoint(lambda v: pull(v)[1], target, lambda b: level.solve_adjoint(x, y, b, tolerance))
    return loss, jax.tree.map(jnp.add, direct, pull(w)[0]), products
