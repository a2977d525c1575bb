"""The settings of `solve` and `compare`: one dataclass, which is the command line and the file."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from ..._core import InputError
from ..typed import fitted_fields

EXACT_METHODS = {
    "implicit-gradient": "solve the follower, solve the adjoint system (AID); the exact hyper-gradient",
    "unrolled-gradient": "differentiate the follower's last sweeps (ITD)",
    "m-sobirl": "follower, adjoint and leader move together (Yang et al., AISTATS 2025)",
    "parl": "implicit differentiation in the policy's parameters (Chakraborty et al., ICLR 2024)",
    "pbrl-value": "penalty on the value that the policy gives away (Shen et al., ICML 2024)",
    "pbrl-bellman": "penalty on the Bellman gap of the policy (Shen et al., ICML 2024)",
    "hpgd": "hyper policy gradient from sampled trajectories (Thoma et al., NeurIPS 2024)",
    "bc-hg": "the same with a centred leader advantage (ICAPS 2026)",
    "amd": "adaptive model design (Chen et al., 2022)",
    "zeroth-order": "finite differences of φ along random directions",
}
OPTIMISERS = ("adam", "sgd")
ADJOINTS = ("exact", "neumann", "cg")
ADJOINT_UPDATES = ("gradient", "sweep")
KNOBS = (
    "sweeps adjoint adjoint_update adjoint_steps adjoint_step_size penalty damping trajectories horizon "
    "perturbation directions"
).split()
"""Settings that some methods have; where one is None the method keeps its default."""


@dataclass(frozen=True)
class SolveConfig:
    """Settings of the runs on one problem. Everything random follows from the seeds."""

    problem: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PROBLEM")] = ""
    """Name of a problem; rewardsmith list shows them."""
    option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """An option of the problem as KEY=VALUE, such as --option penalty=3; may be given several times."""
    seeds: int = 1
    """Starts: so many runs of each method, all methods from the same ones."""
    seed: int = 0
    """The first seed."""
    steps: int | None = None
    """Steps of x; none takes the problem's own."""
    step_size: float | None = None
    """Of the optimiser; none takes the problem's own, which is meant for adam."""
    optimiser: str = "adam"
    """adam or sgd."""
    tolerance: float = 0.0
    """Stop a run when the norm of its estimate of ∇φ falls to this; 0 takes all steps."""
    temperature: float | None = None
    """τ of the follower, in units of reward; none takes the problem's own."""
    anneal_from: float | None = None
    """Begin at this τ and lower it geometrically to the problem's over the first 60 % of the steps."""
    rungs: int | None = None
    """Begin where a search ends: so many runs that cool from a ladder of temperatures, the best polished."""
    evaluations: int = 40
    """Points of a run at which φ and ∇φ are measured exactly; their time does not count as the method's."""

    sweeps: int | None = None
    """Soft Bellman sweeps of the follower a step; none: the method's default, which may be to solve it."""
    adjoint: str | None = None
    """implicit-gradient: how the adjoint system is solved; exact, neumann or cg."""
    adjoint_update: str | None = None
    """m-sobirl: a gradient step on the adjoint, as published, or a sweep, for γ near 1; gradient or sweep."""
    adjoint_steps: int | None = None
    """neumann and cg: terms of the series, iterations; m-sobirl: updates of the adjoint a step."""
    adjoint_step_size: float | None = None
    """m-sobirl: step on the adjoint, below 2/(1+γ)²."""
    penalty: float | None = None
    """pbrl: weight λ of the penalty; the bias falls like 1/λ."""
    damping: float | None = None
    """parl: added to the Hessian, which is singular for policy tables."""
    trajectories: int | None = None
    """hpgd, bc-hg: trajectories a step."""
    horizon: int | None = None
    """hpgd, bc-hg: steps of a trajectory."""
    perturbation: float | None = None
    """zeroth-order: length of the finite difference."""
    directions: int | None = None
    """zeroth-order: random directions a step."""

    def __post_init__(self) -> None:
        for field, kind in typing.get_type_hints(SolveConfig).items():
            value, flag = getattr(self, field), f"--{field.replace('_', '-')}"
            if value is None or field == "seed":
                continue
            if kind in (int, int | None) and value < 1:
                raise InputError(f"{flag} is {value}: give a whole number of at least 1")
            if kind == float | None and not 0.0 < value < math.inf:
                raise InputError(f"{flag} is {value}: give a positive number")
        if self.seed < 0:
            raise InputError(f"--seed is {self.seed}: give 0 or a positive whole number")
        if not 0.0 <= self.tolerance < math.inf:
            raise InputError(f"--tolerance is {self.tolerance}: give 0 or a positive number, such as 1e-6")
        if self.optimiser not in OPTIMISERS:
            raise InputError(f"unknown --optimiser {self.optimiser!r}: choose one of {', '.join(OPTIMISERS)}")
        if self.adjoint is not None and self.adjoint not in ADJOINTS:
            raise InputError(f"unknown --adjoint {self.adjoint!r}: choose one of {', '.join(ADJOINTS)}")
        if self.adjoint_update not in (None, *ADJOINT_UPDATES):
            raise InputError(
                f"unknown --adjoint-update {self.adjoint_update!r}: "
                f"choose one of {', '.join(ADJOINT_UPDATES)}"
            )
        chosen = self.adjoint_update is not None or self.adjoint in ("neumann", "cg")
        if self.adjoint_steps is not None and not chosen:
            raise InputError(
                "--adjoint-steps is for --adjoint neumann or cg, or --adjoint-update: give one of them too"
            )
        if self.rungs is not None and self.anneal_from is not None:
            raise InputError("--rungs cools by itself: give it or --anneal-from, not both")
        _ = self.options

    @property
    def options(self) -> dict[str, Any]:
        """`option` as names and values: true and false, none, whole numbers, numbers, else text."""
        pairs = {}
        for text in self.option:
            name, equals, value = text.partition("=")
            if not equals or not name or not value:
                raise InputError(f"--option is {text!r}: give KEY=VALUE, such as penalty=3")
            pairs[name.replace("-", "_")] = _parsed(value)
        return pairs

    @property
    def knobs(self) -> dict[str, Any]:
        """The settings of methods that were given."""
        return {name: value for name in KNOBS if (value := getattr(self, name)) is not None}

    @property
    def all_seeds(self) -> range:
        """One seed a run."""
        return range(self.seed, self.seed + self.seeds)

    @staticmethod
    def from_json(config: Mapping[str, Any]) -> "SolveConfig":
        """The settings that `config.json` of a folder holds; `InputError` if they do not fit."""
        names = [field.name for field in dataclasses.fields(SolveConfig)]
        if missing := [name for name in names if name not in config]:
            raise InputError(
                f"config.json lacks {missing[0]!r}: it was not written by this version's solve or compare"
            )
        return SolveConfig(**fitted_fields(SolveConfig, config, "config.json"))


def _parsed(value: str) -> Any:
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return words[value.lower()]
    for number in (int, float):
        try:
            return number(value)
        except ValueError:
            continue
    return value
