"""Several runs on one page: curves by kind of run, their ranking, what tells them apart, their audits."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from .._core import InputError
from .audit.draw import Drawn
from .audit.page import audit_cells
from .audit.record import Audit
from .audit.run import audit_run, current_audit
from .audit.warn import warnings_of
from .figures import svg_figure
from .flat import flatten
from .folder import RunFolder
from .plot import PALETTE, count_axis
from .progress import duration
from .ranking.collect import Run, collect, differing_settings, labels_of, value_of
from .ranking.curves import Curve, curves_of
from .ranking.rank import ALL, Ranking, Row, rank
from .report import LEARNING, RunPart, run_part, write_page, write_report
from .statistics import Interval
from .sweep.values import flag_of

# Beyond so many runs a page with all their films is too large to send.
_FILMED, _WHOLE = 8, 16
_DASH = "–"
_WIDE = (9.6, 3.6)


def report(
    paths: Sequence[Path | str],
    out: Path | None = None,
    *,
    quick: bool = False,
    again: bool = False,
    seed: int = 0,
) -> Path:
    """Write the page of one run, or of several; returns its path.

    Args:
        paths: run folders, or folders of runs at most three levels deep, such as that of a sweep.
        out: the page; None: ``report.html`` in the folder of the one run, or in that which holds all of them.
        quick: audit nothing; audits that are there already are shown.
        again: audit even where there is an audit of the newest checkpoint.
        seed: of the audits.

    Raises:
        InputError: no runs there, or a disk that cannot be written.
    """
    if not paths:
        raise InputError("no runs to report: name one or more run folders")
    if quick and again:
        raise InputError("--quick measures nothing and --again everything: give one of them")
    alone = [RunFolder.open(path).path for path in paths if len(paths) == 1 and _is_one(Path(path))]
    if alone:
        found = None if quick else _audited(RunFolder(alone[0]), again, seed)
        return write_report(alone[0], audit=found, out=out)
    runs, left = collect(paths)
    if not runs:
        runs, left = collect(paths, unfinished=True)
    if not runs:
        raise InputError(f"nothing to report ({left[0].path.name}: {left[0].why}): let a run go on")
    audits: dict[Path, Audit] = {}
    for run in runs:
        audit = current_audit(RunFolder(run.path)) if quick else _audited(RunFolder(run.path), again, seed)
        if audit is not None:
            audits[run.path] = audit
    return _write(runs, [f"left out: {one.path} ({one.why})" for one in left], audits, out)


def _is_one(path: Path) -> bool:
    """Whether `path` is no folder of several runs: then it is one, or an error."""
    if not path.is_dir() or (path / "config.json").is_file():
        return not any(path.glob("seed-*/config.json"))
    return not any(any(path.glob("/".join(["*"] * depth + ["config.json"]))) for depth in (1, 2, 3))


def _audited(folder: RunFolder, again: bool, seed: int) -> Audit | None:
    """The audit of a run; None where there is no checkpoint to judge."""
    return audit_run(folder.path, seed=seed, again=again) if folder.checkpoints() else None


def _write(runs: Sequence[Run], left: Sequence[str], audits: Mapping[Path, Audit], out: Path | None) -> Path:
    labels, ranking = labels_of(runs), rank(runs, labels_of(runs))
    place = Path(os.path.commonpath([run.path.resolve().parent for run in runs]))
    environments = [env for env in dict.fromkeys(row.env for row in ranking.rows) if env != ALL]
    methods = len(set(labels.values()))
    whole = runs if len(runs) <= _WHOLE else []
    return write_page(
        place / "report.html" if out is None else out,
        "runs.html",
        name=place.name or "runs",
        subtitle=f"{len(runs)} runs · {methods} kinds · {', '.join(environments)}",
        environments=[_environment(env, curves, ranking) for env, curves in curves_of(runs, labels).items()],
        words=[*ranking.words, *left],
        audits=[_row(run, labels[run.path], audits.get(run.path), len(environments) > 1) for run in runs],
        with_env=len(environments) > 1,
        differing=_differing(runs, labels),
        common=_common(runs),
        parts_of_runs=[_part(run, audits.get(run.path), index, len(runs)) for index, run in enumerate(whole)],
        whole=_WHOLE,
    )


def _part(run: Run, audit: Audit | None, index: int, count: int) -> RunPart:
    films, folder = count <= _FILMED, RunFolder(run.path)
    return run_part(folder, [], audit, prefix=f"run-{index}", with_films=films, only=LEARNING)


def _environment(env: str, curves: Sequence[Curve], ranking: Ranking) -> dict[str, object]:
    rows = [row for row in ranking.rows if row.env == env]
    over = {one.other: one.probability for one in ranking.improvements if one.env == env}
    what = "share of the run" if env == ALL else "environment steps"
    banded = any(curve.low is not None for curve in curves)
    caption = "Interquartile mean of the true return over runs"
    caption += (
        ", with stratified bootstrap 95 % intervals."
        if banded
        else "; three runs of a kind give an interval."
    )
    draw = partial(_draw_curves, curves, what)
    return {
        "name": env,
        "figure": Drawn(
            f"Learning curves, {env}", caption, svg_figure(f"Learning curves, {env}", draw, "all", _WIDE)
        ),
        "rows": [_ranked(row, over.get(row.label), rows[0].label) for row in rows],
    }


def _ranked(row: Row, improvement: Interval | None, best: str) -> list[str]:
    form = ",.2f" if row.env == ALL else ",.1f"
    chance = "the best" if row.label == best else _DASH if improvement is None else _spelt(improvement, ".2f")
    return [
        row.label,
        str(row.runs),
        _spelt(row.final, form),
        _DASH if row.area is None else format(row.area, form),
        chance,
        _DASH if row.seconds is None else duration(row.seconds),
    ]


def _draw_curves(curves: Sequence[Curve], what: str, figure: Figure) -> None:
    axes: Axes = figure.subplots()
    for index, curve in enumerate(curves):
        colour = PALETTE[index % len(PALETTE)]
        runs = f"{curve.runs} run{'s' if curve.runs > 1 else ''}"
        marker = "o" if len(curve.x) < 3 else None
        axes.plot(curve.x, curve.value, color=colour, marker=marker, label=f"{curve.label}, {runs}")
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
    axes.set_ylabel("true return, scaled" if what.startswith("share") else "true return of an episode")
    count_axis(axes, what)
    if what.startswith("share"):
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.1, handlelength=1.2)


def _row(run: Run, label: str, audit: Audit | None, with_env: bool) -> list[str]:
    return [
        run.path.name,
        *([run.env] if with_env else []),
        label,
        str(run.settings["seed"]),
        f"{(run.returns[-1] if run.final is None else run.final):,.1f}",
        *audit_cells(audit),
        _DASH if audit is None else str(len(warnings_of(audit))),
    ]


def _differing(runs: Sequence[Run], labels: Mapping[Path, str]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the settings that tell kinds of runs apart."""
    names = [name for name in differing_settings(runs) if name not in ("seed", "env")]
    kinds = dict.fromkeys(labels[run.path] for run in runs)
    rows = [
        [
            label,
            *(
                "; ".join(dict.fromkeys(value_of(r, n) for r in runs if labels[r.path] == label))
                for n in names
            ),
        ]
        for label in kinds
    ]
    return [flag_of(name) for name in names], rows


def _common(runs: Sequence[Run]) -> list[tuple[str, str]]:
    apart = {*differing_settings(runs), "seed", "versions", "rewardsmith"}
    return flatten({name: value for name, value in runs[0].settings.items() if name not in apart})


def _spelt(value: Interval, form: str) -> str:
    if value.low is None or value.high is None:
        return format(value.value, form)
    return f"{value.value:{form}} [{value.low:{form}}, {value.high:{form}}]"
