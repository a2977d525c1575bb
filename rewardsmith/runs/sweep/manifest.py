"""What a sweep is made of and what became of it: two small JSON files beside the folders of the trials."""

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rewardsmith

from ..._core import InputError, read_json
from ..._core.atomic import writing
from ..config import TrainConfig
from ..typed import fitted
from .values import flag_of, in_words, refuse_twice

SWEEP_FILE, OUTCOMES_FILE, LOGS = "sweep.json", "outcomes.json", "logs"
_LONGEST_NAME = 160


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep: the name of its folder, and its settings."""

    name: str
    config: TrainConfig


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Attributes:
        state: done, failed or stopped.
        attempts: how often it was started, in this session.
        seconds: that it ran, in this session.
        reason: of a failure, in one line.
    """

    state: str
    attempts: int
    seconds: float
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All trials of a sweep, and whether each is filmed at its end; ``sweep.json``."""

    trials: tuple[Trial, ...]
    film: bool = False

    def write(self, folder: Path) -> None:
        """Write the file, in one step."""
        settings = {trial.name: dataclasses.asdict(trial.config) for trial in self.trials}
        content = {"rewardsmith": rewardsmith.__version__, "film": self.film, "trials": settings}
        with writing(folder / SWEEP_FILE) as temporary:
            temporary.write_text(json.dumps(content, indent=1))

    @staticmethod
    def read(folder: Path) -> "Manifest":
        """The manifest of the sweep in `folder`; `InputError` if there is none."""
        settings, film = _manifest(folder)
        trials = (Trial(name, TrainConfig.from_json(config)) for name, config in settings.items())
        return Manifest(tuple(trials), film)


def grid(
    base: TrainConfig,
    methods: Sequence[str],
    envs: Sequence[str],
    seeds: Sequence[int],
    vary: Mapping[str, Sequence[Any]],
) -> tuple[Trial, ...]:
    """Every combination as a trial, its settings checked; the first seed of all before the second of any.

    Args:
        base: settings that stay.
        methods, envs, seeds: where empty, `base`'s own.
        vary: values by setting.

    Raises:
        InputError: settings of a trial do not fit; the line names it.
    """
    refuse_twice(methods, "--methods")
    refuse_twice(envs, "--envs")
    axes: dict[str, Sequence[Any]] = {
        "seed": seeds or (base.seed,),
        "env": envs or (base.env,),
        "method": methods or (base.method,),
        **vary,
    }
    trials: dict[str, TrainConfig] = {}
    for values in itertools.product(*axes.values()):
        changes = dict(zip(axes, values, strict=True))
        name = _unused(_name(changes, tuple(vary)), trials)
        try:
            trials[name] = dataclasses.replace(base, **changes)
        except InputError as error:
            raise InputError(f"trial {name}: {error}") from error
    return tuple(Trial(name, config) for name, config in trials.items())


def trial_names(folder: Path) -> list[str]:
    """The folders of the trials of the sweep in `folder`; `InputError` if there is none."""
    return list(_manifest(folder)[0])


def read_outcomes(folder: Path) -> dict[str, Outcome]:
    """What became of the trials that ended; empty before the first did."""
    path = folder / OUTCOMES_FILE
    damaged = "is damaged: delete it, and --resume looks at every trial again"
    try:
        content = read_json(path, damaged)
        return {_checked_name(name): fitted(Outcome, content[name]) for name in content}
    except FileNotFoundError:
        return {}
    except (TypeError, KeyError) as error:
        raise InputError(f"{path} {damaged}") from error


def write_outcomes(folder: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Write the file, in one step."""
    content = {name: dataclasses.asdict(outcome) for name, outcome in outcomes.items()}
    with writing(folder / OUTCOMES_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=1))


def refuse_occupied(out: Path, command: str, file: str) -> None:
    """`InputError` unless a new sweep can begin in `out`: it is not there, or empty.

    Args:
        out: the folder.
        command: sweep or tune.
        file: the file by which a folder of that command is known.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file: give another --out")
    if (out / file).exists():
        raise InputError(f"{out} already holds a {command}: go on with --resume {out}, or give another --out")
    if any(entry.name != ".lock" for entry in out.iterdir()):
        raise InputError(f"{out} is not empty: give another --out (or --resume the folder of a {command})")


def _manifest(folder: Path) -> tuple[dict[str, dict[str, Any]], bool]:
    """Settings by trial, and whether they are filmed."""
    path, damaged = folder / SWEEP_FILE, "is damaged: restore it or start a new sweep"
    try:
        content = read_json(path, damaged)
        settings = {_checked_name(name): content["trials"][name] for name in content["trials"]}
        if not all(isinstance(own, dict) for own in settings.values()):
            raise TypeError("no settings")
        return settings, fitted(bool, content["film"])
    except FileNotFoundError as error:
        raise InputError(f"no sweep at {folder}: give the folder that `rewardsmith sweep` wrote") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} {damaged}") from error


def _checked_name(name: str) -> str:
    """The name of a trial's folder; a TypeError where it would lie outside the sweep's."""
    if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise TypeError("no name of a folder below")
    return name


def _name(changes: Mapping[str, Any], varied: Sequence[str]) -> str:
    parts = [changes["env"], changes["method"]]
    parts += [f"{flag_of(name)}={in_words(changes[name])}" for name in varied]
    text = "-".join([*parts, f"seed-{changes['seed']}"])
    return re.sub(r"[^\w.=+-]", "-", text, flags=re.ASCII)[-_LONGEST_NAME:].lstrip(".-")


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    if name not in taken:
        return name
    return next(tried for count in itertools.count(2) if (tried := f"{name}-{count}") not in taken)
