"""UnrolledGradient (ITD): a few sweeps of the follower, differentiated as they stand."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._core import InputError
from .lower_level import lower_level
from .method import Method, MethodState, StepStats, advance, begin, step_stats


class UnrolledGradient(Method):
    """Iterative differentiation: ∇_x f(x, Φ_x^K(y₀)), backwards through K sweeps.

    Its distance to the hyper-gradient falls like γ^K. Memory grows with K: one y a sweep.

    Sources: Maclaurin, Duvenaud and Adams, ICML 2015; Franceschi et al., ICML 2018; Grazzi et al., ICML 2020
    (arXiv 2006.16218).

    Args:
        step_size: β of x ← x + β · update, a number.
        optimiser: any of optax; the update.
        sweeps: K.
        warm_start: y₀ is the last step's y, held still; otherwise the problem's start, each time.

    Raises:
        InputError: no sweeps.
    """

    step_size: Array = eqx.field(converter=jnp.asarray)
    optimiser: optax.GradientTransformation = eqx.field(default=optax.sgd(1.0), static=True, kw_only=True)
    sweeps: int = eqx.field(default=20, static=True, kw_only=True)
    warm_start: bool = eqx.field(default=True, static=True, kw_only=True)

    def __check_init__(self):
        if self.sweeps < 1:
            raise InputError(f"sweeps is {self.sweeps}; give at least 1")

    def init(self, problem: Any, x: PyTree, key: PRNGKeyArray) -> MethodState:
        """See `Method.init`."""
        return begin(self, x, lower_level(problem).start(), key)

    def step(self, problem: Any, state: MethodState) -> tuple[MethodState, StepStats]:
        """See `Method.step`."""
        level = lower_level(problem)
        moving, rest = eqx.partition(state.x, eqx.is_inexact_array)
        start = state.memory if self.warm_start else level.start()

        def unrolled(m: PyTree) -> tuple[Array, PyTree]:
            x = eqx.combine(m, rest)
            y = level.iterate(x, start, self.sweeps)
            return level.upper(x, y), y

        (loss, y), gradient = jax.value_and_grad(unrolled, has_aux=True)(moving)
        stats = step_stats(
            loss,
            gradient,
            residual=level.residual(state.x, y),
            # r_x and f, forwards and backwards.
            oracle_calls=4,
            # As many backwards as forwards, and one for the residual.
            sweeps=2 * self.sweeps + 1,
        )
        return advance(self, state, gradient, y), stats
