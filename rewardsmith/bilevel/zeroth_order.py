"""ZerothOrder: φ at two points on either side, in random directions."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._core import InputError
from .lower_level import lower_level
from .method import Method, MethodState, StepStats, advance, begin, step_stats


class ZerothOrder(Method):
    """Two-point random differences of φ, each a solved follower.

        ∇̂φ = mean over u ~ N(0, I) of  u (φ(x + σu) − φ(x − σu)) / (2σ)

    Unbiased for the gradient of φ smoothed by N(0, σ²I), which differs from ∇φ by O(σ²). Its variance grows
    with the numbers in x.

    Source: Nesterov and Spokoiny, Foundations of Computational Mathematics, 2017.

    Args:
        step_size: β of x ← x + β · update, a number.
        optimiser: any of optax; the update.
        perturbation: σ > 0, a number, in units of x.
        directions: u drawn a step; each costs two followers.
        tolerance: of the follower, relative to τ; it starts from its last answer at x.

    Raises:
        InputError: no directions, or a perturbation that is not positive.
    """

    step_size: Array = eqx.field(converter=jnp.asarray)
    optimiser: optax.GradientTransformation = eqx.field(default=optax.sgd(1.0), static=True, kw_only=True)
    perturbation: Array = eqx.field(default=0.1, converter=jnp.asarray, kw_only=True)
    directions: int = eqx.field(default=1, static=True, kw_only=True)
    tolerance: float = eqx.field(default=1e-12, static=True, kw_only=True)

    def __check_init__(self):
        if self.directions < 1:
            raise InputError(f"directions is {self.directions}; give at least 1")
        if not isinstance(self.perturbation, Tracer) and not np.all(self.perturbation > 0):
            raise InputError(f"perturbation is {self.perturbation}; give a positive number, such as 0.1")

    def init(self, problem: Any, x: PyTree, key: PRNGKeyArray) -> MethodState:
        """See `Method.init`."""
        return begin(self, x, lower_level(problem).start(), key)

    def step(self, problem: Any, state: MethodState) -> tuple[MethodState, StepStats]:
        """See `Method.step`."""
        level = lower_level(problem)
        moving, rest = eqx.partition(state.x, eqx.is_inexact_array)
        flat, unravel = ravel_pytree(moving)
        here = level.solve(state.x, state.memory, self.tolerance)
        loss = level.upper(state.x, here.y)
        key, draw = jax.random.split(state.key)
        directions = jax.random.normal(draw, (self.directions, flat.size), flat.dtype)

        def value(vector: Array) -> tuple[Array, Array, Array]:
            x = eqx.combine(unravel(vector), rest)
            answer = level.solve(x, here.y, self.tolerance)
            return level.upper(x, answer.y), answer.sweeps, answer.linear_iterations

        moves = (self.perturbation * directions).astype(flat.dtype)
        points = flat + jnp.stack([moves, -moves])
        values, sweeps, products = jax.vmap(jax.vmap(value))(points)
        slopes = (values[0] - values[1]) / (2 * self.perturbation)
        gradient = unravel((slopes @ directions / self.directions).astype(flat.dtype))
        stats = step_stats(
            loss,
            gradient,
            residual=here.residual,
            # r_x and f, at x and at both ends of each direction.
            oracle_calls=2 * (1 + 2 * self.directions),
            sweeps=here.sweeps + jnp.sum(sweeps),
            linear_iterations=here.linear_iterations + jnp.sum(products),
        )
        return advance(self, state, gradient, here.y, key), stats
