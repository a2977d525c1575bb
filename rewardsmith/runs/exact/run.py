"""`solve` and `compare`: every method from every seed, each written as soon as it is done."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import polars as pl
from rich.console import Console

from ..._core import InputError
from ..._core.serialise import load_tree
from ...problems.task import Task
from ..folder import RunFolder
from .build import build_method, build_task, check_methods
from .config import SolveConfig
from .measure import Measured, Measurer
from .picture import draw_grid
from .plot import plot_methods
from .progress import LiveTable
from .records import Records
from .report import final_line, final_table, write_solve_report

_FILE_WIDTH = 140


def start(command: str, config: SolveConfig, methods: Sequence[str], out: Path | str) -> None:
    """Run `methods` on a problem, in a new folder, and draw, report and print what came of it.

    Args:
        command: "solve" or "compare", which `--resume` must be given to.
        config: settings.
        methods: names of `EXACT_METHODS`.
        out: a folder that does not exist or is empty.

    Raises:
        InputError: settings that do not fit, seen before anything is written; or no run went well.
    """
    with jax.enable_x64(True):
        check_methods(methods, config)
        task = build_task(config)
        _check(command, task, config, methods)
        used = {"steps": _steps(task, config), "step_size": _step_size(task, config)}
        used["temperature"] = float(task.problem.temperature)
        settings = {"command": command, "methods": list(methods), **dataclasses.asdict(config), "used": used}
        folder = RunFolder.create(out, settings)
        _go_on(command, folder, task, config, methods)


def resume(command: str, path: Path | str) -> None:
    """Go on with the runs in folder `path` that are not finished; then as `start`.

    Raises:
        InputError: no such folder, or one that another command wrote; or no run went well.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise InputError(f"no run at {path}: give the folder that `rewardsmith {command}` wrote")
    folder = RunFolder.open(path)
    held = folder.config
    if held.get("command") != command:
        wrote = held.get("command", "train")
        raise InputError(f"{path} was written by {wrote}: go on with rewardsmith {wrote} --resume {path}")
    config, methods = SolveConfig.from_json(held), [str(name) for name in held.get("methods", [])]
    with jax.enable_x64(True):
        check_methods(methods, config)
        _go_on(command, folder, build_task(config), config, methods)


def _check(command: str, task: Task, config: SolveConfig, methods: Sequence[str]) -> None:
    """What a method refuses ends `solve` before anything is written; `compare` shows it in its table."""
    if command == "compare":
        return
    for name in methods:
        method = build_method(name, config, _step_size(task, config))
        method.init(task.problem, task.start(jax.random.key(config.seed)), jax.random.key(0))


def _go_on(command: str, folder: RunFolder, task: Task, config: SolveConfig, methods: Sequence[str]) -> None:
    console = Console()
    # A file or a pipe has no width of its own.
    wide = console if console.is_terminal else Console(width=_FILE_WIDTH)
    with folder.lock():
        records = Records(folder.path)
        _run_missing(command, records, task, config, methods)
        table = records.write_summary(methods)
        made = _finish(folder, records, task, table)
    if command == "compare":
        wide.print(final_table(table, wide.width))
    if not table["runs"].sum():
        raise InputError(f"no run went well: {table['reason'].drop_nulls()[0]}")
    for row in table.iter_rows(named=True):
        if command == "solve":
            console.print(final_line(row), highlight=False, markup=False, soft_wrap=True)
        if row["failed"]:
            text = f"warning: {row['method']} failed {row['failed']} of {row['failed'] + row['runs']}: "
            console.print(text + row["reason"], highlight=False, markup=False, soft_wrap=True)
    for path in made:
        console.print(f"{path.stem:8} {path}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"run      {folder.path}", highlight=False, markup=False, soft_wrap=True)


def _run_missing(
    command: str, records: Records, task: Task, config: SolveConfig, methods: Sequence[str]
) -> None:
    finished = records.finished()
    missing = [(name, seed) for name in methods for seed in config.all_seeds if (name, seed) not in finished]
    if not missing:
        return
    steps = _steps(task, config)
    measurer = Measurer(task, config, steps)
    with LiveTable(len(missing), steps) as live:
        for name, seed in missing:
            live.begin(name, seed)
            measured = Measured()
            try:
                method = build_method(name, config, _step_size(task, config))
                measured = measurer.run(method, seed, live.update)
            except InputError as error:
                measured.reason = " ".join(str(error).split())
            except Exception as error:
                # One method's trouble with a problem should not cost the others their runs.
                if command == "solve":
                    raise
                measured.reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            records.add(name, seed, measured.rows, measured.x, measured.reason)
            live.end(measured.reason)


def _finish(folder: RunFolder, records: Records, task: Task, table: pl.DataFrame) -> list[Path]:
    """Pictures and report; the paths of what there is to look at."""
    made = []
    if not records.metrics.is_empty():
        made.append(plot_methods(records.metrics, task.name, folder.curves_path, records.failed()))
    best = records.best()
    if task.grid is not None and best is not None:
        x = _solution(records, task, *best)
        made.append(draw_grid(task, x, f"{best[0]}, seed {best[1]}", folder.path / "picture.png"))
    made.append(write_solve_report(folder, records, task, table))
    return made


def _solution(records: Records, task: Task, method: str, seed: int) -> Any:
    like = task.start(jax.random.key(0))
    arrays = load_tree(records.solution_path(method, seed), eqx.filter(like, eqx.is_array))
    return eqx.combine(arrays, eqx.filter(like, eqx.is_array, inverse=True))


def _steps(task: Task, config: SolveConfig) -> int:
    return task.steps if config.steps is None else config.steps


def _step_size(task: Task, config: SolveConfig) -> float:
    return float(task.step_size) if config.step_size is None else config.step_size
