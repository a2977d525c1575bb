"""Comparisons as a parquet file. Not imported with the room: polars starts threads when it is loaded."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

# Comparisons of images that are written at once: some 0.1 GiB of memory with Atari's frames.
_AT_ONCE = 64


def write_comparisons(
    arrays: Mapping[str, np.ndarray], order: np.ndarray, horizon: int, stack: int, path: Path
) -> None:
    """One row for each slot of `order`, as `ComparisonQueue.write_parquet` says.

    Args:
        arrays: of the queue.
        order: slots, in the order of the rows.
        horizon: H.
        stack: frames of one observation.
        path: the file.
    """
    if arrays["observations"].dtype != np.uint8:
        _table(arrays, order, horizon, stack).write_parquet(path)
        return

    def pieces(columns: list[str] | None, *_: object) -> Iterator[pl.DataFrame]:
        for start in range(0, len(order), _AT_ONCE):
            piece = _table(arrays, order[start : start + _AT_ONCE], horizon, stack)
            yield piece if columns is None else piece.select(columns)

    # In pieces, for a second copy of all frames would not fit beside the first.
    schema = _table(arrays, order[:0], horizon, stack).schema
    register_io_source(pieces, schema=schema).sink_parquet(path, row_group_size=_AT_ONCE)


def _table(arrays: Mapping[str, np.ndarray], order: np.ndarray, horizon: int, stack: int) -> pl.DataFrame:
    columns: dict[str, pl.Series | np.ndarray] = {name: arrays[name][order] for name in ("step", "label")}
    lengths = {"observations": stack - 1 + horizon, "actions": horizon}
    for name, length in lengths.items():
        for side, word in enumerate(("first", "second")):
            columns[f"{word}_{name}"] = _column(arrays[name][order, side, :length])
    return pl.DataFrame(columns)


def _column(clips: np.ndarray) -> pl.Series:
    """Frames as bytes, anything else as flat lists."""
    if clips.dtype == np.uint8:
        return pl.Series([clip.tobytes() for clip in clips], dtype=pl.Binary)
    flat = clips.reshape(len(clips), clips[0].size if len(clips) else 0).astype(np.float32)
    return pl.Series(flat.tolist(), dtype=pl.List(pl.Float32))
