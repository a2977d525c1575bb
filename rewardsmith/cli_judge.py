"""Commands that judge what a run learned: report. Settings in, commands out."""

from pathlib import Path

import tyro


def report(run: tyro.conf.Positional[Path]) -> None:
    """Write report.html into a run's folder: one page with settings, curves and film.

    Args:
        run: folder of the run.
    """
    from .runs.report import write_report

    print(write_report(run))
