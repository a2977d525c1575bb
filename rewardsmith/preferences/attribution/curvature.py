"""Curvature of a training loss as a product with vectors, and its damped inverse by conjugate gradients."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..._core import InputError

Loss = Callable[[Any, Any], Float[Array, ""]]
"""loss(parameters, example) -> what one example costs."""
Product = Callable[[PyTree], PyTree]
"""v -> H v, for v like the parameters' floating-point arrays."""


class Solved(eqx.Module):
    """(H + λI)⁻¹ v.

    Attributes:
        value: like v.
        converged: whether the tolerance was reached.
        steps: products with H it took.
        residual: ‖(H + λI) value − v‖ / ‖v‖.
    """

    value: PyTree
    converged: Bool[Array, ""]
    steps: Int[Array, ""]
    residual: Float[Array, ""]


Solve = Callable[[PyTree], Solved]
"""v -> (H + λI)⁻¹ v; `conjugate_gradients`, or a `KroneckerCurvature`."""


def count_of(examples: PyTree) -> int:
    """n, where every array of `examples` has n rows.

    Raises:
        InputError: no arrays, no rows, or not as many in each.
    """
    counts = {leaf.shape[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(examples)}
    if len(counts) != 1 or 0 in counts:
        raise InputError(
            f"examples have {sorted(counts)} rows: stack them, one row an example in every array"
        )
    return counts.pop()


def hessian(
    loss: Loss,
    parameters: PyTree,
    examples: PyTree,
    *,
    regulariser: Callable[[Any], Float[Array, ""]] | None = None,
    together: int = 256,
) -> Product:
    """v -> ∇²J v of the training loss J(θ) = (1/n) Σ_i l(θ, z_i) + R(θ), by a derivative of its gradient.

    Positive semi-definite at a minimum only; elsewhere give more damping, or `gauss_newton`. Where the
    network is piecewise linear the kinks are left out, as automatic differentiation does.

    Source: Pearlmutter, *Neural Computation* 6, 1994.

    Args:
        loss: l.
        parameters: θ, any pytree; only its floating-point arrays are parameters.
        examples: z, stacked.
        regulariser: R; None: 0.
        together: examples looked at at once.
    """
    moving, still = eqx.partition(parameters, eqx.is_inexact_array)
    count = count_of(examples)

    def product(vector: PyTree) -> PyTree:
        def of(part: PyTree) -> PyTree:
            def total(at: PyTree) -> Float[Array, ""]:
                whole = eqx.combine(at, still)
                return jnp.sum(jax.vmap(lambda example: loss(whole, example))(part)) / count

            return jax.jvp(jax.grad(total), (moving,), (vector,))[1]

        return _regularised(summed(of, examples, together), regulariser, moving, still, vector)

    return product


def gauss_newton(
    scores: Callable[[Any, Any], Float[Array, " k"]],
    weights: Callable[[Float[Array, " k"], Any], Float[Array, " k"]],
    parameters: PyTree,
    examples: PyTree,
    *,
    regulariser: Callable[[Any], Float[Array, ""]] | None = None,
    together: int = 256,
) -> Product:
    """v -> G v, G = (1/n) Σ_i Σ_k w_ik ∇D_ik ∇D_ikᵀ + ∇²R, where the loss sees θ through the scores D only.

    With w = ∂²l/∂D² this is the generalised Gauss–Newton matrix, with w = E_y[(∂l_y/∂D)²] over the model's
    own labels Fisher's information; for Bradley and Terry both are w = P (1 − P). Positive semi-definite
    anywhere if w ≥ 0.

    Source: Schraudolph, *Neural Computation* 14, 2002; Martens, *JMLR* 21, 2020.

    Args:
        scores: (parameters, example) -> D, such as [Σ r¹ − Σ r²].
        weights: (D, example) -> w.
        parameters, examples, regulariser, together: as in `hessian`.
    """
    moving, still = eqx.partition(parameters, eqx.is_inexact_array)
    count = count_of(examples)

    def product(vector: PyTree) -> PyTree:
        def of(part: PyTree) -> PyTree:
            def all_scores(at: PyTree) -> Float[Array, "b k"]:
                whole = eqx.combine(at, still)
                return jax.vmap(lambda example: scores(whole, example))(part)

            at, pull = jax.vjp(all_scores, moving)
            pushed = jax.jvp(all_scores, (moving,), (vector,))[1]
            return pull(jax.vmap(weights)(at, part) * pushed / count)[0]

        return _regularised(summed(of, examples, together), regulariser, moving, still, vector)

    return product


def conjugate_gradients(
    product: Product,
    *,
    damping: float = 0.0,
    preconditioner: Product | None = None,
    tolerance: float = 1e-5,
    max_steps: int = 1000,
    throw: bool = True,
) -> Solve:
    """v -> (H + λI)⁻¹ v by conjugate gradients; H is never formed.

    Args:
        product: v -> H v, positive semi-definite.
        damping: λ ≥ 0, in units of H: loss per squared unit of a parameter. At λ directions of that curvature
            count half; where H is singular, as that of networks is, it must be positive.
        preconditioner: v -> about (H + λI)⁻¹ v, positive definite, such as `KroneckerCurvature.inverse`.
        tolerance: the residual relative to ‖v‖; not below what the arrays' type can hold.
        max_steps: products at most.
        throw: raise where the tolerance was not reached; else, and inside `jit`, `Solved.converged` tells.

    Raises:
        InputError: bad numbers; with `throw`, when called: not converged.
    """
    if not 0.0 <= damping < float("inf"):
        raise InputError(f"damping is {damping}; give a number ≥ 0, such as 1e-3")
    if not 0.0 < tolerance < 1.0 or max_steps < 1:
        raise InputError(
            f"tolerance is {tolerance} and max_steps {max_steps}; give 0 < tolerance < 1, max_steps ≥ 1"
        )

    def damped(vector: PyTree) -> PyTree:
        return jax.tree.map(lambda curved, leaf: curved + damping * leaf, product(vector), vector)

    def solve(vector: PyTree) -> Solved:
        shapes = jax.eval_shape(lambda: vector)
        size = optax.tree.norm(vector)
        unit = jax.tree.map(lambda leaf: leaf / jnp.where(size > 0, size, 1.0), vector)
        eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(vector))
        # The solver measures each number by itself; what is promised is a norm.
        numbers = sum(leaf.size for leaf in jax.tree.leaves(vector))
        near = max(tolerance, 100 * eps)
        # The solver takes a curvature below some 100 eps for each number as none, whatever its unit: so the
        # least there can be, λ, is made larger than that.
        unit_of = max(1.0, 1000 * eps * numbers) / (min(damping, 1.0) or 1.0)

        def scaled(vector: PyTree) -> PyTree:
            return jax.tree.map(lambda leaf: unit_of * leaf, damped(vector))

        operator = lx.FunctionLinearOperator(scaled, shapes, lx.positive_semidefinite_tag)
        options = {}
        if preconditioner is not None:
            options["preconditioner"] = lx.FunctionLinearOperator(
                preconditioner, shapes, lx.positive_semidefinite_tag
            )
        solver = lx.CG(rtol=0.0, atol=near / numbers**0.5, max_steps=max_steps)
        found = lx.linear_solve(operator, unit, solver, options=options, throw=False)
        value = jax.tree.map(lambda leaf: unit_of * leaf, found.value)
        rest = jax.tree.map(jnp.subtract, damped(value), unit)
        residual = jnp.where(size > 0, optax.tree.norm(rest), 0.0)
        # The recursion's residual drifts from the true one.
        converged = (residual <= 10 * near) & jnp.isfinite(residual)
        steps = jnp.asarray(found.stats["num_steps"], jnp.int32)
        value = jax.tree.map(lambda leaf: leaf * size, value)
        if throw and not isinstance(converged, Tracer) and not bool(converged):
            raise InputError(
                f"conjugate gradients stood at residual {float(residual):.1e} after {int(steps)} steps: "
                "raise damping, tolerance or max_steps, or give throw=False to take what there is"
            )
        return Solved(value, converged, steps, residual)

    return solve


