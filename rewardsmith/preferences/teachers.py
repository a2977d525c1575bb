"""Synthetic teachers: they see the true rewards of two clips and say which is better, with human faults."""

import abc
import math
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from .._core import InputError, TrueReward, TrueRewardReader


class Teacher(abc.ABC):
    """Answers comparisons. Holds no state: what it answers follows from its settings and its arguments."""

    @abc.abstractmethod
    def answer(self, first: TrueReward, second: TrueReward, rng: np.random.Generator) -> np.ndarray:
        """(n,) labels: 1 the first clip is preferred, 0 the second, ½ a tie, NaN "cannot tell".

        Args:
            first, second: (n, H) true rewards of the clips.
            rng: the only randomness the answers may use.
        """

    def calibrated(self, recent: TrueReward) -> "Teacher":
        """The same teacher, told what rewards are usual; itself where it makes no use of that.

        Args:
            recent: true rewards of recent steps, any shape with at least one.
        """
        del recent
        return self


@dataclass(frozen=True)
class SyntheticTeacher(Teacher):
    """Compares true returns of clips with the faults of a person; without settings it has none.

    With R = Σ_h r_h of each clip, R' = Σ_h γ_t^{H−1−h} r_h, and the margin m, the mean return of a recent
    episode scaled to the length H of a clip, each pair goes through, in this order:

        skip        "cannot tell" where max(R¹, R²) ≤ ε_skip m: neither shows what the task is about
        equal       marked as a tie where |R¹ − R²| < ε_equal m
        myopic      R' takes the place of R, so that late steps count most
        stochastic  the first is preferred with probability σ(β (R'¹ − R'²)); rational: whichever is larger
        mistake     the label is flipped with probability ε
        ties        those marked become ½, whatever was said

    The draws of a pair do not depend on whether it, or another, is skipped or a tie.

    Source: Lee et al., *B-Pref*, NeurIPS 2021 (arXiv 2111.03026). Departures: a rational teacher calls equal
    sums a tie, not the second clip; where m < 0, which the source does not foresee, skip compares with
    (2 − ε_skip) m, as far below m as ε_skip m is where m > 0, and equal with ε_equal |m|.

    Args:
        beta: β >= 0, per unit of true reward; infinite or negative: perfectly rational.
        discount: γ_t in [0, 1]; 1: all steps count alike.
        mistake: ε in [0, 1].
        skip: ε_skip in [0, 1]; 0: never.
        equal: ε_equal >= 0; 0: never.
        margin_per_step: m / H, the mean true reward of recent steps, which `calibrated` measures. None: the
            mean over the clips of the call, which is rough when they are few.

    Raises:
        InputError: a fault outside its range.
    """

    beta: float = math.inf
    discount: float = 1.0
    mistake: float = 0.0
    skip: float = 0.0
    equal: float = 0.0
    margin_per_step: float | None = None

    def __post_init__(self) -> None:
        if math.isnan(self.beta):
            raise InputError("beta is nan; give a number >= 0, or inf for a rational teacher")
        for name in ("discount", "mistake", "skip"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name} is {getattr(self, name)}; give a number from 0 to 1")
        if not 0.0 <= self.equal < math.inf:
            raise InputError(f"equal is {self.equal}; give a number >= 0, such as 0.1")
        if self.margin_per_step is not None and not math.isfinite(self.margin_per_step):
            raise InputError(f"margin_per_step is {self.margin_per_step}; give a finite number, or None")

    def calibrated(self, recent: TrueReward) -> "SyntheticTeacher":
        """See `Teacher.calibrated`: with `margin_per_step` the mean of `recent`, where it skips or ties."""
        if self.skip == self.equal == 0.0:
            return self
        if math.prod(recent.shape) == 0:
            raise InputError("no recent true reward to calibrate a teacher by; give at least one step")
        return replace(self, margin_per_step=float(recent.reveal(TrueRewardReader.TEACHER).mean()))

    def answer(self, first: TrueReward, second: TrueReward, rng: np.random.Generator) -> np.ndarray:
        """See `Teacher.answer`."""
        rewards = np.stack([clip.reveal(TrueRewardReader.TEACHER) for clip in (first, second)])
        horizon, sums = rewards.shape[2], rewards.sum(axis=2)
        margin = sums.mean() if self.margin_per_step is None else self.margin_per_step * horizon
        cannot_tell, tie = skips(sums, self.skip, margin), ties(sums, self.equal, margin)
        label = rational_or_stochastic(myopic_sums(rewards, self.discount), self.beta, rng)
        label = np.where(tie, 0.5, with_mistakes(label, self.mistake, rng))
        return np.where(cannot_tell, np.nan, label)


