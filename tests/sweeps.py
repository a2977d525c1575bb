"""Small sweeps in processes of their own, and an engine that runs nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rewardsmith.runs.sweep.engines import Ended

SMALL = (
    "--env Pendulum-v1 --steps 640 --comparisons 40 --num-envs 4 --hidden 16 --reward-hidden 8 --ensemble 2 "
    "--batch-size 16 --learning-starts 160 --clip-length 10 --leader-every 160 --leader-steps 4 "
    "--leader-warmup-steps 8 --leader-batch-size 8 --recent-batch-size 4 --eval-every 160 --eval-episodes 1 "
    "--checkpoint-every 80 --snapshot-every None"
).split()
_PATIENCE_SECONDS = 120


class Command:
    """A command in a process of its own that writes to a file."""

    def __init__(self, place: Path, *arguments):
        self.log = place / "told.txt"
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rewardsmith", *map(str, arguments)],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def signal(self, number: int):
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """The exit status and all that was printed."""
        return self.process.wait(_PATIENCE_SECONDS), self.log.read_text()


def until(condition):
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return found


def processes(*words: str) -> list[int]:
    """Ids of the processes whose command line has all the words."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                line = (path / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if all(word in line for word in words):
                found.append(int(path.name))
    return found


def trial_processes(folder: Path) -> list[int]:
    return processes("rewardsmith.runs.sweep.trial", str(folder))


def kill(pid: int):
    os.kill(pid, signal.SIGKILL)


def checkpoints(folder: Path) -> list[Path]:
    return list(folder.glob("checkpoints/step_*"))


class FakeEngine:
    """Every trial ends at once, in the way that `fate` says."""

    def __init__(self, fate, workers=2):
        self.workers, self.fate = workers, fate
        self.started, self.running = [], []
        self.most = 0

    def start(self, job):
        self.started.append(job.name)
        self.running.append(job)
        self.most = max(self.most, len(self.running))

    def ended(self, patience):
        found = {job.name: self.fate(job, self.started.count(job.name)) for job in self.running}
        self.running = []
        return found

    def stop(self):
        pass

    def close(self):
        pass


def evaluated(job, value):
    """A trial that ends well with this true return."""
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "eval.json").write_text(json.dumps({"mean": value, "step": job.config.steps}))
    return Ended(0)
