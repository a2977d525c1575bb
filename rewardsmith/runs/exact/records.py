"""What the runs of `solve` and `compare` measured: tables, kept in a folder, whole at every moment."""

import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ..._core import InputError
from ..._core.atomic import writing
from ..._core.serialise import save_tree
from ..statistics import mean_interval

COSTS = ("oracle_calls", "sweeps", "linear_iterations", "samples")
SCHEMA: dict[str, type[pl.DataType]] = {
    "method": pl.String,
    "seed": pl.Int64,
    "step": pl.Int64,
    "seconds": pl.Float64,
    "phi": pl.Float64,
    "gradient_norm": pl.Float64,
    "cosine": pl.Float64,
    "relative_error": pl.Float64,
    "residual": pl.Float64,
    "temperature": pl.Float64,
    **dict.fromkeys(COSTS, pl.Int64),
}
"""Columns of ``metrics.parquet``, one row a measurement; behind them a column `outcome_…` for each outcome
of the problem. `phi` and `gradient_norm` are exact, at the problem's own τ; `cosine` and `relative_error`
hold the method's estimate of ∇φ at this x against the exact one, at the τ the method used (`temperature`).
`residual` is that of the method's follower. `seconds` are the method's own, compilation and measuring left
out; they and the costs count from the start of the run."""

OUTCOME = "outcome_"


class Records:
    """The tables of one folder.

    A run is finished when ``results.parquet`` has its row: method, seed, `reason` (null where all went well)
    and the last measurement. What an unfinished run left behind is dropped on reading.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self.results = _read(self.results_path)
        self.metrics = _read(self.metrics_path)
        if not self.results.is_empty() and not self.metrics.is_empty():
            self.metrics = self.metrics.join(
                self.results.select("method", "seed"), on=["method", "seed"], how="semi"
            )
        elif self.results.is_empty():
            self.metrics = pl.DataFrame(schema=SCHEMA)

    @property
    def metrics_path(self) -> Path:
        """All measurements."""
        return self.path / "metrics.parquet"

    @property
    def results_path(self) -> Path:
        """The end of each run."""
        return self.path / "results.parquet"

    @property
    def compare_path(self) -> Path:
        """One row a method; see `summary`."""
        return self.path / "compare.parquet"

    def solution_path(self, method: str, seed: int) -> Path:
        """The last x of one run."""
        return self.path / "solutions" / f"{method}-{seed}.safetensors"

    def finished(self) -> set[tuple[str, int]]:
        """(method, seed) of each run that came to its end, good or bad."""
        return set(self.results.select("method", "seed").iter_rows()) if len(self.results) else set()

    def failed(self) -> set[tuple[str, int]]:
        """(method, seed) of each run that failed."""
        if self.results.is_empty():
            return set()
        bad = self.results.filter(pl.col("reason").is_not_null())
        return set(bad.select("method", "seed").iter_rows())

    def add(
        self, method: str, seed: int, rows: Iterable[Mapping[str, Any]], x: Any, reason: str | None
    ) -> None:
        """Write one finished run; its row of results last, since that makes it finished.

        Args:
            method: its name.
            seed: of its start.
            rows: measurements, by column.
            x: the arrays of the last x; None where there is none worth keeping.
            reason: why it failed, or None.
        """
        frame = _frame(rows).with_columns(pl.lit(method).alias("method"), pl.lit(seed).alias("seed"))
        if x is not None:
            save_tree(self.solution_path(method, seed), x)
        self.metrics = pl.concat([self.metrics, frame], how="diagonal_relaxed")
        _write(self.metrics_path, self.metrics)
        end = frame.tail(1) if len(frame) else pl.DataFrame({"method": [method], "seed": [seed]})
        end = end.with_columns(
            pl.lit(reason, pl.String).alias("reason"), pl.lit(_path_mean(frame)).alias("mean_cosine")
        )
        self.results = pl.concat([self.results, end], how="diagonal_relaxed")
        _write(self.results_path, self.results)

    def summary(self, methods: Iterable[str]) -> pl.DataFrame:
        """One row a method: means over the runs that went well, and a 95 % interval of φ.

        `runs` and `failed` count runs, `reason` is that of the first that failed; numbers are null where none
        went well. `cosine` is the mean over each run's measurements. `phi_low` and `phi_high` are null below
        three runs.
        """
        rows = []
        for method in methods:
            mine = self.results.filter(pl.col("method") == method)
            bad, good = mine.filter(pl.col("reason").is_not_null()), mine.filter(pl.col("reason").is_null())
            row: dict[str, Any] = {"method": method, "runs": len(good), "failed": len(bad)}
            row["reason"] = bad["reason"][0] if len(bad) else None
            if len(good):
                mean, low, high = mean_interval(good["phi"].to_numpy()[:, None])
                row["phi"] = float(mean[0])
                row["phi_low"] = None if low is None else float(low[0])
                row["phi_high"] = None if high is None else float(high[0])
                row["cosine"] = good["mean_cosine"].mean()
                outcomes = [name for name in good.columns if name.startswith(OUTCOME)]
                row |= {
                    name: good[name].mean()
                    for name in ["gradient_norm", "step", "seconds", *COSTS, *outcomes]
                }
            rows.append(row)
        shown = {"method": pl.String, "runs": pl.Int64, "failed": pl.Int64, "reason": pl.String}
        numbers = ("phi", "phi_low", "phi_high", "gradient_norm", "cosine", "step", "seconds", *COSTS)
        schema = shown | dict.fromkeys(numbers, pl.Float64)
        schema |= {name: pl.Float64 for name in self.outcomes()}
        return pl.DataFrame(rows, schema=schema)

    def write_summary(self, methods: Iterable[str]) -> pl.DataFrame:
        """`summary`, written to `compare_path`."""
        table = self.summary(methods)
        _write(self.compare_path, table)
        return table

    def outcomes(self) -> list[str]:
        """Columns of what is reported of this problem."""
        return [name for name in self.metrics.columns if name.startswith(OUTCOME)]

    def best(self) -> tuple[str, int] | None:
        """(method, seed) of the lowest final φ."""
        good = self.results.filter(pl.col("reason").is_null()) if len(self.results) else self.results
        if good.is_empty():
            return None
        first = good.sort("phi").row(0, named=True)
        return first["method"], first["seed"]


def outcome_column(name: str) -> str:
    """The column of an outcome."""
    return OUTCOME + name.replace(" ", "_")


def outcome_label(column: str) -> str:
    """An outcome's name for people."""
    return column.removeprefix(OUTCOME).replace("_", " ")


def _path_mean(frame: pl.DataFrame) -> float | None:
    values = frame["cosine"].drop_nulls() if "cosine" in frame.columns else pl.Series([])
    return float(values.to_numpy().mean()) if len(values) else None


def _frame(rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows as a table; NaN becomes null, since it says no more and spoils means."""
    cleaned = [{name: _value(value) for name, value in row.items()} for row in rows]
    names = {name: pl.Float64 for row in cleaned for name in row if name not in SCHEMA}
    return pl.DataFrame(cleaned, schema=SCHEMA | names)


def _value(value: Any) -> Any:
    if isinstance(value, str | int | None):
        return value
    number = np.asarray(value).item()
    return None if isinstance(number, float) and math.isnan(number) else number


def _write(path: Path, frame: pl.DataFrame) -> None:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    with writing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        return pl.DataFrame(schema={"method": pl.String, "seed": pl.Int64})
    try:
        return pl.read_parquet(path.read_bytes())
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise InputError(f"{path} is damaged: restore it from a copy or start a new run") from error
