"""The settings of `check` on tables: one dataclass, which is the command line and the file."""

import math
from dataclasses import dataclass
from typing import Annotated

import tyro

from ..._core import InputError
from ..config import ESTIMATORS
from ..exact.config import SolveConfig

DEFAULT_PROBLEMS = ("preference", "contract", "shaping")
_SIZES = {
    "contract": ("levels=5", "efforts=3"),
    "navigation": ("discount=0.95",),
    "shaping": ("discount=0.85", "temperature=0.02"),
}
"""Options that a problem gets here unless others are given: small, and with goals that are reached."""
LEAST_PAIRS = 64
_LEAST_REPEATS, _FACTOR = 3, 4


@dataclass(frozen=True)
class CheckConfig:
    """Settings of a check. Everything random follows from the seeds."""

    problems: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PROBLEM")] = ()
    """Names of problems on tables; rewardsmith list shows them. None: preference, contract and shaping."""
    estimators: tuple[str, ...] = tuple(ESTIMATORS)
    """Which of one-step, suffix, branch and adjoint."""
    option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """An option of the one problem as KEY=VALUE, such as --option levels=8; may be given several times."""
    temperature: float | None = None
    """τ of the follower, in units of reward; none takes the problem's own."""
    pairs: int = 1024
    """Tuples of clips in the largest estimate; 64, 256, … are measured on the way there."""
    repeats: int = 10
    """Independent estimates of each kind and size."""
    horizon: int | None = None
    """Steps of a clip where the leader's return is a sum without end; none: until γ^H is 0.001."""
    seed: int = 0
    """Of all draws."""
    start: int = 0
    """Seed of x, at which all is measured."""

    def __post_init__(self) -> None:
        if self.pairs < LEAST_PAIRS or self.pairs % LEAST_PAIRS:
            raise InputError(f"--pairs is {self.pairs}: give a multiple of {LEAST_PAIRS}, such as 1024")
        if self.repeats < _LEAST_REPEATS:
            raise InputError(f"--repeats is {self.repeats}: give at least {_LEAST_REPEATS}, for an interval")
        if self.horizon is not None and self.horizon < 1:
            raise InputError(f"--horizon is {self.horizon}: give a whole number of at least 1")
        if self.temperature is not None and not 0.0 < self.temperature < math.inf:
            raise InputError(f"--temperature is {self.temperature}: give a positive number")
        for name in ("seed", "start"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name} is {getattr(self, name)}: give 0 or a positive whole number")
        for name in self.estimators:
            if name not in ESTIMATORS:
                raise InputError(f"unknown estimator {name!r}: choose one of {', '.join(ESTIMATORS)}")
        if not self.estimators:
            raise InputError(f"no estimators: give one or more of {', '.join(ESTIMATORS)}")
        for names in (self.problems, self.estimators):
            if len(set(names)) < len(names):
                raise InputError(f"{', '.join(names)}: name each once")
        if len(self.all_problems) > 1 and (self.option or self.temperature is not None):
            raise InputError("--option and --temperature are for one problem: name it")

    @property
    def all_problems(self) -> tuple[str, ...]:
        """`problems`, or those that are checked when none is named."""
        return self.problems or DEFAULT_PROBLEMS

    @property
    def budgets(self) -> list[int]:
        """64, 256, … below `pairs`, and `pairs`."""
        count = math.ceil(math.log(self.pairs / LEAST_PAIRS, _FACTOR) - 1e-9)
        return [LEAST_PAIRS * _FACTOR**k for k in range(count)] + [self.pairs]

    def of_problem(self, name: str) -> SolveConfig:
        """Settings that `build_task` makes the problem from."""
        sizes = [text for text in _SIZES.get(name, ())]
        if self.temperature is not None:
            sizes = [text for text in sizes if not text.startswith("temperature=")]
        return SolveConfig(name, (*sizes, *self.option), temperature=self.temperature)
