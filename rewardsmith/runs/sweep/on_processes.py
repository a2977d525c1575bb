"""Trials as plain child processes of this one: needs nothing, fills one machine."""

import os
import subprocess
import time

from .engines import Ended, Job
from .launch import ask_to_end, begin

_POLL_SECONDS = 0.05


class Processes:
    """The engine without dependencies.

    Args:
        workers: trials at once.
    """

    def __init__(self, workers: int):
        self.workers = workers
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, job: Job) -> None:
        """Begin a trial."""
        self._children[job.name] = begin(os.fspath(job.folder), job.order, os.fspath(job.log))

    def ended(self, patience: float) -> dict[str, Ended]:
        """The trials that ended since the last call."""
        deadline = time.monotonic() + patience
        while True:
            found = {
                name: Ended(status)
                for name, child in self._children.items()
                if (status := child.poll()) is not None
            }
            if found or time.monotonic() >= deadline:
                break
            time.sleep(_POLL_SECONDS)
        for name in found:
            ask_to_end(self._children.pop(name))
        return found

    def stop(self) -> None:
        """Ask all trials to save their state and end."""
        for child in self._children.values():
            ask_to_end(child)

    def close(self) -> None:
        """Kill what still runs."""
        for child in self._children.values():
            child.kill()
        for child in self._children.values():
            child.wait()
            ask_to_end(child)
        self._children.clear()
