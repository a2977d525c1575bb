"""What a run measured: one wide table, one row a measurement, missing values null."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rewardsmith._core import InputError
from rewardsmith._core.atomic import writing

KINDS = ("eval", "leader", "learner", "snapshot")
"""Who speaks in a row: an evaluation, an update of the reward, a stretch of the follower's learning, a
comparison of the follower with one that was trained longer."""

SCHEMA: dict[str, type[pl.DataType]] = {
    "step": pl.Int64,
    "seconds": pl.Float64,
    "kind": pl.String,
    "true_return": pl.Float64,
    "true_return_std": pl.Float64,
    "episode_length": pl.Float64,
    "comparisons": pl.Int64,
    "preference_accuracy": pl.Float64,
    "held_out_accuracy": pl.Float64,
    "waiting": pl.Int64,
    "preference_loss": pl.Float64,
    "first_norm": pl.Float64,
    "second_norm": pl.Float64,
    "cosine": pl.Float64,
    "effective_share": pl.Float64,
    "bellman_residual": pl.Float64,
    "step_ratio": pl.Float64,
    "extra_steps": pl.Int64,
    "kl_to_longer": pl.Float64,
    "critic_loss": pl.Float64,
    "actor_loss": pl.Float64,
    "temperature": pl.Float64,
    "entropy": pl.Float64,
    "q_mean": pl.Float64,
    "steps_per_second": pl.Float64,
    "share_env": pl.Float64,
    "share_learner": pl.Float64,
    "share_leader": pl.Float64,
}
"""Columns of ``metrics.parquet``. Returns are sums over an episode in the environment's own units, `step`
counts environment steps, `seconds` the wall time of the run (over all its resumptions), shares are
fractions of wall time, `preference_accuracy` is measured before training on the comparisons,
`held_out_accuracy` on answers that are never trained on, and `waiting` counts questions without an answer."""


class Metrics:
    """Collects rows in memory; `flush` writes them all as one file, atomically.

    Args:
        path: the parquet file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._columns: dict[str, list[Any]] = {name: [] for name in SCHEMA}

    @classmethod
    def load(cls, path: Path) -> "Metrics":
        """A recorder that goes on where `path` ends; `InputError` if there is none or it is damaged."""
        metrics = cls(path)
        metrics._columns = _read(path).to_dict(as_series=False)
        return metrics

    def record(self, **columns: Any) -> None:
        """Add one row.

        Args:
            columns: values by name of `SCHEMA`, anything ``float()`` or ``int()`` takes; `step` and `kind`
                must be among them, the others are null where left out or None.

        Raises:
            InputError: a name that is no column, or a kind not in `KINDS`.
        """
        if unknown := sorted(columns.keys() - SCHEMA.keys()):
            raise InputError(f"no metric is called {unknown[0]!r}: use one of {', '.join(SCHEMA)}")
        if columns.get("step") is None or columns.get("kind") not in KINDS:
            raise InputError(f"a row of metrics needs a step and a kind, one of {', '.join(KINDS)}")
        row = {name: _convert(columns.get(name), dtype) for name, dtype in SCHEMA.items()}
        for name, value in row.items():
            self._columns[name].append(value)

    def flush(self) -> None:
        """Write all rows, in place of what the file held."""
        buffer = io.BytesIO()
        self.frame().write_parquet(buffer)
        with writing(self.path) as temporary:
            temporary.write_bytes(buffer.getvalue())

    def truncate(self, rows: int) -> None:
        """Forget all but the first `rows` rows: those a checkpoint had seen. Nothing is written yet."""
        if not 0 <= rows <= len(self):
            raise InputError(
                f"{self.path} holds {len(self)} rows of the {rows} its checkpoint counts: start a new run"
            )
        for values in self._columns.values():
            del values[rows:]

    def frame(self) -> pl.DataFrame:
        """The rows so far, with the columns of `SCHEMA`."""
        return pl.DataFrame(self._columns, schema=SCHEMA)

    def __len__(self) -> int:
        return len(self._columns["step"])


def read_metrics(run_path: Path | str) -> pl.DataFrame:
    """The metrics of the run in folder `run_path`, with the columns of `SCHEMA`.

    Raises:
        InputError: the run has written none yet, or the file is damaged.
    """
    return _read(Path(run_path) / "metrics.parquet")


def _convert(value: Any, dtype: type) -> Any:
    if value is None:
        return None
    if dtype == pl.String:
        return str(value)
    return int(value) if dtype == pl.Int64 else float(value)


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise InputError(f"no metrics at {path}: let the run reach its first evaluation")
    try:
        frame = pl.read_parquet(path.read_bytes())
        # A file of an older version may lack columns: they are null then.
        absent = [
            pl.lit(None, dtype).alias(name) for name, dtype in SCHEMA.items() if name not in frame.columns
        ]
        return frame.with_columns(absent).select(pl.col(name).cast(SCHEMA[name]) for name in SCHEMA)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise InputError(f"{path} is damaged: restore it from a copy or start a new run") from error


def recent_accuracy(metrics: pl.DataFrame) -> float | None:
    """Accuracy over the second half of the run, each session weighed by the pairs it asked: one is few."""
    asked = (
        metrics.filter(pl.col("kind") == "leader")
        .with_columns(pairs=pl.col("comparisons").diff().fill_null(pl.col("comparisons")))
        .filter(pl.col("preference_accuracy").is_not_null() & (pl.col("step") * 2 >= pl.col("step").max()))
    )
    pairs = asked["pairs"].to_numpy()
    return float(np.average(asked["preference_accuracy"].to_numpy(), weights=pairs)) if pairs.sum() else None
