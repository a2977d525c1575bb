"""`check`: every estimator on every problem at every size, or on a run; written as it is measured."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn
from rich.table import Table

from ..._core import InputError
from ..exact.build import build_task
from ..folder import RunFolder
from .config import CheckConfig
from .measure import measure
from .plot import plot_errors
from .records import frame, run_frame, write
from .report import final_table, line, of_run, run_table, write_markdown, write_run_markdown
from .simulator import CheckedRun, RunChecked
from .worlds import CheckedWorld, build_estimator, checked_world

_FILE_WIDTH = 150


def start(config: CheckConfig, out: Path | str) -> None:
    """Measure, in a new folder, and draw, write and print what came of it.

    Tables in float64; a run, its folder standing in place of a problem's name, in float32 as it was trained.

    Args:
        config: settings.
        out: a folder that does not exist or is empty.

    Raises:
        InputError: settings that do not fit, seen before anything is written.
    """
    if (Path(out) / "config.json").is_file():
        raise InputError(f"{out} already holds a run: give another --out")
    if config.run is not None:
        _check_run(config, config.run, Path(out))
    else:
        _check_tables(config, Path(out))


def _check_tables(config: CheckConfig, out: Path) -> None:
    with jax.enable_x64(True):
        worlds = [_world(name, config) for name in config.all_problems]
        for world in worlds:
            for name in config.estimators:
                build_estimator(name, world, config.pairs)
        used = {name: config.of_problem(name).options for name in config.all_problems}
        horizons = {world.name: world.loss.horizon for world in worlds}
        settings = {"command": "check", **dataclasses.asdict(config)}
        folder = RunFolder.create(out, settings | {"used": used, "horizons": horizons})
        with folder.lock():
            table = _measure(folder, worlds, config)
            made = [folder.path / "errors.png", folder.path / "check.md"]
            plot_errors(table, made[0])
            write_markdown(made[1], table)
    _show(final_table(table), [*made, folder.path])


def _check_run(config: CheckConfig, run: Path, out: Path) -> None:
    checked = CheckedRun(run, config.estimators, config.pairs, config.branch_length, config.seed)
    settings = {"command": "check", **dataclasses.asdict(config)}
    folder = RunFolder.create(out, settings | {"checkpoint_step": checked.step})
    with folder.lock():
        found = _measure_run(checked)
        table = run_frame(found)
        write(folder.metrics_path, table)
        made = folder.path / "check.md"
        write_run_markdown(made, table, found)
    Console().print(of_run(found), highlight=False, markup=False, soft_wrap=True)
    _show(run_table(table), [made, folder.path])


def _measure_run(checked: CheckedRun) -> RunChecked:
    with _bar() as bar:
        text = f"batches of {checked.group} tuples"
        shown = bar.add_task(text, total=checked.groups)
        return checked.measure(lambda done: bar.update(shown, completed=done))


def _show(table: Table, made: list[Path]) -> None:
    console = Console()
    # A file or a pipe has no width of its own.
    wide = console if console.is_terminal else Console(width=_FILE_WIDTH)
    wide.print(table, highlight=False)
    for path in made:
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeLeftColumn(), console=Console(), transient=True)


def _world(name: str, config: CheckConfig) -> CheckedWorld:
    task = build_task(config.of_problem(name))
    try:
        return checked_world(task, task.start(jax.random.key(config.start)), config.horizon)
    except InputError as error:
        raise InputError(f"{name} cannot be checked: {error}") from error


def _measure(folder: RunFolder, worlds: list[CheckedWorld], config: CheckConfig) -> Any:
    rows: list[dict[str, Any]] = []
    with _bar() as bar:
        shown = bar.add_task("", total=len(worlds) * len(config.budgets))
        for world in worlds:
            for count in config.budgets:
                bar.update(shown, description=f"{world.name} · {count:,} tuples")
                key = jax.random.fold_in(jax.random.key(config.seed), count)
                new = measure(world, config.estimators, count, config.repeats, key)
                rows += new
                write(folder.metrics_path, frame(rows))
                for row in new:
                    bar.console.print(line(row), highlight=False, markup=False, soft_wrap=True)
                bar.advance(shown)
    return frame(rows)
