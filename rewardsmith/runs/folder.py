"""A run's folder: what lies where, what may be overwritten, and which checkpoint is still good."""

import contextlib
import dataclasses
import enum
import fcntl
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import rewardsmith
from rewardsmith._core import InputError, read_json
from rewardsmith._core.atomic import writing
from rewardsmith._core.serialise import check_tree_file, save_tree

from .typed import fitted

_NUMBERED = re.compile(r"step_(\d+)\.safetensors")
_KEPT_CHECKPOINTS = 2
_HALF_WRITTEN = ("checkpoints/.step_*", "snapshots/.step_*", ".metrics-*", ".comparisons-*", ".config-*")
_RECORDED_VERSIONS = ("jax", "jaxlib", "equinox", "optax", "mujoco", "gymnasium", "numpy", "polars")


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What an evaluation by command measured, as ``eval.json`` holds it.

    Attributes:
        step: environment steps of the checkpoint.
        mean: of the true return over the episodes.
        std: their deviation; this and the rest are None where the file does not tell.
        episodes: how many were played.
        seed: of their starts.
    """

    step: int
    mean: float
    std: float | None = None
    episodes: int | None = None
    seed: int | None = None


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of one run. Get one from `create` or `open`, not from the constructor.

    ::

        config.json   metrics.parquet   comparisons.parquet   checkpoints/step_000050000.safetensors
        eval.json     film.mp4          report.html           snapshots/step_000012000.safetensors
        audit.json    curves.png        audit/

    Attributes:
        path: the folder.
    """

    path: Path

    @staticmethod
    def create(path: Path | str, config: Mapping[str, Any]) -> "RunFolder":
        """Make the folder and write its ``config.json``, before any work is done.

        Args:
            path: a folder that does not exist or is empty.
            config: the run's settings, of plain values, paths, enums and dataclasses; the versions of
                Rewardsmith and of what it stands on are added.

        Raises:
            InputError: something is there already, or the place cannot be written.
        """
        folder = RunFolder(Path(path))
        text = _to_json({**config, "versions": _versions(), "rewardsmith": rewardsmith.__version__})
        _refuse_occupied(folder.path)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot make the run folder {folder.path} ({error.strerror}): give another --out"
            ) from error
        with folder.lock():
            _refuse_occupied(folder.path)
            with writing(folder.config_path) as temporary:
                temporary.write_text(text)
        return folder

    @staticmethod
    def open(path: Path | str) -> "RunFolder":
        """The folder of a run made earlier; `InputError` if it is none."""
        folder = RunFolder(Path(path))
        if not folder.path.exists():
            raise InputError(f"no run at {folder.path}: give the folder that `rewardsmith train` wrote")
        if not folder.config_path.is_file():
            raise InputError(
                f"{folder.path} is no run folder (no config.json): give one that `rewardsmith train` wrote"
            )
        _ = folder.config
        return folder

    @property
    def config(self) -> dict[str, Any]:
        """The settings in ``config.json``."""
        try:
            config = read_json(self.config_path, "is no valid JSON: restore it or start a new run")
        except FileNotFoundError as error:
            raise InputError(f"no {self.config_path}: restore it or start a new run") from error
        if not isinstance(config, dict):
            raise InputError(f"{self.config_path} holds no settings: restore it or start a new run")
        return config

    @property
    def config_path(self) -> Path:
        """Settings and versions."""
        return self.path / "config.json"

    @property
    def metrics_path(self) -> Path:
        """What was measured, one row a measurement; see `metrics`."""
        return self.path / "metrics.parquet"

    @property
    def comparisons_path(self) -> Path:
        """The clips that were compared, and the answers."""
        return self.path / "comparisons.parquet"

    @property
    def checkpoints_path(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def snapshots_path(self) -> Path:
        """The folder of the snapshots."""
        return self.path / "snapshots"

    @property
    def audit_path(self) -> Path:
        """What the last audit measured."""
        return self.path / "audit.json"

    @property
    def audit_films_path(self) -> Path:
        """The folder of its films."""
        return self.path / "audit"

    @property
    def film_path(self) -> Path:
        """The policy at work."""
        return self.path / "film.mp4"

    @property
    def report_path(self) -> Path:
        """The page to look at."""
        return self.path / "report.html"

    @property
    def curves_path(self) -> Path:
        """The learning curves as a picture."""
        return self.path / "curves.png"

    @property
    def eval_path(self) -> Path:
        """Result of the last evaluation by command."""
        return self.path / "eval.json"

    @property
    def warnings_path(self) -> Path:
        """What the run warned of."""
        return self.path / "warnings.json"

    def warnings(self) -> list[str]:
        """The lines of `warnings_path`; none where there is no such file."""
        try:
            lines = read_json(self.warnings_path, "is no valid JSON: delete it")
            return list(fitted(tuple[str, ...], lines))
        except FileNotFoundError:
            return []
        except TypeError as error:
            raise InputError(f"{self.warnings_path} is no list of texts: delete it") from error

    def evaluation(self) -> Evaluated | None:
        """What `eval_path` holds; None where there is no such file."""
        damaged = "is damaged: delete it or evaluate the run again"
        try:
            return fitted(Evaluated, read_json(self.eval_path, damaged))
        except FileNotFoundError:
            return None
        except (TypeError, KeyError) as error:
            raise InputError(f"{self.eval_path} {damaged}") from error

    def warn(self, text: str) -> bool:
        """Add a line to `warnings_path`; False where it was there already."""
        lines = self.warnings()
        if text in lines:
            return False
        with writing(self.warnings_path) as temporary:
            temporary.write_text(json.dumps([*lines, text], indent=2))
        return True

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint of environment step `step` lies."""
        return self.checkpoints_path / f"step_{step:09d}.safetensors"

    def checkpoints(self) -> list[Path]:
        """All checkpoints, by step, the newest last; damaged ones too."""
        return [path for _, path in _numbered(self.checkpoints_path)]

    def steps(self) -> set[int]:
        """Environment steps of which there are checkpoints; damaged ones too."""
        return {step for step, _ in _numbered(self.checkpoints_path)}

    def snapshot_path(self, step: int) -> Path:
        """Where the snapshot of environment step `step` lies."""
        return self.snapshots_path / f"step_{step:09d}.safetensors"

    def snapshot_steps(self) -> list[int]:
        """Environment steps of which there are snapshots, increasing."""
        return [step for step, _ in _numbered(self.snapshots_path)]

    def forget_snapshots(self, after: int) -> None:
        """Delete the snapshots of steps after `after`: the run goes on from there."""
        for step, path in _numbered(self.snapshots_path):
            if step > after:
                path.unlink(missing_ok=True)

    def latest_valid_checkpoint(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint that is whole, or None; and a line for each newer one that was skipped."""
        paths, skipped = newest_common_checkpoints([self])
        return None if paths is None else paths[0], skipped

    def save_checkpoint(self, step: int, tree: Any, metadata: Mapping[str, str] | None = None) -> Path:
        """Write the checkpoint of `step`; then, and only then, delete all but it and the one before it.

        Checkpoints of later steps go too: they were skipped as damaged when the run was resumed here.
        """
        path = self.checkpoint_path(step)
        save_tree(path, tree, metadata)
        numbered = _numbered(self.checkpoints_path)
        kept = [old for number, old in numbered if number <= step][-_KEPT_CHECKPOINTS:]
        for _, old in numbered:
            if old not in kept:
                old.unlink(missing_ok=True)
        return path

    @contextlib.contextmanager
    def lock(self) -> Generator[None, None, None]:
        """Hold the folder for training; a second process gets an `InputError` meanwhile.

        The operating system drops the lock with the process, so none is ever left behind. On entry the
        half-written files of a killed process are removed.
        """
        path = self.path / ".lock"
        if path.exists() and not path.is_file():
            # Opening a pipe waits for whoever reads it.
            raise InputError(f"{path} is no file: delete it")
        try:
            handle = path.open("a")
        except OSError as error:
            raise InputError(
                f"cannot write in {self.path} ({error.strerror}): mend its permissions or give another --out"
            ) from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"another process is at work in {self.path}: wait for it or give another --out"
                ) from error
            for pattern in _HALF_WRITTEN:
                for leftover in self.path.glob(pattern):
                    leftover.unlink(missing_ok=True)
            yield


