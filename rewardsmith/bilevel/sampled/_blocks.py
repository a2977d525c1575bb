"""`vmap` over tuples of clips, within bounded memory where the clips are pictures."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

# What a convolution makes of 256 pictures of Atari's size on the way takes some 150 MB.
_PICTURES_AT_ONCE = 256


def over_tuples(function: Callable[..., Any], *arrays: Any) -> Any:
    """``jax.vmap(function)(*arrays)``.

    Pictures (uint8, at least two axes behind those of the tuples) go through some tuples at a time, and their
    way is computed again for a gradient, so that memory does not grow with their number.
    """
    together = _together(arrays)
    if together >= _count(arrays):
        return jax.vmap(function)(*arrays)
    return jax.lax.map(jax.checkpoint(lambda one: function(*one)), arrays, batch_size=together)


def value_and_grad_over_tuples(
    function: Callable[..., Float[Array, ""]], x: PyTree, *arrays: Any
) -> tuple[Float[Array, ""], PyTree]:
    """The sum of ``function(x, one tuple)`` and its gradient in x, as `over_tuples` does it.

    Where there are blocks their gradients are added up one after another, and nothing is computed twice.
    """

    def total(x: PyTree, *block: Any) -> Float[Array, ""]:
        return jnp.sum(jax.vmap(partial(function, x))(*block))

    of_block, count = eqx.filter_value_and_grad(total), _count(arrays)
    together = next(size for size in range(min(_together(arrays), count), 0, -1) if count % size == 0)
    if together == count:
        return of_block(x, *arrays)

    def add(carry: PyTree, block: Any) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, carry, of_block(x, *block)), None

    blocks = jax.tree.map(lambda leaf: leaf.reshape(count // together, together, *leaf.shape[1:]), arrays)
    shapes = jax.eval_shape(of_block, x, *jax.tree.map(lambda leaf: leaf[0], blocks))
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, start, blocks)[0]


def _together(arrays: Any) -> int:
    """Tuples that go through at a time."""
    leaves = [leaf for leaf in jax.tree.leaves(arrays) if leaf.dtype == jnp.uint8 and leaf.ndim >= 4]
    pictures = sum(math.prod(leaf.shape[1:-3]) for leaf in leaves)
    return max(1, _PICTURES_AT_ONCE // pictures) if pictures else _count(arrays)


def _count(arrays: Any) -> int:
    return jax.tree.leaves(arrays)[0].shape[0]
