"""Turns A B A B …, and the ratios of each round."""

import statistics
from collections.abc import Callable, Mapping, Sequence
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
    """One ratio: rates of both sides, round by round; no rates of a side that is absent.

    Without a peer: rates alone, of a point of a curve or of a part of a run.

    Args:
        subject, unit: what was measured.
        ours, peer: labels.
        our_rates, peer_rates: one a round.
        series, x: which curve or run, and where on it.
    """

    subject: str
    unit: str
    ours: str
    peer: str | None
    our_rates: tuple[float, ...]
    peer_rates: tuple[float, ...] = ()
    series: str | None = None
    x: int | None = None

    @property
    def ratios(self) -> list[float]:
        """Ours over the peer's of the same round, so that a machine that drifts moves both."""
        if not (self.our_rates and self.peer_rates):
            return []
        return [ours / peer for ours, peer in zip(self.our_rates, self.peer_rates, strict=True)]


@dataclass(frozen=True)
class Measured:
    """Rates a round by label, none where a side is absent; versions of what ran, by whose it is."""

    rates: dict[str, tuple[float, ...]]
    versions: dict[str, dict[str, str]]

    def rows(self, subject: Subject) -> list[Row]:
        """The ratios of the subject."""
        return [
            Row(subject.name, subject.unit, ours, peer, self.rates[ours], self.rates[peer])
            for ours, peer in subject.ratios
        ]


def measure(
    subject: Subject, pythons: Mapping[str, Path | None], cores: Sequence[int | None], say: Say
) -> Measured:
    """Measure all sides of a subject, in turns.

    All processes start and compile at once, on all of `cores`; then each goes to the core where it is
    measured, and one side at a time runs.

    Args:
        subject: what to measure.
        pythons: interpreter by `Side.home`; None where there is none.
        cores: the first is that of all sides, the others of further copies; [None]: wherever.
        say: prints a line of progress.
    """
    with ExitStack() as living:
        workers: dict[tuple[tuple[str, ...], int], Worker] = {}
        teams: dict[str, list[Worker]] = {}
        for side in subject.sides:
            python = pythons[side.home]
            if side.copies > len(cores):
                say(f"{subject.name}: {side.label} is absent: needs {side.copies} cores")
            elif python is not None:
                for copy in range(side.copies):
                    if (side.program, copy) not in workers:
                        worker = Worker(python, cores[len(workers) % len(cores)], side.program)
                        living.callback(worker.close)
                        workers[side.program, copy] = worker
                teams[side.label] = [workers[side.program, copy] for copy in range(side.copies)]
        say(f"{subject.name}: warming up {len(workers)} processes")
        present = [side for side in subject.sides if side.label in teams]
        versions: dict[str, dict[str, str]] = {}
        for side in present:
            for worker in teams[side.label]:
                worker.start(count=side.multiple, **side.options)
        for side in present:
            try:
                for worker in teams[side.label]:
                    worker.finish()
                versions.setdefault(side.home, {}).update(teams[side.label][0].versions)
            except WorkerError as error:
                if side.home == OURS:
                    raise
                say(f"{subject.name}: {side.label} is absent: {error}")
                del teams[side.label]
        present = [side for side in present if side.label in teams]
        for (_, copy), worker in workers.items():
            if any(worker in team for team in teams.values()):
                worker.move(cores[copy])
        counts = {side.label: count_for(teams[side.label], side, subject.seconds) for side in present}
        rates: dict[str, tuple[float, ...]] = {side.label: () for side in subject.sides}
        for number in range(1, subject.rounds + 1):
            for side in present:
                team, count = teams[side.label], counts[side.label]
                rates[side.label] += (len(team) * count / turn(team, side, count),)
            told = " · ".join(f"{side.label} {rates[side.label][-1]:,.0f}" for side in present)
            say(f"{subject.name}: round {number}/{subject.rounds}, {subject.unit}: {told}")
    return Measured(rates, versions)


def summary(values: Any) -> tuple[float, float, float]:
    """Median, least, greatest."""
    return statistics.median(values), min(values), max(values)


def count_for(team: Sequence[Worker], side: Side, seconds: float) -> int:
    """How many units of each of a side's processes take about `seconds`; all is compiled already."""
    count = side.multiple
    while (took := turn(team, side, count)) < 0.1 * seconds:
        count *= 4
    return max(1, round(count * seconds / took / side.multiple)) * side.multiple


def turn(team: Sequence[Worker], side: Side, count: int) -> float:
    """Seconds until the last of the copies, which begin together, has done its `count` units."""
    for worker in team:
        worker.start(count=count, **side.options)
    return max([worker.finish() for worker in team])
