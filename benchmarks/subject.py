"""What is compared with what, as data."""

from dataclasses import dataclass, field
from typing import Any

OURS, PEERS, IMITATION = "ours", "peers", "imitation"
# Seconds to start a process and to compile for a side, two processes at a time; for the plan that is printed.
_START, _COMPILE = 4.0, 2.0


@dataclass(frozen=True)
class Side:
    """One thing that is timed.

    Args:
        label: what the table calls it.
        program: module and arguments of the process it lives in; sides with the same one share a process.
        options: told to the program at every measurement.
        multiple: the number of units measured at once is a multiple of this.
        home: whose interpreter it needs.
        copies: processes that do this at once, each on a core of its own; the rate is of all of them, until
            the last is done.
    """

    label: str
    program: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    multiple: int = 1
    home: str = OURS
    copies: int = 1


@dataclass(frozen=True)
class Subject:
    """Sides that are measured in turn, and the ratios to take of them.

    Args:
        name: for the command line.
        title, how: heading and one paragraph of the page.
        unit: of the rates.
        sides: in the order of their turns.
        ratios: (ours, peer) labels.
        rounds: how often each side has its turn.
        seconds: length of a turn.
    """

    name: str
    title: str
    how: str
    unit: str
    sides: tuple[Side, ...]
    ratios: tuple[tuple[str, str], ...]
    rounds: int
    seconds: float

    @property
    def planned(self) -> float:
        """About how many seconds it takes, the start of its processes included."""
        processes = {(side.program, copy) for side in self.sides for copy in range(side.copies)}
        return (self.rounds * self.seconds + _COMPILE) * len(self.sides) + _START * len(processes)
