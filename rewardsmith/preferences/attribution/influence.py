"""Influence functions: what a little more weight on one example would change."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..._core import InputError
from .curvature import Loss, Solve, Solved, count_of


class Influence(eqx.Module):
    """Of n examples.

    Attributes:
        values: (n,), or (k, n) where the target is k numbers.
        converged: whether every linear system was solved to its tolerance.
        steps: products with the curvature, of the longest.
        residual: relative, of the worst.
    """

    values: Float[Array, "*k n"]
    converged: Bool[Array, ""]
    steps: Int[Array, ""]
    residual: Float[Array, ""]


def influence(
    loss: Loss,
    parameters: PyTree,
    examples: PyTree,
    target: Callable[[Any], Float[Array, "*k"]],
    solve: Solve,
    *,
    together: int = 256,
) -> Influence:
    """d target(θ(ε)) / dε_i at ε = 0, where θ(ε) minimises J(θ) + ε_i l(θ, z_i):

        I_i = −∇target(θ)ᵀ (H + λI)⁻¹ ∇l(θ, z_i),      J = (1/n) Σ_j l(θ, z_j) + R(θ)

    in units of the target per unit of weight; all n examples together weigh 1. Positive: more of this example
    would raise the target. To leave i out changes the target by −I_i/n to first order, to flip its label by
    −∇targetᵀ (H + λI)⁻¹ (∇l' − ∇l)/n.

    One linear system for each number of the target, whatever n is. θ is taken to be a minimum of J; away from
    one, I tells of a step of the damped Newton method from here.

    Source: Hampel, *JASA* 69, 1974; Koh and Liang, ICML 2017, arXiv 1703.04730.

    Args:
        loss: l(parameters, example).
        parameters: θ, any pytree; only its floating-point arrays are parameters.
        examples: stacked, n rows in every array.
        target: parameters -> what is asked about: a held-out loss, a difference of rewards, another example's
            loss; () or (k,).
        solve: v -> (H + λI)⁻¹ v, such as ``conjugate_gradients(hessian(loss, parameters, examples))``.
        together: examples looked at at once.

    Raises:
        InputError: as `conjugate_gradients` (of a vector, and inside `jit`, `converged` tells instead), or a
            target of another shape.
    """
    count_of(examples)
    moving, still = eqx.partition(parameters, eqx.is_inexact_array)
    shape = jax.eval_shape(lambda at: target(eqx.combine(at, still)), moving).shape
    if len(shape) > 1:
        raise InputError(f"target has shape {shape}; give one number or a vector")
    gradients = jax.jacrev(lambda at: jnp.atleast_1d(target(eqx.combine(at, still))))(moving)

    def effects(direction: PyTree) -> Float[Array, " n"]:
        """−∇l_i · direction of every i: derivatives along one direction, no gradient is stored."""

        def along(example: PyTree) -> Float[Array, ""]:
            return jax.jvp(lambda at: loss(eqx.combine(at, still), example), (moving,), (direction,))[1]

        return -jax.lax.map(along, examples, batch_size=together)

    def one(gradient: PyTree) -> tuple[Float[Array, " n"], Any]:
        solved = solve(gradient)
        return effects(solved.value), _told(solved)

    if not shape:
        return _with_worst(*one(jax.tree.map(lambda leaf: leaf[0], gradients)))
    # One after another: batched, all would take as many steps as the longest.
    return _with_worst(*jax.lax.map(one, gradients))


def self_influence(
    loss: Loss, parameters: PyTree, examples: PyTree, solve: Solve, *, together: int = 16
) -> Influence:
    """∇l_iᵀ (H + λI)⁻¹ ∇l_i ≥ 0: how much of an example's own fit is its own doing.

    −`influence` on the example's own loss: to leave it out raises that loss by this/n, to first order. Large
    where an example is fitted only because it was trained on, as one with a wrong label is.

    One linear system an example: with `conjugate_gradients` for small models, with a `KroneckerCurvature` for
    networks.

    Source: Koh and Liang, ICML 2017; for finding wrong labels also Feldman and Zhang, NeurIPS 2020.

    Args:
        loss, parameters, examples: as in `influence`.
        solve: as in `influence`; called inside `jit`, where it cannot raise: look at `converged`.
        together: examples whose gradients are held at once.
    """
    count_of(examples)
    moving, still = eqx.partition(parameters, eqx.is_inexact_array)

    def one(example: PyTree) -> tuple[Float[Array, ""], Any]:
        gradient = jax.grad(lambda at: loss(eqx.combine(at, still), example))(moving)
        solved = solve(gradient)
        return jnp.asarray(optax.tree.vdot(gradient, solved.value)), _told(solved)

    return _with_worst(*jax.lax.map(one, examples, batch_size=together))


def _told(solved: Solved) -> tuple[Array, Array, Array]:
    return solved.converged, solved.steps, solved.residual


def _with_worst(values: Array, told: tuple[Array, Array, Array]) -> Influence:
    converged, steps, residual = told
    return Influence(values, jnp.all(converged), jnp.max(steps), jnp.max(residual))