def skips(sums: np.ndarray, share: float, margin: float) -> np.ndarray:
    """(n,) whether the larger of two sums (2, n) is at or below the `share` of the margin."""
    if share == 0.0:
        return np.zeros(sums.shape[1], bool)
    return sums.max(axis=0) <= (share if margin >= 0 else 2.0 - share) * margin


def ties(sums: np.ndarray, share: float, margin: float) -> np.ndarray:
    """(n,) whether two sums (2, n) differ by less than the `share` of the margin."""
    return abs(sums[0] - sums[1]) < share * abs(margin)


def myopic_sums(rewards: np.ndarray, discount: float) -> np.ndarray:
    """(2, n) sums of rewards (2, n, H), each weighed with how long before the end it came."""
    return (rewards * discount ** np.arange(rewards.shape[2])[::-1]).sum(axis=2)


def rational_or_stochastic(sums: np.ndarray, beta: float, rng: np.random.Generator) -> np.ndarray:
    """(n,) labels for sums (2, n): by σ(β (difference)), or where β is infinite or negative by its sign."""
    difference = sums[0] - sums[1]
    if beta < 0.0 or beta == math.inf:
        return 0.5 * (1.0 + np.sign(difference))
    with np.errstate(over="ignore"):
        probability = 0.5 * (1.0 + np.tanh(0.5 * (beta * difference)))
    return (rng.random(len(probability)) < probability).astype(float)


def with_mistakes(label: np.ndarray, chance: float, rng: np.random.Generator) -> np.ndarray:
    """Labels (n,), each flipped with probability `chance`."""
    if chance == 0.0:
        return label
    return np.where(rng.random(len(label)) < chance, 1.0 - label, label)


# ---- by name ------------------------------------------------------------------------------------


class NamedTeacher(NamedTuple):
    """Settings that have a name, and in a few words what they mean."""

    teacher: SyntheticTeacher
    meaning: str


TEACHERS: dict[str, NamedTeacher] = {
    "oracle": NamedTeacher(SyntheticTeacher(), "always prefers the clip with the larger true return"),
    "bradley-terry": NamedTeacher(SyntheticTeacher(beta=1.0), "errs with the logistic probability"),
    "stochastic": NamedTeacher(SyntheticTeacher(beta=1.0), "the same under the name of B-Pref, β = 1"),
    "mistake": NamedTeacher(SyntheticTeacher(mistake=0.1), "one answer in ten is flipped"),
    "skip": NamedTeacher(SyntheticTeacher(skip=0.1), "cannot tell where neither clip earns much"),
    "myopic": NamedTeacher(SyntheticTeacher(discount=0.9), "sees the end of a clip best, γ_t = 0.9"),
    "equal": NamedTeacher(SyntheticTeacher(equal=0.1), "calls near-equal clips equal"),
}
"""The teachers of B-Pref, and `bradley-terry`, whose temperature is 1/β."""


def make_teacher(name: str, **overrides: Any) -> SyntheticTeacher:
    """The teacher of that name, with other fields of `SyntheticTeacher` where `overrides` names them.

    Args:
        name: one of `TEACHERS`.
        overrides: fields of `SyntheticTeacher`, by name.

    Raises:
        InputError: no such teacher or field, or a value it cannot have.
    """
    if name not in TEACHERS:
        raise InputError(f'no teacher is called "{name}"; choose one of {", ".join(TEACHERS)}')
    known = [field.name for field in fields(SyntheticTeacher)]
    if unknown := sorted(overrides.keys() - set(known)):
        raise InputError(f"a teacher has no {unknown[0]}; choose among {', '.join(known)}")
    return replace(TEACHERS[name].teacher, **overrides)


def Oracle() -> SyntheticTeacher:
    """Always prefers the larger undiscounted sum of true rewards; equal sums are a tie."""
    return make_teacher("oracle")


def BradleyTerryTeacher(temperature: float = 1.0) -> SyntheticTeacher:
    """Prefers the first clip with probability σ((Σ r¹ − Σ r²) / temperature).

    Args:
        temperature: in units of true reward, 1/β; the larger, the more answers are wrong.

    Raises:
        InputError: a temperature that is not positive.
    """
    if not 0.0 < temperature < math.inf:
        raise InputError(f"teacher temperature is {temperature}; give a positive number")
    return make_teacher("bradley-terry", beta=1.0 / temperature)
