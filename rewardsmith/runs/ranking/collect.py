"""Which runs there are in the folders that were named, how far each is, and what tells them apart."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from ..._core import InputError
from ..config import TrainConfig
from ..folder import RunFolder
from ..metrics import read_metrics
from ..statistics import clean
from ..sweep.manifest import SWEEP_FILE, Outcome, read_outcomes, trial_names
from ..sweep.values import flag_of, in_words
from ..typed import fitted_fields

_DEEPEST = 3
# How a run is watched does not make it another experiment.
_WATCHING = frozenset(
    "eval_every eval_episodes checkpoint_every snapshot_every snapshot_updates film_clips replay_on_disk "
    "backend store".split()
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run with its evaluations.

    Attributes:
        path: its folder.
        settings: of its ``config.json``.
        steps, returns: (p,) the learning curve, in environment steps and true return of an episode.
        seconds: (p,) wall time at those steps.
        held_out: steps and held-out accuracies of its sessions; empty where nothing is held out.
        final: mean true return of the evaluation at its end (``eval.json``), None where there is none.
    """

    path: Path
    settings: Mapping[str, Any]
    steps: Float[np.ndarray, " p"]
    returns: Float[np.ndarray, " p"]
    seconds: Float[np.ndarray, " p"]
    held_out: tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]
    final: float | None

    @property
    def env(self) -> str:
        """Its environment."""
        return str(self.settings["env"])

    @property
    def finished(self) -> bool:
        """Whether it made all its steps."""
        return bool(self.steps[-1] >= self.settings["steps"])


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A run that is not compared, and why, in a few words."""

    path: Path
    why: str


def collect(paths: Sequence[Path | str], unfinished: bool = False) -> tuple[list[Run], list[LeftOut]]:
    """The runs of folders, each once.

    Args:
        paths: run folders, or folders of runs at most three levels deep, such as that of a sweep.
        unfinished: also those that have not made all their steps, but have an evaluation.

    Returns:
        Those to compare, and those left out.

    Raises:
        InputError: a path is no folder, or holds no run.
    """
    runs: dict[Path, Run] = {}
    left: dict[Path, LeftOut] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise InputError(f"no run at {path}: give folders that `rewardsmith train` or `sweep` wrote")
        found = _run_folders(path, _DEEPEST)
        outcomes = _outcomes(path)
        for folder in dict.fromkeys([*found, *(path / name for name in outcomes)]):
            run = _load(folder, outcomes.get(folder.relative_to(path).as_posix()), unfinished)
            if isinstance(run, Run):
                runs[folder.resolve()] = run
            else:
                left[folder.resolve()] = run
        if not found and not outcomes:
            raise InputError(f"{path} holds no run: give folders that `rewardsmith train` or `sweep` wrote")
    return list(runs.values()), list(left.values())


def labels_of(runs: Sequence[Run]) -> dict[Path, str]:
    """What each run is called: its method and the settings that differ between the runs, but the seed.

    Steps tell runs apart only where the same seed is there twice otherwise.

    Returns:
        By the path of the run.
    """
    differing = [name for name in differing_settings(runs) if name not in ("env", "method", "seed", "steps")]
    told = {(run.env, run.settings["seed"], _label(run, differing)) for run in runs}
    if len(told) < len(runs) and len({value_of(run, "steps") for run in runs}) > 1:
        differing.append("steps")
    return {run.path: _label(run, differing) for run in runs}


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """Names of the settings in which runs differ, but those of how a run is watched."""
    names = [field.name for field in dataclasses.fields(TrainConfig) if field.name not in _WATCHING]
    return [name for name in names if len({value_of(run, name) for run in runs}) > 1]


def _label(run: Run, differing: Sequence[str]) -> str:
    return " ".join(
        [str(run.settings["method"]), *(f"{flag_of(name)}={value_of(run, name)}" for name in differing)]
    )


def value_of(run: Run, name: str) -> str:
    """A setting of a run, in words."""
    return in_words(run.settings.get(name))


def _run_folders(path: Path, depth: int) -> list[Path]:
    """Run folders in `path`. Where several seeds were trained at once, those of the seeds."""
    below = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if (path / "config.json").is_file():
        seeds = [entry for entry in below if (entry / "config.json").is_file()]
        return seeds or [path]
    return [folder for entry in below if depth for folder in _run_folders(entry, depth - 1)]


def _outcomes(path: Path) -> dict[str, Outcome | None]:
    """What a sweep says of its trials; None for one of which it says nothing."""
    if not (path / SWEEP_FILE).is_file():
        return {}
    return dict.fromkeys(trial_names(path)) | read_outcomes(path)


def _load(path: Path, outcome: Outcome | None, unfinished: bool) -> Run | LeftOut:
    if outcome is not None and outcome.state == "failed" and not unfinished:
        return LeftOut(path, f"failed: {outcome.reason}")
    if not (path / "config.json").is_file():
        return LeftOut(path, "not started")
    settings = RunFolder.open(path).config
    if missing := {"env", "method", "seed", "steps"} - settings.keys():
        raise InputError(
            f"{path} was not written by train ({min(missing)!r} is missing): leave it out, or see "
            "rewardsmith compare --help for problems on tables"
        )
    settings |= fitted_fields(TrainConfig, settings, str(path / "config.json"))
    try:
        metrics = read_metrics(path)
    except InputError:
        if (path / "metrics.parquet").exists():
            raise
        return LeftOut(path, "no evaluation yet")
    evaluations = metrics.filter(pl.col("kind") == "eval", pl.col("true_return").is_not_null())
    steps, returns = _columns(evaluations, "true_return")
    if not len(steps):
        return LeftOut(path, "no evaluation yet")
    _, seconds = _columns(evaluations, "seconds")
    run = Run(path, settings, steps, returns, seconds, _columns(metrics, "held_out_accuracy"), _final(path))
    if not run.finished and not unfinished:
        return LeftOut(path, f"unfinished: at step {steps[-1]:,.0f} of {settings['steps']:,}")
    return run


def _columns(rows: pl.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    table = rows.select("step", column).drop_nulls()
    return clean(table["step"].to_numpy(), table[column].to_numpy())


def _final(path: Path) -> float | None:
    result = RunFolder(path).evaluation()
    if result is None:
        return None
    checkpoints = RunFolder(path).checkpoints()
    # A run that went on since has left that evaluation behind.
    current = checkpoints and checkpoints[-1] == RunFolder(path).checkpoint_path(result.step)
    return result.mean if current else None
