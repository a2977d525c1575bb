"""What a person sees while a run is audited."""

import time

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..progress import OnConsole, duration


class AuditProgress(OnConsole):
    """One line that tells what is measured, how much of it is done, and for how long already.

    On a terminal it is redrawn in place; elsewhere one line a part is printed. Use it as a context manager.

    Args:
        name: of the run.
        console: where to write; standard output by default.
    """

    def __init__(self, name: str, console: Console | None = None):
        self._console = Console() if console is None else console
        self._name, self._began = name, time.monotonic()
        self._part, self._done, self._total = "", 0, 1
        self._live = Live(self, console=self._console, transient=True) if self._console.is_terminal else None

    def part(self, what: str, total: int = 1) -> None:
        """From now on `what` is measured, in `total` units."""
        self._part, self._done, self._total = what, 0, max(total, 1)
        if self._live is None:
            self.message(self._line())

    def done(self, units: int, total: int | None = None) -> None:
        """So many of them are done; `total`: there are so many."""
        self._done, self._total = units, self._total if total is None else max(total, 1)

    def __rich__(self) -> Table:
        row = Table.grid(padding=(0, 1))
        row.add_row(ProgressBar(self._total, min(self._done, self._total), width=20), Text(self._line()))
        return row

    def _line(self) -> str:
        return f"audit of {self._name} · {self._part} · {duration(time.monotonic() - self._began)}"
