"""The table a person watches while methods run: live on a terminal, now and then a plain line elsewhere."""

import collections
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ..progress import OnConsole, duration
from .records import OUTCOME, outcome_label

_PLAIN_SECONDS = 30.0
_SHOWN = 15


class LiveTable(OnConsole):
    """One row a run: method, seed, step, φ, ‖∇φ‖, cosine, the first outcome, seconds, steps per second.

    On a terminal the newest rows are redrawn in place; elsewhere each finished run is a line, and the one at
    work every 30 seconds. Use it as a context manager.

    Args:
        runs: how many there are to do.
        steps: of each.
        console: where to write; standard output by default.
        clock: seconds, ever increasing; for tests.
    """

    def __init__(
        self,
        runs: int,
        steps: int,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._runs, self._steps, self._clock = runs, steps, clock
        self._console = console or Console()
        self._rows: collections.deque[list[str]] = collections.deque(maxlen=_SHOWN)
        self._begun = self._printed = clock()
        self._done, self._share, self._name = 0, 0.0, ("", "")
        self._outcome = ""
        plain = not self._console.is_terminal or self._console.is_dumb_terminal
        self._live = (
            None if plain else Live(console=self._console, get_renderable=self._table, refresh_per_second=4)
        )

    def begin(self, method: str, seed: int) -> None:
        """A run starts."""
        self._name, self._share = (method, str(seed)), 0.0
        self._rows.append([*self._name, "0", *[""] * 6])

    def update(self, row: dict[str, Any]) -> None:
        """The run at work was measured."""
        self._share = row["step"] / self._steps
        self._rows[-1] = self._cells(row)
        if self._live is None and self._clock() - self._printed >= _PLAIN_SECONDS:
            self._print()

    def end(self, reason: str | None) -> None:
        """The run at work is finished; `reason`: why it failed."""
        self._done, self._share = self._done + 1, 0.0
        if reason is not None:
            self._rows[-1][2] = "failed"
            self.message(f"{self._name[0]}, seed {self._name[1]}, failed: {reason}")
        elif self._live is None:
            self._print()

    def _cells(self, row: dict[str, Any]) -> list[str]:
        outcomes = [name for name in row if name.startswith(OUTCOME)]
        self._outcome = outcomes[0] if outcomes else ""
        rate = f"{row['step'] / row['seconds']:,.0f}" if row["seconds"] else ""
        return [
            *self._name,
            f"{row['step']:,}",
            f"{row['phi']:.6g}",
            f"{row['gradient_norm']:.2e}",
            cosine_text(row["cosine"]),
            f"{row[self._outcome]:.5g}" if self._outcome else "",
            f"{row['seconds']:.2f}",
            rate,
        ]

    def _print(self) -> None:
        self._printed = self._clock()
        method, seed, step, phi, norm, cosine, outcome, seconds, rate = self._rows[-1]
        parts = [f"{method}, seed {seed}", f"step {step}", f"φ {phi}", f"‖∇φ‖ {norm}", f"cosine {cosine}"]
        if outcome:
            parts.append(f"{outcome_label(self._outcome)} {outcome}")
        parts += [f"{seconds} s", f"{rate or 0} steps/s", f"run {self._done or 1} of {self._runs}"]
        self.message(" · ".join(part for part in parts if part) + self._left())

    def _left(self) -> str:
        done = self._done + self._share
        if not done or done >= self._runs:
            return ""
        return f" · {duration((self._clock() - self._begun) / done * (self._runs - done))} left"

    def _table(self) -> Table:
        caption = f"{self._done} of {self._runs} runs done{self._left()}"
        table = Table(caption=caption, caption_justify="left", box=None, header_style="bold")
        for title in ("method", "seed", "step", "φ", "‖∇φ‖", "cosine"):
            table.add_column(title, justify="left" if title == "method" else "right", no_wrap=True)
        table.add_column(outcome_label(self._outcome), justify="right", no_wrap=True)
        table.add_column("seconds", justify="right", no_wrap=True)
        table.add_column("steps/s", justify="right", no_wrap=True)
        for row in self._rows:
            table.add_row(*row)
        return table


def cosine_text(value: float | None) -> str:
    """A cosine to four places; a dash where there is none."""
    return "–" if value is None or value != value else f"{value:.4f}"
