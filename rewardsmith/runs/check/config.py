"""The settings of `check`: one dataclass, which is the command line and the file."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..._core import InputError
from ..choices import ESTIMATORS
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

    problems: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PROBLEM|RUN")] = ()
    """Names of problems on tables; rewardsmith list shows them. None: preference, contract and shaping. Or
    the folder of one run of rewardsmith train."""
    estimators: tuple[str, ...] = tuple(ESTIMATORS)
    """Which of one-step, suffix, branch and adjoint."""
    option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """An option of the one problem as KEY=VALUE, such as --option levels=8; may be given several times."""
    temperature: float | None = None
    """τ of the follower, in units of reward; none takes the problem's own."""
    pairs: int = 1024
    """Tuples of clips in the largest estimate; 64, 256, … are measured on the way there. Of a run: in all, in
    batches of the size that it was trained with."""
    repeats: int = 10
    """Tables only: independent estimates of each kind and size."""
    horizon: int | None = None
    """Tables only: steps of a clip where the leader's return is a sum without end; none: until γ^H is
    0.001."""
    branch_length: int | None = None
    """A run only: steps of each roll-out of the reference; none: until γ^T is 0.01."""
    seed: int = 0
    """Of all draws."""
    start: int = 0
    """Tables only: seed of x, at which all is measured."""

    def __post_init__(self) -> None:
        if self.pairs < LEAST_PAIRS or self.pairs % LEAST_PAIRS:
            raise InputError(f"--pairs is {self.pairs}: give a multiple of {LEAST_PAIRS}, such as 1024")
        if self.repeats < _LEAST_REPEATS:
            raise InputError(f"--repeats is {self.repeats}: give at least {_LEAST_REPEATS}, for an interval")
        for name in ("horizon", "branch_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} is {value}: give a whole number of at least 1")
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
        if self.run is None and self.branch_length is not None:
            raise InputError("--branch-length is for a run: name its folder")
        if self.run is not None and (self.option or self.temperature or self.horizon):
            raise InputError(
                "--option, --temperature and --horizon are for tables: a run has its own settings"
            )
        if len(self.all_problems) > 1 and (self.option or self.temperature is not None):
            raise InputError("--option and --temperature are for one problem: name it")

    @property
    def run(self) -> Path | None:
        """The folder of the run to check, if it is one."""
        for name in self.problems:
            # Problems have no slash in their names, and other folders are no runs.
            if "/" in name or (Path(name) / "config.json").is_file():
                if len(self.problems) > 1:
                    raise InputError(f"{name} is a run: name it alone")
                return Path(name)
        return None

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
