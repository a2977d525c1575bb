"""What a person watches while a sweep runs: a table on a terminal, lines elsewhere."""

import collections
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..._core import InputError
from ..folder import RunFolder
from ..progress import OnConsole, duration
from .engines import Job
from .manifest import Outcome

_STEPS = re.compile(r"([\d,]+)/[\d,]+ steps")
_RETURN = re.compile(r"true return (-?[\d,.]+)")
_TAIL_BYTES = 4096
_LOOK_SECONDS = 1.0
_PLAIN_SECONDS = 30.0
_SHOWN_ENDED = 8


class SweepProgress(OnConsole):
    """Trials done, running and failed, steps and last true return of each, and the time left.

    On a terminal a table is redrawn; elsewhere a line is printed when a trial ends, and every 30 seconds.

    Args:
        total: trials in all.
        total_steps: environment steps of all trials together.
        done: trials that were finished before, with their steps.
        console: where to write; standard output by default.
        clock: seconds, ever increasing; for tests.
    """

    def __init__(
        self,
        total: int,
        total_steps: int,
        done: Iterable[int] = (),
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        before = list(done)
        self._total, self._total_steps = total, total_steps
        self._done, self._failed = len(before), 0
        self._steps_ended = sum(before)
        self._console, self._clock = console or Console(), clock
        self._running: dict[str, _Watched] = {}
        self._recent: collections.deque[tuple[str, str]] = collections.deque(maxlen=_SHOWN_ENDED)
        self._began = clock()
        self._gained = 0
        self._looked = self._printed = self._began
        plain = not self._console.is_terminal or self._console.is_dumb_terminal
        self._live = None if plain else Live(get_renderable=self._table, console=self._console)

    def began(self, job: Job, attempt: int) -> None:
        """A trial was started."""
        self._running[job.name] = _Watched(job, attempt)

    def died(self, job: Job, how: str) -> None:
        """The process of a trial died, and the trial will be started again."""
        watched = self._running.pop(job.name)
        watched.look()
        self._gained += watched.gained
        self.message(f"{job.name} died {how} at step {watched.steps:,}: starting it again")

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A trial ended for good, or was stopped."""
        watched = self._running.pop(job.name)
        watched.look()
        if outcome.state == "done":
            self._done += 1
            self._gained += job.config.steps - watched.first
            self._steps_ended += job.config.steps
            text = f"done{_true_return(final_return(job.folder))} after {duration(outcome.seconds)}"
        elif outcome.state == "failed":
            self._failed += 1
            self._total_steps -= job.config.steps
            text = f"failed: {outcome.reason}"
        else:
            text = f"stopped at step {watched.steps:,}"
        self._recent.append((job.name, text))
        if self._live is None:
            self.message(f"{job.name} {text} · {self._summary()}")

    def refresh(self) -> None:
        """Look at the logs, and print a line if one is due."""
        now = self._clock()
        if now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            for watched in self._running.values():
                watched.look()
        if self._live is None and now - self._printed >= _PLAIN_SECONDS:
            self._printed = now
            self.message(self._summary())

    def _summary(self) -> str:
        parts = [f"{self._done} of {self._total} done", f"{len(self._running)} running"]
        parts += [f"{self._failed} failed"] if self._failed else []
        left = self._seconds_left()
        return " · ".join([*parts, *([f"{duration(left)} left"] if left is not None else [])])

    def _seconds_left(self) -> float | None:
        """At the rate of all trials of this session together."""
        gained = self._gained + sum(watched.gained for watched in self._running.values())
        now = self._steps_ended + sum(watched.steps for watched in self._running.values())
        if gained <= 0 or now >= self._total_steps:
            return None
        return (self._total_steps - now) * (self._clock() - self._began) / gained

    def _table(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for name, text in self._recent:
            table.add_row(Text(name), Text(text, "red" if text.startswith("failed") else "dim"))
        for watched in self._running.values():
            table.add_row(Text(watched.job.name, "bold"), Text(watched.text()))
        # In front: a terminal cuts off what is below its last line.
        return Group(Text(self._summary(), "bold"), table)


class _Watched:
    """A trial that runs, as its log tells."""

    def __init__(self, job: Job, attempt: int):
        self.job, self.attempt = job, attempt
        self.first = self.steps = 0
        self.true_return: float | None = None
        self.look()
        self.first = self.steps

    @property
    def gained(self) -> int:
        return self.steps - self.first

    def look(self) -> None:
        steps, true_return = last_seen(self.job.log)
        self.steps = steps or self.steps
        self.true_return = self.true_return if true_return is None else true_return

    def text(self) -> str:
        again = f" · attempt {self.attempt}" if self.attempt > 1 else ""
        return f"{self.steps:,}/{self.job.config.steps:,} steps{_true_return(self.true_return)}{again}"


def last_seen(log: Path) -> tuple[int | None, float | None]:
    """Step and true return that the log of a run told last; None where it told none."""
    text = "\n".join(tail(log))
    steps, returns = _STEPS.findall(text), _RETURN.findall(text)
    return (
        int(steps[-1].replace(",", "")) if steps else None,
        float(returns[-1].replace(",", "").rstrip(".")) if returns else None,
    )


def tail(log: Path) -> list[str]:
    """The last lines of a log that are not empty; none where there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()]


def final_return(folder: Path) -> float | None:
    """Mean true return of a run's last evaluation by command, which its end is one; None without."""
    try:
        found = RunFolder(folder).evaluation()
    except InputError:
        return None
    return None if found is None else found.mean


def _true_return(value: float | None) -> str:
    return "" if value is None else f" · true return {value:,.1f}"
