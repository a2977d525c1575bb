"""The true reward as a type of its own: whoever holds one cannot read it without naming what for."""

import enum
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np


class TrueRewardReader(enum.Enum):
    """Who may read a true reward, and why. Nobody else has a member here.

    A learner is meant to know the reward only through comparisons; `tests/test_true_reward.py` checks
    which modules so much as mention this type.
    """

    TEACHER = "a synthetic teacher compares two clips"
    EVALUATOR = "an evaluation reports the return"
    CHECKPOINT = "a checkpoint stores and restores what the teacher has not been asked about yet"
    CEILING = "SAC on the true reward is the ceiling the other methods are measured against"


class TrueReward:
    """Rewards paid by a simulator, sealed: can be stored, indexed and joined, but not computed with.

    Every door through which NumPy, JAX or Python would read the numbers raises ``TypeError``. The one
    that opens is `reveal`, which asks for a `TrueRewardReader`.

    Args:
        values: array of rewards, any shape, in the simulator's units (per step).
    """

    __slots__ = ("__values",)

    def __init__(self, values: Any):
        self.__values = np.asarray(values, dtype=np.float64)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the sealed array; it says nothing of the numbers."""
        return self.__values.shape

    def is_finite(self) -> bool:
        """Whether all numbers are: a broken simulator shows, and nothing else does."""
        return bool(np.isfinite(self.__values).all())

    def reveal(self, reader: TrueRewardReader) -> np.ndarray:
        """A copy of the numbers (float64), for a reader allowed to have them."""
        if not isinstance(reader, TrueRewardReader):
            raise TypeError("a true reward is revealed to a TrueRewardReader only")
        return self.__values.copy()

    def __getitem__(self, index: Any) -> "TrueReward":
        return TrueReward(self.__values[index])

    def __setitem__(self, index: Any, other: "TrueReward") -> None:
        if not isinstance(other, TrueReward):
            raise TypeError("only a TrueReward can be stored among true rewards")
        self.__values[index] = other.__values

    def __len__(self) -> int:
        return len(self.__values)

    @staticmethod
    def stack(rewards: "Sequence[TrueReward]", axis: int = 0) -> "TrueReward":
        """Join along a new axis; the result is sealed too."""
        return TrueReward(np.stack([reward.__values for reward in rewards], axis))

    def __repr__(self) -> str:
        return f"TrueReward(shape={self.shape}, sealed)"

    def _refuse(self, *_: object, **_named: object) -> NoReturn:
        raise TypeError(
            "a TrueReward cannot be read here: a learner sees comparisons, not the true reward. "
            "Teachers and evaluators call .reveal(reader)."
        )

    __array__ = __jax_array__ = __float__ = __int__ = __iter__ = __bool__ = _refuse
    __array_ufunc__ = __array_function__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __neg__ = __reduce__ = _refuse
