"""The line a person watches while a run trains: live on a terminal, now and then a plain line elsewhere."""

import collections
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_PLAIN_SHARE = 0.05
_PLAIN_SECONDS = 30.0
_RATE_SECONDS = 30.0

_FORMATS: dict[str, Callable[[Any], str]] = {
    "true_return": lambda value: f"true return {value:,.1f}",
    "preference_accuracy": lambda value: f"preference accuracy {value:.1%}",
    "comparisons": lambda value: f"{int(value):,} comparisons",
    "waiting": lambda value: f"{int(value):,} questions wait",
}


Watched = TypeVar("Watched", bound="OnConsole")


class OnConsole:
    """Something that a person watches: live on a terminal, lines elsewhere. Use it as a context manager."""

    _console: Console
    _live: Live | None

    def message(self, text: str) -> None:
        """Print a line of its own, above the live part."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self: Watched) -> Watched:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        else:
            self._close()

    def _close(self) -> None:
        """What is still to be said where nothing is live."""


class Progress(OnConsole):
    """Tells steps per second, the last evaluation, preference accuracy, comparisons used and time left.

    On a terminal one line is redrawn in place; elsewhere (a file, a pipe) a line is printed at every
    twentieth of the run or every 30 seconds, whichever comes first. Use it as a context manager.

    Args:
        total: environment steps of the whole run.
        start: steps already done when this process began, as after ``--resume``.
        console: where to write; standard output by default.
        clock: seconds, ever increasing; for tests.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total = total
        self._step = start
        self._fields: dict[str, Any] = {}
        self._console = console or Console()
        self._clock = clock
        # (seconds, step) pairs of the last half minute: the rate follows a change of speed.
        self._marks: collections.deque[tuple[float, int]] = collections.deque([(clock(), start)])
        self._printed = (clock(), start)
        plain = not self._console.is_terminal or self._console.is_dumb_terminal
        self._live = None if plain else Live(self, console=self._console, refresh_per_second=4)

    def update(self, step: int, **fields: Any) -> None:
        """Say where the run is.

        Args:
            step: environment steps done.
            fields: news, shown until replaced: `true_return`, `preference_accuracy` (in [0, 1]),
                `comparisons`, or any other name and number. None changes nothing.
        """
        now = self._clock()
        self._step = step
        self._fields |= {name: value for name, value in fields.items() if value is not None}
        self._marks.append((now, step))
        while len(self._marks) > 2 and now - self._marks[0][0] > _RATE_SECONDS:
            self._marks.popleft()
        if self._live is None:
            self._print_if_due(now)

    def _close(self) -> None:
        if self._printed[1] != self._step:
            self.message(self._line())

    def __rich__(self) -> Table:
        row = Table.grid(padding=(0, 1))
        row.add_row(
            ProgressBar(max(self._total, 1), min(self._step, self._total), width=20), Text(self._line())
        )
        return row

    def _print_if_due(self, now: float) -> None:
        seconds, step = self._printed
        if self._step - step >= _PLAIN_SHARE * self._total or now - seconds >= _PLAIN_SECONDS:
            self._printed = (now, self._step)
            self.message(self._line())

    def _line(self) -> str:
        share = self._step / self._total if self._total else 1.0
        parts = [f"{share:4.0%}  {self._step:,}/{self._total:,} steps"]
        if rate := self._rate():
            parts.append(f"{rate:,.0f} steps/s")
        parts += [
            _FORMATS[name](value) if name in _FORMATS else f"{name.replace('_', ' ')} {value:,.4g}"
            for name, value in self._fields.items()
        ]
        if rate and self._step < self._total:
            parts.append(f"{duration((self._total - self._step) / rate)} left")
        return " · ".join(parts)

    def _rate(self) -> float:
        (began, first), (ended, last) = self._marks[0], self._marks[-1]
        return (last - first) / (ended - began) if ended > began else 0.0


def duration(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
