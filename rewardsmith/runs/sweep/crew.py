"""Trials that wait, run and end: as many at once as there are workers, and again those that died."""

import collections
import signal
import time
from pathlib import Path

from .engines import Ended, Engine, Job
from .manifest import Outcome
from .progress import SweepProgress, tail

_STOPPED = 130
_PATIENCE_SECONDS = 0.5


class Crew:
    """Keeps an engine busy.

    Args:
        engine: where trials run.
        retries: how often a trial whose process died is started again. One that ends with an error of its
            own would meet it again, so it is not.
        progress: is told what happens.
    """

    def __init__(self, engine: Engine, retries: int, progress: SweepProgress):
        self._engine, self._retries, self._progress = engine, retries, progress
        self._waiting: collections.deque[Job] = collections.deque()
        self._running: dict[str, tuple[Job, float]] = {}
        self._attempts: collections.Counter[str] = collections.Counter()
        self._seconds: collections.defaultdict[str, float] = collections.defaultdict(float)
        self.stopping = False

    @property
    def busy(self) -> bool:
        """Whether a trial runs or waits to."""
        return bool(self._running or self._waiting)

    @property
    def idle_workers(self) -> int:
        """Workers that nothing waits for."""
        return max(0, self._engine.workers - len(self._running) - len(self._waiting))

    def add(self, job: Job) -> None:
        """Line a trial up."""
        self._waiting.append(job)

    def stop(self) -> None:
        """Start no more, and ask those that run to save their state and end."""
        self.stopping = True
        self._waiting.clear()
        self._engine.stop()

    def turn(self) -> list[tuple[Job, Outcome]]:
        """Start what there is room for, wait a moment, and say which trials ended for good."""
        while self._waiting and len(self._running) < self._engine.workers and not self.stopping:
            job = self._waiting.popleft()
            self._attempts[job.name] += 1
            self._running[job.name] = job, time.monotonic()
            self._progress.began(job, self._attempts[job.name])
            self._engine.start(job)
        found = []
        for name, ended in self._engine.ended(_PATIENCE_SECONDS).items():
            job, began = self._running.pop(name)
            self._seconds[name] += time.monotonic() - began
            outcome = self._judge(job, ended)
            if outcome is None:
                self._progress.died(job, how(ended))
                self._waiting.appendleft(job)
            else:
                self._progress.ended(job, outcome)
                found.append((job, outcome))
        self._progress.refresh()
        return found

    def _judge(self, job: Job, ended: Ended) -> Outcome | None:
        """What became of a trial; None if it is to be started again."""
        attempts, seconds = self._attempts[job.name], round(self._seconds[job.name], 1)
        if ended.status == 0:
            return Outcome("done", attempts, seconds)
        own_error = ended.status is not None and 0 < ended.status < 128
        if own_error:
            return Outcome("failed", attempts, seconds, ended.note or last_line(job.log))
        if self.stopping:
            return Outcome("stopped", attempts, seconds)
        if attempts <= self._retries:
            return None
        return Outcome("failed", attempts, seconds, f"died {attempts} times, at last {how(ended)}")


def how(ended: Ended) -> str:
    """Words for the death of a process."""
    if ended.status is None:
        return f"with its worker ({ended.note})" if ended.note else "with its worker"
    if ended.status == _STOPPED:
        return "asked to end by someone else"
    number = -ended.status if ended.status < 0 else ended.status - 128
    try:
        return f"by {signal.Signals(number).name}"
    except ValueError:
        return f"with status {ended.status}"


def last_line(log: Path) -> str:
    """The last line of a log, without the name of the program."""
    lines = tail(log)
    return lines[-1].strip().removeprefix("rewardsmith: ") if lines else "it printed nothing"
