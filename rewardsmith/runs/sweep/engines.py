"""Where trials run: what an engine is, and which one is asked for."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..._core import InputError
from ..config import TrainConfig

ENGINES = ("processes", "ray")


@dataclasses.dataclass(frozen=True)
class Job:
    """One trial to run.

    Attributes:
        name: of the trial.
        folder: its run folder.
        log: file for what it prints.
        config: its settings.
        film: whether the finished run is filmed.
    """

    name: str
    folder: Path
    log: Path
    config: TrainConfig
    film: bool = False

    @property
    def order(self) -> str:
        """What its process is told, one line."""
        return json.dumps({"settings": dataclasses.asdict(self.config), "film": self.film})


@dataclasses.dataclass(frozen=True)
class Ended:
    """How the process of a trial ended: its exit status, None where it was lost; or what went wrong."""

    status: int | None
    note: str = ""


@runtime_checkable
class Engine(Protocol):
    """Runs trials, each in a process of its own; knows nothing of retries."""

    workers: int
    """So many at once."""

    def start(self, job: Job) -> None:
        """Begin a trial."""
        ...

    def ended(self, patience: float) -> dict[str, Ended]:
        """The trials that ended since the last call, by name; waits for one at most `patience` seconds."""
        ...

    def stop(self) -> None:
        """Ask all trials to save their state and end; returns at once."""
        ...

    def close(self) -> None:
        """End what still runs, now."""
        ...


@dataclasses.dataclass(frozen=True)
class Running:
    """How trials are run, which may change from session to session."""

    workers: int | None = None
    """Trials at once; none: one for each core, of the cluster if there is one."""
    engine: str | None = None
    """processes or ray; none: processes, or ray with --address."""
    address: str | None = None
    """Of a Ray cluster whose machines share the folder; none: this machine alone."""
    retries: int = 2
    """How often a trial that died is started again."""
    gpus_per_trial: float = 0.0
    """Of a Ray cluster, for each trial; 0.5 lets two share one."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers is {self.workers}: give a whole number of at least 1")
        if self.engine not in (None, *ENGINES):
            raise InputError(f"unknown --engine {self.engine!r}: choose one of {', '.join(ENGINES)}")
        if self.address is not None and self.engine == "processes":
            raise InputError("--address is of a Ray cluster: give --engine ray with it")
        if self.retries < 0:
            raise InputError(f"--retries is {self.retries}: give 0 or a positive whole number")
        if self.gpus_per_trial < 0 or (self.gpus_per_trial and not self.on_ray):
            raise InputError("--gpus-per-trial is for --engine ray: give 0 or a positive number with that")

    @property
    def on_ray(self) -> bool:
        """Whether Ray runs the trials."""
        return self.engine == "ray" or self.address is not None

    def make(self) -> Engine:
        """The engine, ready to start trials; `InputError` where Ray is asked for and is not there."""
        if not self.on_ray:
            from .on_processes import Processes

            return Processes(self.workers or cores())
        from .on_ray import RayTasks

        return RayTasks(self.workers, self.address, self.gpus_per_trial)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
