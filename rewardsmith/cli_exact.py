"""Commands about problems on tables: solve and compare. Settings in, commands out."""

from pathlib import Path

import tyro

from ._core import InputError
from .runs.exact.config import SolveConfig


def solve(
    config: tyro.conf.OmitArgPrefixes[SolveConfig],
    method: str = "implicit-gradient",
    out: Path | None = None,
    resume: Path | None = None,
) -> None:
    """Solve a problem on a table by one method, measured against the exact hyper-gradient on the way.

    Writes settings, measurements, the last x of each start, curves, a picture of a grid world and a report
    into a folder, each start as soon as it is done. In float64.

    Args:
        config: settings.
        method: how; rewardsmith list shows the methods.
        out: folder of the run; must not hold anything. Default: runs/PROBLEM-METHOD.
        resume: go on with the run in this folder, with its own settings, at the first start that is not
            done; no other option goes with it.
    """
    _solve("solve", config, (method,), ("implicit-gradient",), out, resume)


def compare(
    config: tyro.conf.OmitArgPrefixes[SolveConfig],
    methods: tuple[str, ...] = (),
    out: Path | None = None,
    resume: Path | None = None,
) -> None:
    """Solve a problem on a table by several methods, from the same starts; or rank RUNS... of train.

    With folders of runs in place of a problem it is compare-runs. Else it writes what solve writes, with all
    methods in one plot and one table. A method that fails stays in the table, with the reason.

    Args:
        config: settings; those of methods go to each method that has them.
        methods: which; rewardsmith list shows them. Default: all.
        out: folder of the runs; must not hold anything. Default: runs/PROBLEM-compare.
        resume: go on with the runs in this folder, with their own settings, at the first that is not done;
            no other option goes with it.
    """
    _solve("compare", config, methods, (), out, resume)


def _solve(
    command: str,
    config: SolveConfig,
    methods: tuple[str, ...],
    default: tuple[str, ...],
    out: Path | None,
    resume: Path | None,
) -> None:
    from .runs.exact.config import EXACT_METHODS
    from .runs.exact.run import resume as resume_runs
    from .runs.exact.run import start

    if resume is not None:
        if out is not None or config != SolveConfig() or methods != default:
            raise InputError("--resume takes the run's own settings: give no other option with it")
        resume_runs(command, resume)
        return
    name = f"{config.problem}-{methods[0] if command == 'solve' else 'compare'}"
    start(command, config, methods or tuple(EXACT_METHODS), out if out is not None else Path("runs") / name)
