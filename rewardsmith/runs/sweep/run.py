"""`rewardsmith sweep`: a grid of trials, each an ordinary run folder."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..._core import InputError
from ..config import TrainConfig
from ..folder import RunFolder
from ..progress import duration
from ..signals import on_signal
from .crew import Crew
from .engines import Engine, Job, Running
from .manifest import (
    LOGS,
    SWEEP_FILE,
    Manifest,
    Outcome,
    read_outcomes,
    refuse_occupied,
    write_outcomes,
)
from .progress import SweepProgress, final_return

# A file or a pipe has no width of its own.
_FILE_WIDTH = 140


def start(manifest: Manifest, out: Path | str, running: Running) -> int:
    """Run a new sweep in the folder `out`, which may not hold anything.

    Args:
        manifest: its trials.
        out: the folder; each trial is a run folder in it.
        running: where, and how many at once.

    Returns:
        Trials that failed.

    Raises:
        InputError: the folder is taken, an environment cannot be made, or the engine cannot be reached.
            Nothing was written then.
        Stopped: interrupted; the text says how to go on.
    """
    out = Path(out)
    refuse_occupied(out, "sweep", SWEEP_FILE)
    check_environments([trial.config for trial in manifest.trials])
    with contextlib.closing(running.make()) as engine:
        make_folder(out)
        with RunFolder(out).lock():
            refuse_occupied(out, "sweep", SWEEP_FILE)
            manifest.write(out)
            return _go_on(manifest, out, running, engine)


def resume(out: Path | str, running: Running) -> int:
    """Go on with the sweep in `out`: trials that are done stay, the others are begun, resumed or tried again.

    Returns:
        Trials that failed.
    """
    out = Path(out)
    manifest = Manifest.read(out)
    with RunFolder(out).lock():
        return _go_on(manifest, out, running)


def check_environments(configs: Sequence[TrainConfig]) -> None:
    """`InputError` where an environment of one of the trials cannot be made."""
    from ..parts import make_env

    for config in {(one.env, one.backend, one.env_options()): one for one in configs}.values():
        with contextlib.closing(make_env(config, 1)):
            pass


def make_folder(out: Path) -> None:
    """Make the folder of a sweep."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out} ({error.strerror}): give another --out") from error


def _go_on(manifest: Manifest, out: Path, running: Running, engine: Engine | None = None) -> int:
    outcomes = {name: outcome for name, outcome in read_outcomes(out).items() if outcome.state == "done"}
    root = out.resolve()
    jobs = [
        Job(trial.name, root / trial.name, log_of(root, trial.name), trial.config, manifest.film)
        for trial in manifest.trials
        if trial.name not in outcomes
    ]
    done = [trial.config.steps for trial in manifest.trials if trial.name in outcomes]
    total = sum(trial.config.steps for trial in manifest.trials)
    stopped = False
    if jobs:
        with (
            contextlib.closing(engine or running.make()) as used,
            SweepProgress(len(manifest.trials), total, done) as progress,
        ):
            crew = Crew(used, running.retries, progress)
            for job in jobs:
                crew.add(job)

            def stop(name: str) -> None:
                progress.message(f"{name}: the trials save and end; once more ends them at once")
                crew.stop()

            with on_signal(stop):
                while crew.busy:
                    for job, outcome in crew.turn():
                        if outcome.state != "stopped":
                            outcomes[job.name] = outcome
                            write_outcomes(out, outcomes)
                stopped = crew.stopping
    failed = sum(outcome.state == "failed" for outcome in outcomes.values())
    if stopped and len(outcomes) < len(manifest.trials):
        from ..train import Stopped

        raise Stopped(
            f"stopped with {len(outcomes) - failed} of {len(manifest.trials)} trials done: "
            f"rewardsmith sweep --resume {out}"
        )
    _report(manifest, out, outcomes)
    return failed


def log_of(out: Path, name: str) -> Path:
    """Where what a trial prints is kept: beside its folder, which has to be empty when the run begins."""
    return out / LOGS / f"{name}.txt"


def _report(manifest: Manifest, out: Path, outcomes: dict[str, Outcome]) -> None:
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trial", overflow="fold")
    for name in ("steps", "true return", "time", "starts"):
        table.add_column(name, justify="right", no_wrap=True)
    for trial in manifest.trials:
        outcome = outcomes[trial.name]
        value = final_return(out / trial.name) if outcome.state == "done" else None
        table.add_row(
            trial.name,
            f"{trial.config.steps:,}",
            outcome.state if value is None else f"{value:,.1f}",
            duration(outcome.seconds),
            str(outcome.attempts),
        )
    wide = console if console.is_terminal else Console(width=_FILE_WIDTH)
    wide.print(table)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    failed = {name: outcome for name, outcome in outcomes.items() if outcome.state == "failed"}
    for name, outcome in failed.items():
        say(f"failed: {name}: {outcome.reason} (log: {log_of(out, name)})")
    if failed:
        say(f"{len(failed)} of {len(outcomes)} failed: rewardsmith sweep --resume {out} tries them again")
    if len(failed) < len(outcomes):
        say(f"compare them: rewardsmith compare {out}")
