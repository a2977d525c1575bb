"""What a check measured, as tables."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ..._core.atomic import writing
from .simulator import RunChecked

SCHEMA: dict[str, type[pl.DataType]] = {
    "problem": pl.String,
    "estimator": pl.String,
    "pairs": pl.Int64,
    "repeats": pl.Int64,
    "steps": pl.Int64,
    **dict.fromkeys(
        "seconds gradient_norm second_share bias bias_error deviation error error_low error_high cosine "
        "cosine_low cosine_high second_cosine".split(),
        pl.Float64,
    ),
}
"""Columns of ``metrics.parquet``, one row a problem, estimator and number of tuples; `measure.summary` says
what they hold. Null where there is no number."""
WANTED_COSINE = 0.95

RUN_SCHEMA: dict[str, type[pl.DataType]] = {
    "estimator": pl.String,
    "pairs": pl.Int64,
    "batches": pl.Int64,
    **dict.fromkeys("signal deviation cosine cosine_error length enough seconds".split(), pl.Float64),
}
"""Columns of ``metrics.parquet`` of a check of a run, one row an estimator; `agreement.Agreement` says what
they hold. `pairs` tuples in each of `batches` estimates; `enough` tuples for one estimate whose cosine to its
own mean is 0.95. Null where there is no number."""


def run_frame(found: RunChecked) -> pl.DataFrame:
    """What a check of a run found, as a table; NaN and infinity become null."""
    rows = [
        {
            "estimator": name,
            "pairs": found.group,
            "batches": found.groups,
            **dataclasses.asdict(one),
            "enough": one.groups_for(WANTED_COSINE) * found.group,
            "seconds": found.seconds.get(name),
        }
        for name, one in found.agreements.items()
    ]
    table = pl.DataFrame(rows, schema=RUN_SCHEMA)
    finite = pl.when(pl.col(pl.Float64).is_finite()).then(pl.col(pl.Float64))
    return table.with_columns(finite.name.keep())


def frame(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Rows as a table; NaN becomes null."""
    return pl.DataFrame(rows, schema=SCHEMA).with_columns(pl.col(pl.Float64).fill_nan(None))


def write(path: Path, table: pl.DataFrame) -> None:
    """One parquet file, atomically."""
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    with writing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def at_most(table: pl.DataFrame) -> pl.DataFrame:
    """The rows of the largest estimates, with `slope` and `enough`.

    `slope` of log error against log tuples, by least squares: −½ is the Monte-Carlo rate, 0 a bias that more
    samples do not mend. `enough`: the least number of tuples from which on the mean cosine is at least 0.95.
    Null where it cannot be told.
    """
    rows = []
    for part in table.partition_by("problem", "estimator", maintain_order=True):
        part = part.sort("pairs")
        row: dict[str, Any] = part.row(-1, named=True)
        rows.append(row | {"slope": slope(part), "enough": _enough(part)})
    extra = {"slope": pl.Float64, "enough": pl.Int64}
    return pl.DataFrame(rows, schema=SCHEMA | extra)


def slope(part: pl.DataFrame) -> float | None:
    """d log error / d log tuples over one estimator's rows; None below two sizes."""
    good = part.filter(pl.col("error") > 0)
    if len(good) < 2:
        return None
    x, y = (np.log(good[name].to_numpy().astype(float)) for name in ("pairs", "error"))
    return float(np.polyfit(x, y, 1)[0])


def _enough(part: pl.DataFrame) -> int | None:
    found = None
    for pairs, cosine in zip(part["pairs"].reverse(), part["cosine"].reverse(), strict=True):
        if cosine is None or cosine < WANTED_COSINE:
            break
        found = pairs
    return found
