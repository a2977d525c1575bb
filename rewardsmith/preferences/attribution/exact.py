"""The exact Gauss–Newton matrix of few examples, inverted through the products of their gradients."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from .curvature import Solved, checked_damping, count_of


class ExactCurvature(eqx.Module):
    """G = RᵀR, with fewer rows than parameters; calling it gives (G + λI)⁻¹ v.

        (RᵀR + λI)⁻¹ v = (v − Rᵀ (RRᵀ + λI)⁻¹ R v)/λ,      RRᵀ = U diag(s) Uᵀ

    Attributes:
        rows: R, (n k, p).
        axes: U, (n k, n k).
        eigenvalues: s, (n k,): those of G that are not 0.
        damping: λ, in units of curvature: loss per squared unit of a parameter.
    """

    rows: Float[Array, "nk p"]
    axes: Float[Array, "nk nk"]
    eigenvalues: Float[Array, " nk"]
    damping: Float[Array, ""]

    @property
    def mean_eigenvalue(self) -> Float[Array, ""]:
        """trace(G) / number of parameters: what to choose λ by."""
        return jnp.sum(self.eigenvalues) / self.rows.shape[1]

    def damped(self, damping: float | Float[Array, ""]) -> "ExactCurvature":
        """The same with another λ > 0.

        Args:
            damping: λ > 0.
        """
        return eqx.tree_at(lambda k: k.damping, self, checked_damping(damping, self.damping))

    def __call__(self, vector: PyTree) -> Solved:
        """See `Solve`; converged unless rounding spoilt it: λ far below s in float32."""
        flat, back = ravel_pytree(vector)
        # The difference below loses digits by s/λ; solving for what is left gives them back.
        value = self._once(flat)
        value = value + self._once(flat - self._product(value))
        rest = jnp.linalg.norm(flat - self._product(value))
        residual = rest / jnp.maximum(jnp.linalg.norm(flat), 1e-30)
        return Solved(back(value), residual < 0.01, jnp.zeros((), jnp.int32), residual)

    def _once(self, flat: Float[Array, " p"]) -> Float[Array, " p"]:
        seen = self.axes.T @ (self.rows @ flat)
        kept = self.rows.T @ (self.axes @ (seen / (self.eigenvalues + self.damping)))
        return (flat - kept) / self.damping

    def _product(self, flat: Float[Array, " p"]) -> Float[Array, " p"]:
        return self.rows.T @ (self.rows @ flat) + self.damping * flat


def exact_curvature(
    scores: Callable[[Any, Any], Float[Array, " k"]],
    weights: Callable[[Float[Array, " k"], Any], Float[Array, " k"]],
    parameters: PyTree,
    examples: PyTree,
    *,
    damping: float | None = None,
    together: int = 16,
) -> ExactCurvature:
    """The matrix of `gauss_newton`, held whole as its n k rows √(w_ik/n) ∇D_ik.

    For as many answers as people give: n k p numbers in memory, a decomposition of an n k × n k matrix, and
    every further solve costs three products with R. With more, `kronecker_curvature`.

    Source: Woodbury's identity; the matrix RRᵀ is the network's tangent kernel on comparisons.

    Args:
        scores, weights, parameters, examples: as in `gauss_newton`, without a regulariser.
        damping: λ > 0; None: a tenth of the mean eigenvalue.
        together: examples whose gradients are computed at once.
    """
    count = count_of(examples)
    moving, still = eqx.partition(parameters, eqx.is_inexact_array)
    flat, back = ravel_pytree(moving)

    def one(example: PyTree) -> Float[Array, "k p"]:
        def of(at: Float[Array, " p"]) -> Float[Array, " k"]:
            return scores(eqx.combine(back(at), still), example)

        root = jnp.sqrt(weights(of(flat), example) / count)
        return root[:, None] * jax.jacrev(of)(flat)

    rows = jax.lax.map(one, examples, batch_size=together).reshape(-1, flat.size)
    eigenvalues, axes = jnp.linalg.eigh(rows @ rows.T)
    found = ExactCurvature(rows, axes, jnp.maximum(eigenvalues, 0.0), jnp.zeros((), flat.dtype))
    return found.damped(0.1 * found.mean_eigenvalue if damping is None else damping)
