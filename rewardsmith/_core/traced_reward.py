"""The true reward inside a compiled program: carried by every transformation, read by named readers only."""

from typing import Any

import jax
import numpy as np

from .true_reward import TrueReward, TrueRewardReader


@jax.tree_util.register_pytree_node_class
class TracedTrueReward:
    """A `TrueReward` whose numbers are a JAX array, traced or not.

    A pytree, so that ``jit``, ``scan`` and ``vmap`` carry it like any other value; what refuses to read a
    `TrueReward` refuses here too. A pytree cannot hide its leaves from `jax.tree`, so the seal guards
    against mistakes there, not against intent.

    Args:
        values: array of rewards, any shape, in the simulator's units (per step).
    """

    __slots__ = ("__values",)

    def __init__(self, values: jax.Array):
        self.__values = values

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the sealed array; it says nothing of the numbers."""
        return self.__values.shape

    def reveal(self, reader: TrueRewardReader) -> jax.Array:
        """The numbers, for a reader allowed to have them."""
        if not isinstance(reader, TrueRewardReader):
            raise TypeError("a true reward is revealed to a TrueRewardReader only")
        return self.__values

    def sealed(self) -> TrueReward:
        """The same numbers on the host, sealed; for when the program has ended."""
        return TrueReward(np.asarray(self.__values))

    def __getitem__(self, index: Any) -> "TracedTrueReward":
        return TracedTrueReward(self.__values[index])

    def tree_flatten(self) -> tuple[tuple[Any], None]:
        """For JAX."""
        return (self.__values,), None

    @classmethod
    def tree_unflatten(cls, aux: None, children: tuple[Any]) -> "TracedTrueReward":
        """For JAX, which at times puts placeholders where the numbers were."""
        del aux
        # Every argument is taken as it is: __init__ may be type-checked, and a placeholder is no array.
        reward = object.__new__(cls)
        (reward.__values,) = children
        return reward

    def __repr__(self) -> str:
        return f"TracedTrueReward(shape={getattr(self.__values, 'shape', ())}, sealed)"


# One list of doors for both types: those that `TrueReward` closes.
_refuse = vars(TrueReward)["_refuse"]
for _name in [name for name, door in vars(TrueReward).items() if door is _refuse]:
    setattr(TracedTrueReward, _name, _refuse)
