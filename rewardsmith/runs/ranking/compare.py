"""`rewardsmith compare RUNS...`: the ranking on the terminal and in files."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from ..._core import InputError
from ..._core.atomic import writing
from ..plot import plot_runs
from ..progress import duration
from ..statistics import Interval
from .collect import LeftOut, collect, labels_of
from .rank import ALL, Ranking, Row, rank

_COLUMNS: tuple[str, ...] = ("runs of", "runs", "final return", "along the curve", "held-out", "time")
_FILE_WIDTH = 140


def compare_runs(paths: Sequence[Path | str], out: Path | None, unfinished: bool = False) -> None:
    """Rank the runs in folders, print the tables, and write them and a picture to `out`.

    Args:
        paths: run folders, or folders of runs, such as that of a sweep.
        out: folder for ``comparison.md``, ``comparison.parquet`` and ``comparison.png``; None: print only.
        unfinished: also compare runs that have not made all their steps.

    Raises:
        InputError: no runs there, or none to compare.
    """
    runs, left = collect(paths, unfinished)
    if not runs:
        detail = f" ({left[0].path.name}: {left[0].why})" if left else ""
        raise InputError(f"no finished run to compare{detail}: let one finish, or give --unfinished")
    labels = labels_of(runs)
    ranking = rank(runs, labels)
    _print(ranking, left)
    if out is not None:
        for path in _write(out, ranking, left, labels):
            print(f"{path.suffix[1:]:8} {path}")


def _print(ranking: Ranking, left: Sequence[LeftOut]) -> None:
    console = Console()
    wide = console if console.is_terminal else Console(width=_FILE_WIDTH)
    for env, rows in _by_environment(ranking):
        table = Table(
            title=env, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
        )
        for index, name in enumerate(_columns(rows)):
            table.add_column(name, justify="right" if index else "left", overflow="fold")
        for row in rows:
            table.add_row(*_cells(row, rows))
        wide.print(table)
        for line in _improvements(ranking, env):
            _say(console, f"  {line}")
        _say(console, "")
    for line in (*ranking.words, *_left(left)):
        _say(console, line)


def _write(out: Path, ranking: Ranking, left: Sequence[LeftOut], labels: Mapping[Path, str]) -> list[Path]:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out} ({error.strerror}): give another --out") from error
    page, table, picture = (out / f"comparison.{suffix}" for suffix in ("md", "parquet", "png"))
    with writing(page) as temporary:
        temporary.write_text(_markdown(ranking, left))
    buffer = io.BytesIO()
    _frame(ranking).write_parquet(buffer)
    with writing(table) as temporary:
        temporary.write_bytes(buffer.getvalue())
    plot_runs(list(labels), picture, {path.resolve(): label for path, label in labels.items()})
    return [page, table, picture]


def _markdown(ranking: Ranking, left: Sequence[LeftOut]) -> str:
    parts = ["# Comparison"]
    for env, rows in _by_environment(ranking):
        names = _columns(rows)
        lines = [f"| {' | '.join(names)} |", f"|---|{'---:|' * (len(names) - 1)}"]
        lines += [f"| {' | '.join(_cells(row, rows))} |" for row in rows]
        parts += [f"## {env}", "\n".join(lines), *_improvements(ranking, env)]
    parts += [*ranking.words, *_left(left)]
    return "\n\n".join(parts) + "\n"


def _frame(ranking: Ranking) -> pl.DataFrame:
    """One row a kind of run in an environment; the improvement is that of the environment's best over it."""
    found = {(item.env, item.other): item.probability for item in ranking.improvements}
    nothing = Interval(float("nan"))
    rows = []
    for row in ranking.rows:
        over = found.get((row.env, row.label), nothing)
        rows.append(
            {
                "env": row.env,
                "label": row.label,
                "runs": row.runs,
                "final_return": row.final.value,
                "final_return_low": row.final.low,
                "final_return_high": row.final.high,
                "mean_along_curve": row.area,
                "held_out_accuracy": row.held_out,
                "seconds": row.seconds,
                "best_is_better": None if over is nothing else over.value,
                "best_is_better_low": over.low,
                "best_is_better_high": over.high,
            }
        )
    schema = dict.fromkeys(rows[0], pl.Float64) | {"env": pl.String, "label": pl.String, "runs": pl.Int64}
    return pl.DataFrame(rows, schema=schema)


def _by_environment(ranking: Ranking) -> Iterator[tuple[str, list[Row]]]:
    for env in dict.fromkeys(row.env for row in ranking.rows):
        yield env, [row for row in ranking.rows if row.env == env]


def _columns(rows: Sequence[Row]) -> list[str]:
    names = list(_COLUMNS)
    if rows[0].env == ALL:
        return ["runs of", "runs", "scaled final return"]
    if all(row.held_out is None for row in rows):
        names.remove("held-out")
    return names


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    cells = [row.label, str(row.runs), _interval(row.final, ",.2f" if row.env == ALL else ",.1f")]
    if row.env == ALL:
        return cells
    cells.append(f"{row.area:,.1f}")
    if any(other.held_out is not None for other in rows):
        cells.append("–" if row.held_out is None else f"{row.held_out:.1%}")
    return [*cells, duration(row.seconds or 0.0)]


def _improvements(ranking: Ranking, env: str) -> list[str]:
    return [
        f"P({item.best} > {item.other}) = {_interval(item.probability, '.2f')}"
        for item in ranking.improvements
        if item.env == env
    ]


def _left(left: Sequence[LeftOut]) -> list[str]:
    return [f"left out: {item.path} ({item.why})" for item in left]


def _interval(value: Interval, form: str) -> str:
    if value.low is None or value.high is None:
        return format(value.value, form)
    return f"{value.value:{form}} [{value.low:{form}}, {value.high:{form}}]"


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
