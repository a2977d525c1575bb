"""A training run that tells what it holds of the machine as it goes on.

    python tests/long_run.py FOLDER SAMPLES SECONDS STEPS SETTINGS

Ends after so many seconds or steps, as Ctrl-C would end it. SAMPLES gets a line of JSON every two hundredth
of that: seconds, step, memory of the process that is no file's (MiB), open descriptors, threads, and the
programs that were compiled since the line before.
"""

import json
import sys
import time
from pathlib import Path

from jax import monitoring

from rewardsmith import keep_freed_memory
from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.train import train
from rewardsmith.runs.training import Stopped, Training

SAMPLES = 200
COMPILED = "/jax/core/compile/backend_compile_duration"


def held(pid="self"):
    """What a process holds: memory that is no file's, in MiB, descriptors and threads."""
    status = Path(f"/proc/{pid}/status").read_text()
    numbers = dict(line.split(":", 1) for line in status.splitlines())
    return {
        "memory": int(numbers["RssAnon"].split()[0]) / 1024,
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": int(numbers["Threads"]),
    }


def watch(path, seconds, steps):
    """Training from here on writes the samples, and stops in time."""
    compiled, started, iterate = [], time.monotonic(), Training._iterate
    monitoring.register_event_duration_secs_listener(
        lambda event, _, **more: compiled.append(str(more.get("fun_name"))) if event == COMPILED else None
    )
    due = 0.0

    def iterating(self):
        nonlocal due
        iterate(self)
        passed = time.monotonic() - started
        done = max(passed / seconds, self.step / steps)
        if done >= min(due, 1.0):
            due = done + 1 / SAMPLES
            line = {"seconds": passed, "step": self.step, **held(), "compiled": compiled.copy()}
            compiled.clear()
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        if done >= 1.0:
            self.stop_requested = True

    Training._iterate = iterating


if __name__ == "__main__":
    folder, samples, seconds, steps, settings = sys.argv[1:]
    keep_freed_memory()
    watch(Path(samples), float(seconds), int(steps))
    try:
        train(TrainConfig.from_json(json.loads(settings)), Path(folder))
    except Stopped as stop:
        print(stop)