def newest_common_checkpoints(folders: Sequence[RunFolder]) -> tuple[list[Path] | None, list[str]]:
    """The newest checkpoint that is whole in every folder, of one step; None where there is none.

    Runs that train side by side may have been stopped between one's checkpoint and another's.

    Returns:
        A path for each folder, and a line for each damaged checkpoint that was skipped.
    """
    skipped = []
    for step in sorted(set.intersection(*(folder.steps() for folder in folders)), reverse=True):
        paths = [folder.checkpoint_path(step) for folder in folders]
        try:
            for path in paths:
                check_tree_file(path)
        except InputError as error:
            skipped.append(f"skipped checkpoint {paths[0].name}: {error}")
        else:
            return paths, skipped
    return None, skipped


def checked_step(path: Path, step: Any) -> int:
    """The environment step that a checkpoint holds; `InputError` unless it is the one in its name."""
    found = _NUMBERED.fullmatch(path.name)
    if found is None or int(found[1]) != int(step):
        raise InputError(f"{path} is of step {int(step)}: give it its own name, or delete it")
    return int(step)


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    matches = ((_NUMBERED.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def _refuse_occupied(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{path} is a file: give another --out")
    # The lock, and what a process killed in `create` may have left.
    if all(entry.name == ".lock" or entry.name.startswith(".config-") for entry in path.iterdir()):
        return
    if (path / "config.json").is_file():
        raise InputError(f"{path} already holds a run: go on with --resume {path}, or give another --out")
    raise InputError(f"{path} is not empty: give another --out (or --resume the folder of a run)")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: _version_of(name) for name in _RECORDED_VERSIONS}


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _to_json(config: Mapping[str, Any]) -> str:
    try:
        return json.dumps(config, indent=2, default=_plain, allow_nan=False) + os.linesep
    except ValueError as error:
        raise InputError("a setting is infinite or not a number: give a finite one") from error


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"a setting of type {type(value).__name__} cannot be written to config.json")
