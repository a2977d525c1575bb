"""A check as a table for the terminal and as a page of Markdown."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from rich.table import Table

from ..._core.atomic import writing
from .records import WANTED_COSINE, at_most
from .simulator import REFERENCE, RunChecked

_DASH = "–"
_CAPTION = (
    "Against the exact ∇φ, in units of its norm: bias ± its standard error, which is all that is seen of an "
    "unbiased estimate; deviation and error (root mean square) of one estimate. Cosine: mean of one "
    "estimate's, 95 % interval; 2nd: of the second term alone. Seconds: of the second term, drawing left "
    "out. Slope of log error against log tuples: −0.5 is Monte Carlo's."
)
_RUN_CAPTION = (
    "Of the second term at the run's last reward and policy. signal: norm of its mean; deviation: of one "
    "batch's estimate; cosine of its mean to the reference's, ± standard error, and ratio of their lengths, "
    "both without the bias of noise; for 0.95: tuples in one estimate whose cosine to its own mean is 0.95. "
    "Seconds: of one batch, drawing left out. –: drowned in noise; give more --pairs."
)
_RUN_TITLES = ("estimator", "signal", "deviation", "cosine", "length", f"for {WANTED_COSINE}", "seconds")
_TITLES = ("tuples", "env steps", "seconds", "bias", "deviation", "error", "cosine", "95 %", "2nd")
_LAST = ("slope", f"≥ {WANTED_COSINE} from")


def line(row: Mapping[str, Any]) -> str:
    """One measurement as a line of text."""
    return (
        f"{row['problem']} · {row['estimator']} · {row['pairs']:,} tuples · "
        f"cosine {_number(row['cosine'])} · error {_number(row['error'])} · bias {_bias(row)} · "
        f"{row['seconds']:.3g} s"
    )


def final_table(table: pl.DataFrame) -> Table:
    """The largest estimates of each problem and estimator."""
    shown = Table(box=None, header_style="bold", caption=_CAPTION, caption_justify="left")
    for index, title in enumerate(("problem", "estimator", *_TITLES, *_LAST)):
        shown.add_column(title, justify="right" if index > 1 else "left", no_wrap=True)
    before = None
    for row in at_most(table).iter_rows(named=True):
        name = row["problem"] if row["problem"] != before else ""
        before = row["problem"]
        shown.add_row(name, row["estimator"], *_cells(row), *_conclusions(row))
    return shown


def write_markdown(path: Path, table: pl.DataFrame) -> None:
    """All that was measured, problem by problem."""
    with writing(path) as temporary:
        temporary.write_text("\n".join(_page(table)) + "\n", encoding="utf-8")


def run_table(table: pl.DataFrame) -> Table:
    """What a check of a run found."""
    shown = Table(box=None, header_style="bold", caption=_RUN_CAPTION, caption_justify="left")
    for index, title in enumerate(_RUN_TITLES):
        shown.add_column(title, justify="right" if index else "left", no_wrap=True)
    for row in table.iter_rows(named=True):
        shown.add_row(*_run_cells(row))
    return shown


def write_run_markdown(path: Path, table: pl.DataFrame, found: RunChecked) -> None:
    """The same as a page."""
    lines = ["# Second terms of a run against long branches\n", f"{of_run(found)}.\n"]
    lines += _markdown(_RUN_TITLES, (_run_cells(row) for row in table.rows(named=True)))
    with writing(path) as temporary:
        temporary.write_text("\n".join([*lines, f"\n{_RUN_CAPTION}"]) + "\n", encoding="utf-8")


def of_run(found: RunChecked) -> str:
    """What was measured, in a line."""
    return (
        f"step {found.step:,}: {found.groups} batches of {found.group} tuples of clips; reference: "
        f"roll-outs of {found.length} steps; {found.steps:,} steps simulated"
    )


def _run_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    same = row["estimator"] == REFERENCE
    cosine = _DASH if row["cosine"] is None else f"{row['cosine']:.3f} ± {_number(row['cosine_error'])}"
    return (
        row["estimator"],
        _short(row["signal"]),
        _short(row["deviation"]),
        "1" if same else cosine,
        "1" if same else _number(row["length"]),
        _DASH if row["enough"] is None else f"{row['enough']:,.0f}",
        _DASH if row["seconds"] is None else f"{row['seconds']:.3g}",
    )


def _short(value: float | None) -> str:
    return _DASH if value is None else f"{value:.3g}"


def _page(table: pl.DataFrame) -> Iterator[str]:
    yield "# Sampled hyper-gradients against the exact one\n"
    yield _CAPTION
    yield "\n![error against tuples](errors.png)"
    for part in table.partition_by("problem", maintain_order=True):
        first = part.row(0, named=True)
        yield f"\n## {first['problem']}\n"
        yield (
            f"‖∇φ‖ {first['gradient_norm']:.4g}, of its second term {_number(first['second_share'])} times "
            f"that; {first['repeats']} estimates of each kind.\n"
        )
        yield from _markdown(
            ("estimator", *_TITLES, *_LAST),
            ((row["estimator"], *_cells(row), *_conclusions(row)) for row in at_most(part).rows(named=True)),
        )
        yield "\nAll sizes:\n"
        yield from _markdown(
            ("estimator", *_TITLES), ((row["estimator"], *_cells(row)) for row in part.rows(named=True))
        )


def _markdown(titles: tuple[str, ...], rows: Iterator[tuple[str, ...]] | Any) -> Iterator[str]:
    yield "| " + " | ".join(titles) + " |"
    yield "|---|" + "---:|" * (len(titles) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{row['pairs']:,}",
        f"{row['steps']:,}",
        f"{row['seconds']:.3g}",
        _bias(row),
        _number(row["deviation"]),
        _number(row["error"]),
        _number(row["cosine"]),
        f"[{_number(row['cosine_low'])}, {_number(row['cosine_high'])}]",
        _number(row["second_cosine"]),
    )


def _conclusions(row: Mapping[str, Any]) -> tuple[str, str]:
    enough = "not reached" if row["enough"] is None else f"{row['enough']:,}"
    return _number(row["slope"], 2), enough


def _bias(row: Mapping[str, Any]) -> str:
    return f"{_number(row['bias'])} ± {_number(row['bias_error'])}"


def _number(value: float | None, places: int = 3) -> str:
    return _DASH if value is None or value != value else f"{value:.{places}f}"
