"""Linear systems in I − γP^π: how values and occupancies of a fixed policy are found, by the world's size."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._krylov import Product, bicgstab, sweep
from .bellman import policy_transition
from .model import MDP
from .transition import SparseTransition, expect

# Up to here an S×S factorisation beats iterations, whose products cost S²A on a table, SAK if sparse.
DIRECT_LIMIT, SPARSE_DIRECT_LIMIT = 1000, 300


def solves_directly(world: MDP) -> bool:
    """Whether linear systems of this world are factorised: up to 1,000 states, 300 if sparse.

    Args:
        world: of S states; several contexts are counted one by one.
    """
    sparse = isinstance(world.transition, SparseTransition)
    return world.num_states <= (SPARSE_DIRECT_LIMIT if sparse else DIRECT_LIMIT)


def solve_policy(
    world: MDP,
    policy: Float[Array, "S A"],
    target: Float[Array, " S"],
    *,
    transposed: bool = False,
    tolerance: float | Float[Array, ""] = 1e-10,
) -> tuple[Float[Array, " S"], Int[Array, ""]]:
    """v with (I − γP^π) v = target, or (I − γP^π)ᵀ v = target; and the products with P^π it took.

    In small worlds by factorisation, which counts as one product; in others matrix-free, by BiCGStab, and
    P^π is never formed (`solves_directly`). Where BiCGStab stagnates, as it may in deterministic worlds,
    v ← target + γP^π v takes over, which gains a factor γ each time. Differentiable in all arrays given, by
    one more solve.

    Args:
        world: gives γ and P.
        policy: π.
        target: right-hand side.
        transposed: solve the transposed system, that of occupancies and adjoints.
        tolerance: of the largest residual, relative to the largest entry of `target`; matrix-free only. Never
            below what rounding allows, a hundred units in the last place, and not below 1e-13.
    """
    if solves_directly(world):
        steps_on = world.discount * policy_transition(world, policy)
        matrix = jnp.eye(world.num_states, dtype=steps_on.dtype) - steps_on
        return _factorise(matrix.T if transposed else matrix, target, world.contexts), jnp.ones((), jnp.int32)

    def apply(values: Array) -> Array:
        return values - world.discount * jnp.sum(policy * expect(world.transition, values), axis=-1)

    product = apply
    if transposed:
        transpose = jax.linear_transpose(apply, target)
        product = lambda values: transpose(values)[0]  # noqa: E731
    reachable = max(1e-13, 100 * float(jnp.finfo(target.dtype).eps))
    bound = jnp.maximum(jnp.asarray(tolerance, target.dtype), reachable)

    def solve(matvec: Product, right: Array) -> tuple[Array, Array]:
        return _iterate(matvec, right, bound)

    return jax.lax.custom_linear_solve(product, target, solve, solve, has_aux=True)


def _factorise(matrix: Float[Array, "S S"], target: Float[Array, " S"], contexts: int) -> Float[Array, " S"]:
    if contexts == 1:
        return jnp.linalg.solve(matrix, target)
    size = len(target) // contexts
    each = jnp.arange(contexts)
    blocks = matrix.reshape(contexts, size, contexts, size)[each, :, each, :]
    return jax.vmap(jnp.linalg.solve)(blocks, target.reshape(contexts, size)).reshape(-1)


def _iterate(
    matvec: Product, right: Float[Array, " S"], tolerance: Float[Array, ""]
) -> tuple[Float[Array, " S"], Int[Array, ""]]:
    size = jnp.max(jnp.abs(right))
    scale = jnp.where(size > 0, size, 1.0)
    start, products = bicgstab(matvec, right / scale, tolerance)
    values, more = sweep(matvec, right / scale, start, tolerance)
    return values * scale, products + more