def checked_damping(damping: float | Float[Array, ""], like: Float[Array, ""]) -> Float[Array, ""]:
    """λ > 0 as an array of `like`'s type.

    Raises:
        InputError: a number that is not positive.
    """
    if not isinstance(damping, Tracer) and not 0.0 < float(damping) < float("inf"):
        raise InputError(
            f"damping is {float(damping)}; give a positive number, or None for a tenth of the mean"
        )
    return jnp.asarray(damping, like.dtype)


def _regularised(
    curved: PyTree,
    regulariser: Callable[[Any], Float[Array, ""]] | None,
    moving: PyTree,
    still: PyTree,
    vector: PyTree,
) -> PyTree:
    """`curved` with ∇²R v added."""
    if regulariser is None:
        return curved
    slope = jax.grad(lambda at: regulariser(eqx.combine(at, still)))
    return jax.tree.map(jnp.add, curved, jax.jvp(slope, (moving,), (vector,))[1])


def summed(of: Callable[[PyTree], PyTree], examples: PyTree, together: int) -> PyTree:
    """Σ over blocks of `together` examples of `of(block)`, a sum over its rows; one block in memory.

    Raises:
        InputError: `together` below 1.
    """
    if together < 1:
        raise InputError(f"together is {together}; give at least 1")
    count = count_of(examples)
    whole = count // together
    blocks = jax.tree.map(
        lambda leaf: leaf[: whole * together].reshape(whole, together, *leaf.shape[1:]), examples
    )
    rest = jax.tree.map(lambda leaf: leaf[whole * together :], examples)
    if whole == 0:
        return of(rest)

    def add(total: PyTree, block: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, of(block)), None

    first = jax.tree.map(lambda leaf: leaf[0], blocks)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of, first))
    total, _ = jax.lax.scan(add, nothing, blocks)
    return total if whole * together == count else jax.tree.map(jnp.add, total, of(rest))
