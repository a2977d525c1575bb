"""A trial's own process: how it is started and asked to end. Standard library only: a Ray worker runs this.

The starter holds one end of a pipe whose other end is the trial's standard input. The first line says what to
do; when the pipe closes, the trial saves its state and ends. So a trial ends in the same way when it is asked
to, when its starter is killed and when the starter's machine ends it, and none is left behind.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

_POLL_SECONDS = 0.1
_XLA_FLAG = "--xla_cpu_multi_thread_eigen=false"
# Each trial has one core: pools of threads, the first of them XLA's, would only wait for one another.
_ONE_THREAD = (
    "PJRT_NPROC",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "POLARS_MAX_THREADS",
)


def begin(folder: str, order: str, log: str) -> "subprocess.Popen[bytes]":
    """Start the process of one trial.

    Args:
        folder: the run folder, absolute.
        order: what to do, one line of JSON; see `trial`.
        log: file that gets what the trial prints, behind what is there.
    """
    environment = dict(os.environ)
    flags = environment.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        environment["XLA_FLAGS"] = f"{flags} {_XLA_FLAG}".strip()
    for name in _ONE_THREAD:
        environment.setdefault(name, "1")
    # Several trials on one GPU take what they need, not three quarters of it each.
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    environment["PYTHONUNBUFFERED"] = "1"
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with Path(log).open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "rewardsmith.runs.sweep.trial", folder],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            # Ctrl-C in a terminal reaches all processes of its session; trials are asked by the pipe alone.
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        process.stdin.write(order.encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        # It is gone already; its exit status says so.
        ask_to_end(process)
    return process


def ask_to_end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a trial to save its state and end; more than once does no harm."""
    assert process.stdin is not None
    try:
        process.stdin.close()
    except BrokenPipeError:
        pass


def attend(folder: str, order: str, log: str) -> int:
    """Run one trial to its end, as the body of a Ray task; its exit status.

    Being cancelled, which Ray does by a `KeyboardInterrupt`, asks the trial to end and waits until it has.
    """
    process = begin(folder, order, log)
    while True:
        try:
            while (status := process.poll()) is None:
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            ask_to_end(process)
        else:
            ask_to_end(process)
            return status
