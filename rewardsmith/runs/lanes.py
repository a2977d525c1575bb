"""Several runs side by side in one compiled program: one more leading axis, and none for a single run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key


@dataclass(frozen=True)
class Lanes:
    """How many runs go side by side, and how their arrays are put together and taken apart.

    What runs differ in has a leading axis of that length; a single run has no such axis, so that its
    programs are the ones written down and not a batch of one.

    Attributes:
        count: S, at least 1.
    """

    count: int

    def lift(self, program: Callable[..., Any], *shared: int) -> Callable[..., Any]:
        """`program` for all lanes at once.

        Args:
            program: of one lane; its arguments by position.
            shared: the positions of arguments that all lanes have in common.
        """
        if self.count == 1:
            return program

        def lifted(*arguments: Any) -> Any:
            axes = tuple(None if position in shared else 0 for position in range(len(arguments)))
            return jax.vmap(program, axes, axis_size=self.count)(*arguments)

        return lifted

    def stack(self, trees: Sequence[Any]) -> Any:
        """What each lane has, put together; arrays of NumPy stay on the host."""
        if self.count == 1:
            return trees[0]
        return jax.tree.map(_together, *trees)

    def of(self, tree: Any, lane: int) -> Any:
        """What one lane has of it."""
        return tree if self.count == 1 else jax.tree.map(lambda array: array[lane], tree)

    def split(self, tree: Any) -> list[Any]:
        """What each lane has of it."""
        return [self.of(tree, lane) for lane in range(self.count)]

    def fold_in(self, key: Key[Array, "*lanes"], data: int) -> Key[Array, "*lanes"]:
        """`jax.random.fold_in` for the key of each lane."""
        return self.lift(jax.random.fold_in, 1)(key, np.uint32(data))


def _together(*leaves: Any) -> np.ndarray | Array:
    on_host = all(isinstance(leaf, np.ndarray | np.generic) for leaf in leaves)
    return np.stack(leaves) if on_host else jnp.stack(leaves)
