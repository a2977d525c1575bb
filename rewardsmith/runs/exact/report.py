"""What came of `solve` and `compare`: a line, a table, a page."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from rich.table import Table

from ..._core.atomic import writing
from ...problems.task import Task
from ..flat import flatten
from ..folder import RunFolder
from .config import EXACT_METHODS
from .progress import cosine_text
from .records import COSTS, Records, outcome_label

_DASH = "–"
# Of a terminal that holds the whole table.
_WIDE = 120


def final_line(row: Mapping[str, Any]) -> str:
    """One method's row of `Records.summary` as a line of text."""
    if not row["runs"]:
        return f"{row['method']}: no run went well"
    starts = f"mean of {row['runs']} starts" if row["runs"] > 1 else "1 start"
    if row["phi_low"] is not None:
        starts = f"95 % interval {_interval(row)}, {starts}"
    parts = [f"φ {row['phi']:.6g} ({starts})", f"‖∇φ‖ {row['gradient_norm']:.2e}"]
    parts.append(f"cosine {cosine_text(row['cosine'])}")
    parts += [f"{outcome_label(name)} {row[name]:.5g}" for name in _outcomes(row)]
    return " · ".join([*parts, f"{row['seconds']:.2f} s"])


def final_table(table: pl.DataFrame, width: int) -> Table:
    """`Records.summary` for a terminal of `width` columns; a narrow one goes without the costs."""
    kept = len(_TITLES) if width >= _WIDE else len(_TITLES) - len(COSTS)
    shown = Table(box=None, header_style="bold", caption=_CAPTION, caption_justify="left")
    for index, title in enumerate(_TITLES[:kept]):
        shown.add_column(title, justify="right" if index else "left", no_wrap=True)
    for row in table.iter_rows(named=True):
        shown.add_row(*_cells(row)[:kept], style="dim" if not row["runs"] else None)
    return shown


def write_solve_report(folder: RunFolder, records: Records, task: Task, table: pl.DataFrame) -> Path:
    """Write ``report.html``: one page that needs nothing beside itself. Returns its path."""
    settings = folder.config
    versions = {"rewardsmith": settings.pop("rewardsmith", ""), **settings.pop("versions", {})}
    outcomes = records.outcomes()
    methods = [
        (
            _cells(row),
            [_number(row[name]) for name in outcomes],
            _failure(row),
        )
        for row in table.iter_rows(named=True)
    ]
    runs = [
        [row["method"], row["seed"], *(_number(row.get(name)) for name in ("step", "phi", "gradient_norm"))]
        + [cosine_text(row.get("mean_cosine")), *(_number(row.get(name)) for name in outcomes)]
        + [_number(row.get("seconds")), row["reason"] or ""]
        for row in records.results.iter_rows(named=True)
    ]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rewardsmith.runs"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("solve.html").render(
        name=task.name,
        title=task.title,
        caption=_CAPTION,
        titles=_TITLES,
        outcomes=[outcome_label(name) for name in outcomes],
        methods=methods,
        texts=[(name, text) for name, text in EXACT_METHODS.items() if name in set(table["method"])],
        runs=runs,
        failures=any(cells[-1] for cells in runs),
        curves=_picture(folder.curves_path),
        map=_picture(folder.path / "picture.png"),
        settings=flatten(settings),
        versions=flatten(versions),
    )
    with writing(folder.report_path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder.report_path


_CAPTION = (
    "Means over starts; φ and ‖∇φ‖ are exact, at the last x. Cosine: of the method's estimate to the exact "
    "hyper-gradient, mean over the run. Calls of r_x or f, Bellman sweeps, products in linear solves, "
    "environment steps."
)
_TITLES = ["method", "starts", "φ", "95 %", "‖∇φ‖", "cosine", "seconds"]
_TITLES += ["calls", "sweeps", "linear", "samples"]


def _cells(row: Mapping[str, Any]) -> list[str]:
    starts = str(row["runs"]) if not row["failed"] else f"{row['runs']} of {row['runs'] + row['failed']}"
    if not row["runs"]:
        return [row["method"], starts, "failed", *[_DASH] * (len(_TITLES) - 3)]
    costs = [_count(row[name]) for name in COSTS]
    interval = _DASH if row["phi_low"] is None else _interval(row)
    norm = f"{row['gradient_norm']:.2e}"
    numbers = [f"{row['phi']:.6g}", interval, norm, cosine_text(row["cosine"]), f"{row['seconds']:.2f}"]
    return [row["method"], starts, *numbers, *costs]


def _failure(row: Mapping[str, Any]) -> str:
    return (
        f"{row['failed']} of {row['failed'] + row['runs']} failed: {row['reason']}" if row["failed"] else ""
    )


def _interval(row: Mapping[str, Any]) -> str:
    return f"[{row['phi_low']:.5g}, {row['phi_high']:.5g}]"


def _count(value: float | None) -> str:
    if value is None:
        return _DASH
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if suffix == 'k' else size):.3g} {suffix}"
    return f"{value:,.0f}"


def _number(value: Any) -> str:
    if value is None:
        return _DASH
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def _outcomes(row: Mapping[str, Any]) -> list[str]:
    return [name for name in row if name.startswith("outcome_") and row[name] is not None]


def _picture(path: Path) -> str | None:
    return base64.b64encode(path.read_bytes()).decode() if path.is_file() else None
