"""Synthetic teachers: they see the true rewards of two clips and answer which is better."""

import abc
from dataclasses import dataclass

import numpy as np

from .._core import InputError, TrueReward, TrueRewardReader


class Teacher(abc.ABC):
    """Answers comparisons."""

    @abc.abstractmethod
    def answer(self, first: TrueReward, second: TrueReward, rng: np.random.Generator) -> np.ndarray:
        """(n,) labels: 1 the first clip is preferred, 0 the second, ½ a tie.

        Args:
            first, second: (n, H) true rewards of the clips.
            rng: the only randomness the answers may use.
        """


@dataclass(frozen=True)
class Oracle(Teacher):
    """Always prefers the larger undiscounted sum of true rewards; equal sums are a tie."""

    def answer(self, first: TrueReward, second: TrueReward, rng: np.random.Generator) -> np.ndarray:
        """See `Teacher.answer`."""
        del rng
        return 0.5 * (1.0 + np.sign(_sums(first) - _sums(second)))


@dataclass(frozen=True)
class BradleyTerryTeacher(Teacher):
    """Prefers the first clip with probability σ((Σ r¹ − Σ r²) / temperature).

    Args:
        temperature: in units of true reward; the larger, the more answers are wrong.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < np.inf:
            raise InputError(f"teacher temperature is {self.temperature}; give a positive number")

    def answer(self, first: TrueReward, second: TrueReward, rng: np.random.Generator) -> np.ndarray:
        """See `Teacher.answer`."""
        difference = (_sums(first) - _sums(second)) / self.temperature
        probability = 0.5 * (1.0 + np.tanh(0.5 * difference))
        return (rng.random(len(probability)) < probability).astype(float)


def _sums(reward: TrueReward) -> np.ndarray:
    return reward.reveal(TrueRewardReader.TEACHER).sum(axis=1)


def comparisons_due(step: int, total_steps: int, budget: int, first_share: float = 0.25) -> int:
    """How many of `budget` comparisons should have been asked after `step` of `total_steps`.

    pre + (1 − pre)(1 − 0.01^{t/T}) of the budget, with pre = `first_share`: the schedule of Christiano et
    al. (2017), fast at first and slow later. All of it at the end. t counts the random steps too, so the
    first session asks for more than `first_share`.
    """
    if step >= total_steps:
        return budget
    share = first_share + (1.0 - first_share) * (1.0 - 0.01 ** (step / total_steps))
    return min(budget, round(budget * share))
