"""A training run that kills itself with signal 9 at a given moment: a step, or inside a write.

    python tests/dying.py FOLDER MOMENT

Moments are numbered from the start of the process. A step of the environments is one, and so is each of:
before a file's data reach the disk, half of them lost; before the file takes its name; after it has.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

from rewardsmith._core import atomic
from rewardsmith.runs.train import train
from rewardsmith.runs.training import Training


class Moments:
    """Counts them; `at` is called with (number, file or None) at each."""

    def __init__(self, at):
        self.count, self.at = 0, at

    def pass_by(self, path=None):
        self.count += 1
        self.at(self.count, path)


@contextlib.contextmanager
def watched(moments):
    """Training inside passes by the moments."""
    flush, replace, iterate = atomic._flush, Path.replace, Training._iterate

    def flushing(path):
        moments.pass_by(path if path.is_file() else None)
        flush(path)

    def replacing(path, target):
        moments.pass_by()
        done = replace(path, target)
        moments.pass_by()
        return done

    def iterating(self):
        moments.pass_by()
        iterate(self)

    atomic._flush, Path.replace, Training._iterate = flushing, replacing, iterating
    try:
        yield moments
    finally:
        atomic._flush, Path.replace, Training._iterate = flush, replace, iterate


def die_at(moment):
    """What `Moments` calls: the end at that one; a file that is under way then loses its second half."""

    def at(number, path):
        if number == moment:
            if path is not None:
                os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    return at


if __name__ == "__main__":
    from tests.small_runs import settings

    with watched(Moments(die_at(int(sys.argv[2])))):
        train(settings(env="Pendulum-v1", method="sobirl", checkpoint_every=80), Path(sys.argv[1]))
