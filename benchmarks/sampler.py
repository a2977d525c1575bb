"""Where a thread spends its time: its stack, looked at two hundred times a second from another thread."""

import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from types import FrameType

_PERIOD = 0.005
REST = "rest"


@dataclass(frozen=True)
class Rule:
    """A part of a program: everything called from certain functions.

    Args:
        part: its name.
        file: how the path of their file ends.
        functions: their names; empty: all of the file.
    """

    part: str
    file: str
    functions: frozenset[str] = frozenset()

    def holds(self, frame: FrameType) -> bool:
        """Whether that is such a function."""
        code = frame.f_code
        return (not self.functions or code.co_name in self.functions) and code.co_filename.endswith(self.file)


def part_of(frame: FrameType | None, rules: tuple[Rule, ...]) -> str:
    """The part of the first rule that holds anywhere on the stack."""
    stack = []
    while frame is not None:
        stack.append(frame)
        frame = frame.f_back
    for rule in rules:
        if any(rule.holds(frame) for frame in stack):
            return rule.part
    return REST


class Sampler:
    """Counts the seconds of the thread that makes it, by part, while it is entered as a context.

    A look stands for all the time since the one before, so that the parts add up to the whole even where
    another thread cannot look as often as it wants.
    """

    def __init__(self, rules: tuple[Rule, ...]):
        self.seconds: dict[str, float] = defaultdict(float)
        self._rules, self._watched = rules, threading.get_ident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Sampler":
        self._last = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._add(REST)

    def _watch(self) -> None:
        while not self._done.wait(_PERIOD):
            self._add(part_of(sys._current_frames().get(self._watched), self._rules))

    def _add(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now
