"""`rewardsmith tune`: settings searched by Optuna, each trial a few run folders that differ in the seed."""

import contextlib
import dataclasses
import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import rewardsmith

from ..._core import InputError, read_json
from ..._core.atomic import writing
from ..choices import HUMAN
from ..config import TrainConfig
from ..folder import RunFolder
from ..metrics import read_metrics
from ..signals import on_signal
from ..typed import fitted_fields
from .crew import Crew
from .engines import Engine, Job, Running
from .manifest import Outcome, read_outcomes, refuse_occupied, write_outcomes
from .progress import SweepProgress, final_return
from .run import check_environments, log_of, make_folder
from .search import Range, read_search
from .values import flag_of, in_words

TUNE_FILE, STUDY_FILE, BEST_FILE = "tune.json", "study.log", "best.json"
OBJECTIVES = ("true-return", "held-out-accuracy", "preference-accuracy")
# Of the last sessions: one alone asks a few questions.
_SESSIONS = 5


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is searched, for what; ``tune.json``.

    Attributes:
        base: settings that stay; its seed is the first of each trial's, and the sampler's.
        search: ranges, as written on the command line.
        trials: settings to try.
        objective: one of `OBJECTIVES`, to be as large as can be.
        seeds: runs of each trial, whose mean counts.
    """

    base: TrainConfig
    search: tuple[str, ...]
    trials: int = 20
    objective: str = "true-return"
    seeds: int = 1

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise InputError(f"--trials is {self.trials}: give a whole number of at least 1")
        if self.seeds < 1:
            raise InputError(f"--seeds-per-trial is {self.seeds}: give a whole number of at least 1")
        if self.objective not in OBJECTIVES:
            raise InputError(f"unknown --objective {self.objective!r}: choose one of {', '.join(OBJECTIVES)}")
        if not self.search:
            raise InputError("nothing to search: give --search NAME=LOW:HIGH or NAME=V1,V2")
        if self.objective == "held-out-accuracy" and self.base.teacher != HUMAN:
            raise InputError("held-out answers are people's: give --teacher human or another --objective")
        if self.objective != "true-return" and not self.base.learns_reward:
            raise InputError(f"{self.base.method} learns no reward: give --objective true-return")
        _ = self.ranges

    @property
    def ranges(self) -> tuple[Range, ...]:
        """`search`, read."""
        return read_search(self.search)

    def write(self, folder: Path) -> None:
        """Write the file, in one step."""
        with writing(folder / TUNE_FILE) as temporary:
            content = {"rewardsmith": rewardsmith.__version__} | dataclasses.asdict(self)
            temporary.write_text(json.dumps(content, indent=1))

    @staticmethod
    def read(folder: Path) -> "Plan":
        """The plan of the search in `folder`; `InputError` if there is none."""
        if not (folder / TUNE_FILE).is_file():
            raise InputError(f"no search at {folder}: give the folder that `rewardsmith tune` wrote")
        damaged = "is damaged: restore it or start anew"
        content = read_json(folder / TUNE_FILE, damaged)
        try:
            if not isinstance(content["base"], dict):
                raise TypeError("no settings")
            own = {name: content[name] for name in ("search", "trials", "objective", "seeds")}
            fields = fitted_fields(Plan, own, str(folder / TUNE_FILE))
            return Plan(TrainConfig.from_json(content["base"]), **fields)
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder / TUNE_FILE} {damaged}") from error


def start(plan: Plan, out: Path | str, running: Running) -> int:
    """Search in a new folder; see `Plan`.

    Returns:
        Trials that failed.

    Raises:
        InputError: the folder is taken, or Optuna is not installed. Nothing was written then.
        Stopped: interrupted; the text says how to go on.
    """
    out = Path(out)
    _optuna()
    refuse_occupied(out, "search", TUNE_FILE)
    check_environments([plan.base])
    with contextlib.closing(running.make()) as engine:
        make_folder(out)
        with RunFolder(out).lock():
            refuse_occupied(out, "search", TUNE_FILE)
            plan.write(out)
            return _Tuning(plan, out, running.retries).run(engine)


def resume(out: Path | str, running: Running, trials: int | None = None) -> int:
    """Go on with the search in `out`, to `trials` in all if that is given; the trials that failed."""
    out = Path(out)
    plan = Plan.read(out)
    with RunFolder(out).lock():
        if trials is not None:
            plan = dataclasses.replace(plan, trials=trials)
            plan.write(out)
        with contextlib.closing(running.make()) as engine:
            return _Tuning(plan, out, running.retries).run(engine)


class _Tuning:
    """One session of a search."""

    def __init__(self, plan: Plan, out: Path, retries: int):
        self._plan, self._out, self._retries = plan, out, retries
        self._root = out.resolve()
        self._outcomes = {name: one for name, one in read_outcomes(out).items() if one.state == "done"}
        self._configs: dict[int, TrainConfig] = {}
        self._open: dict[int, dict[str, Outcome]] = {}
        self._optuna = _optuna()

    def run(self, engine: Engine) -> int:
        self._study = self._open_study(engine)
        told = self._study.get_trials(deepcopy=False)
        runs = self._plan.trials * self._plan.seeds
        done = [self._plan.base.steps] * len(self._outcomes)
        with SweepProgress(runs, runs * self._plan.base.steps, done) as self._progress:
            self._crew = Crew(engine, self._retries, self._progress)
            with on_signal(self._stop):
                for trial in told:
                    if trial.state == self._optuna.trial.TrialState.RUNNING:
                        self._take_up(trial.number, trial.params)
                self._loop()
        if self._crew.stopping and (self._open or self._count() < self._plan.trials):
            from ..train import Stopped

            raise Stopped(f"stopped after {self._count()} trials: rewardsmith tune --resume {self._out}")
        return self._report()

    def _loop(self) -> None:
        while True:
            while self._crew.idle_workers and self._count() < self._plan.trials and not self._crew.stopping:
                trial = self._study.ask()
                values = {one.setting: one.draw(trial) for one in self._plan.ranges}
                self._submit(trial.number, values)
            if not self._crew.busy:
                return
            for job, outcome in self._crew.turn():
                if outcome.state != "stopped":
                    self._hear(int(job.name.split("/")[0].removeprefix("trial-")), job.name, outcome)

    def _count(self) -> int:
        return len(self._study.get_trials(deepcopy=False))

    def _stop(self, name: str) -> None:
        self._progress.message(f"{name}: the trials save and end; once more ends them at once")
        self._crew.stop()

    def _take_up(self, number: int, params: dict[str, Any]) -> None:
        """Go on with a trial of an earlier session."""
        ranges = self._plan.ranges
        if any(flag_of(one.setting) not in params for one in ranges):
            # That session ended while it was being drawn.
            self._tell(number, None)
            return
        self._submit(number, {one.setting: one.value(params[flag_of(one.setting)]) for one in ranges})

    def _submit(self, number: int, values: dict[str, Any]) -> None:
        try:
            config = dataclasses.replace(self._plan.base, **values)
        except InputError as error:
            self._progress.message(f"trial-{number:04d} failed: {error}")
            self._tell(number, None)
            return
        self._configs[number], self._open[number] = config, {}
        for seed in range(config.seed, config.seed + self._plan.seeds):
            name = f"trial-{number:04d}/seed-{seed}"
            if name in self._outcomes:
                self._hear(number, name, self._outcomes[name])
                continue
            own = dataclasses.replace(config, seed=seed)
            self._crew.add(Job(name, self._root / name, log_of(self._root, name), own))

    def _hear(self, number: int, name: str, outcome: Outcome) -> None:
        self._open[number][name] = self._outcomes[name] = outcome
        write_outcomes(self._out, self._outcomes)
        results = self._open[number]
        if len(results) < self._plan.seeds:
            return
        values = [measure(self._root / run, self._plan.objective) for run in results]
        known = [value for value in values if value is not None and math.isfinite(value)]
        whole = len(known) == len(values) and all(one.state == "done" for one in results.values())
        self._tell(number, float(np.mean(known)) if whole else None)
        del self._open[number]

    def _tell(self, number: int, value: float | None) -> None:
        states = self._optuna.trial.TrialState
        self._study.tell(number, value, states.FAIL if value is None else states.COMPLETE)
        if value is not None and self._study.best_trial.number == number:
            self._write_best(number, value)

    def _write_best(self, number: int, value: float) -> None:
        config = self._configs[number]
        content = {
            "trial": number,
            "objective": self._plan.objective,
            "value": value,
            "settings": {one.setting: getattr(config, one.setting) for one in self._plan.ranges},
            "command": as_command(config),
        }
        with writing(self._out / BEST_FILE) as temporary:
            temporary.write_text(json.dumps(content, indent=1))

    def _open_study(self, engine: Engine) -> Any:
        """Optuna's own log of the trials, lines of JSON, so that no session's trials are lost."""
        optuna = self._optuna
        backend = optuna.storages.journal.JournalFileBackend(str(self._out / STUDY_FILE))
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="tune",
            direction="maximize",
            load_if_exists=True,
        )
        # A seed of the trials so far: a resumed search does not draw the first ones again.
        seed = self._plan.base.seed + len(study.get_trials(deepcopy=False))
        study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=engine.workers > 1)
        return study

    def _report(self) -> int:
        states = self._optuna.trial.TrialState
        trials = self._study.get_trials(deepcopy=False)
        whole = sorted((t for t in trials if t.state == states.COMPLETE), key=lambda t: -t.value)
        for trial in whole[:5]:
            words = " ".join(f"{name}={in_words(value)}" for name, value in trial.params.items())
            print(f"trial-{trial.number:04d}  {self._plan.objective} {trial.value:,.4g}  {words}")
        failed = len(trials) - len(whole)
        if failed:
            print(f"{failed} of {len(trials)} failed: see {self._out / 'logs'}")
        if whole:
            print(f"best     {self._out / BEST_FILE}")
            print(read_json(self._out / BEST_FILE, "is damaged: delete the folder")["command"])
        return failed


def measure(run: Path, objective: str) -> float | None:
    """What a finished run is worth; None if it was never measured.

    Args:
        run: its folder.
        objective: one of `OBJECTIVES`. Accuracies are means of the last five sessions that have one.
    """
    if objective == "true-return":
        return final_return(run)
    column = objective.replace("-", "_")
    with contextlib.suppress(InputError):
        values = read_metrics(run).filter(pl.col("kind") == "leader")[column].drop_nulls()
        if len(values):
            return float(values.tail(_SESSIONS).to_numpy().mean())
    return None


def as_command(config: TrainConfig) -> str:
    """The command line that trains with these settings; those that are the defaults are left out."""
    words = ["rewardsmith", "train"]
    always = ("env", "method")
    for field in dataclasses.fields(TrainConfig):
        value, flag = getattr(config, field.name), flag_of(field.name)
        if value == field.default and field.name not in always:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            parts = value if isinstance(value, tuple) else (value,)
            words += [f"--{flag}", *map(str, parts)]
    return shlex.join(words)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise InputError("rewardsmith tune needs Optuna: pip install 'rewardsmith[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
