"""Turns A B A B …, and the ratios of each round."""

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .subject import OURS, Side, Subject
from .worker import Worker, WorkerError

Say = Callable[[str], None]
ABSENT = "absent: could not be installed or started here"


@dataclass(frozen=True)
class Row:
    """One ratio: rates of both sides, round by round; no rates of a side that is absent."""

    subject: str
    unit: str
    ours: str
    peer: str
    our_rates: tuple[float, ...]
    peer_rates: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Ours over the peer's of the same round, so that a machine that drifts moves both."""
        if not (self.our_rates and self.peer_rates):
            return []
        return [ours / peer for ours, peer in zip(self.our_rates, self.peer_rates, strict=True)]


def measure(
    subject: Subject, pythons: dict[str, Path | None], core: int | None, say: Say
) -> tuple[list[Row], dict[str, dict[str, str]]]:
    """The rows of a subject, and the versions of what ran, by side of the ratio.

    Args:
        subject: what to measure.
        pythons: interpreter by `Side.home`; None where there is none.
        core: the one core of both sides.
        say: prints a line of progress.
    """
    versions: dict[str, dict[str, str]] = {}
    with ExitStack() as living:
        workers: dict[tuple[str, ...], Worker] = {}
        counts: dict[str, int] = {}
        for side in subject.sides:
            python = pythons[side.home]
            if python is None:
                continue
            say(f"{subject.name}: warming up {side.label}")
            try:
                if side.program not in workers:
                    workers[side.program] = living.enter_context(Worker(python, core, side.program))
                    versions.setdefault(side.home, {}).update(workers[side.program].versions)
                counts[side.label] = _count(workers[side.program], side, subject.seconds)
            except WorkerError as error:
                if side.home == OURS:
                    raise
                say(f"{subject.name}: {side.label} is absent: {error}")
        sides = [side for side in subject.sides if side.label in counts]
        rates: dict[str, list[float]] = {side.label: [] for side in subject.sides}
        for number in range(1, subject.rounds + 1):
            for side in sides:
                count = counts[side.label]
                rates[side.label].append(count / workers[side.program].measure(count=count, **side.options))
            told = " · ".join(f"{side.label} {rates[side.label][-1]:,.0f}" for side in sides)
            say(f"{subject.name}: round {number}/{subject.rounds}, {subject.unit}: {told}")
    rows = [
        Row(subject.name, subject.unit, ours, peer, tuple(rates[ours]), tuple(rates[peer]))
        for ours, peer in subject.ratios
    ]
    return rows, versions


def summary(values: Any) -> tuple[float, float, float]:
    """Median, least, greatest."""
    return statistics.median(values), min(values), max(values)


def _count(worker: Worker, side: Side, seconds: float) -> int:
    """How many units take about `seconds`; the first try compiles."""
    count = side.multiple
    worker.measure(count=count, **side.options)
    while (took := worker.measure(count=count, **side.options)) < 0.1 * seconds:
        count *= 4
    return max(1, round(count * seconds / took / side.multiple)) * side.multiple
