"""What a run writes down as it goes: metrics, with the time and where it went."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from .metrics import Metrics


class Recorder:
    """Rows of metrics with their wall time; goes on where a checkpoint was written.

    Args:
        path: of ``metrics.parquet``.
    """

    def __init__(self, path: Path):
        self._metrics = Metrics(path)
        self._before, self._started = 0.0, time.monotonic()
        self.clock = {"env": 0.0, "learner": 0.0, "leader": 0.0}

    def start(self) -> None:
        """The run begins, or goes on, now."""
        self._started = time.monotonic()

    def record(self, kind: str, step: int, **columns: Any) -> None:
        """Add one row, as `Metrics.record`, with its time."""
        seconds = self._seconds()
        shares = {f"share_{name}": spent / max(seconds, 1e-9) for name, spent in self.clock.items()}
        rate = step / max(seconds, 1e-9)
        self._metrics.record(
            step=step, kind=kind, seconds=seconds, steps_per_second=rate, **shares, **columns
        )

    def flush(self) -> None:
        """Write all rows."""
        self._metrics.flush()

    def get_state(self) -> dict[str, Any]:
        """For a checkpoint: the time so far, and how many rows it has seen."""
        return {
            "seconds": np.asarray(self._seconds()),
            "clock": {name: np.asarray(spent) for name, spent in self.clock.items()},
            "rows": np.asarray(len(self._metrics)),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_state` gave, and forget the rows that were written since."""
        self._before = float(state["seconds"])
        self.clock = {name: float(spent) for name, spent in state["clock"].items()}
        self._metrics = Metrics.load(self._metrics.path)
        self._metrics.truncate(int(state["rows"]))

    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._started
