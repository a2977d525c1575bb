"""The process of one trial: ``python -m rewardsmith.runs.sweep.trial FOLDER``, its order on standard input.

It does what ``rewardsmith train`` does: a new run, or where the folder holds one, that run resumed; then the
evaluation, the curves and the report. Exit status: 0; 2 for bad input; 130 if asked to end; 1 otherwise.
"""

import fcntl
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ..._core import InputError, keep_compiled, keep_freed_memory

_GRACE_SECONDS = 120.0
_LOCK_POLL_SECONDS = 0.2
# Lives as long as the process: the lock goes with it.
_claimed: list[IO[str]] = []


def main() -> int:
    """Read the order and do it."""
    keep_freed_memory()
    keep_compiled()
    pipe = os.dup(0)
    with Path(os.devnull).open() as nothing:
        # What the run itself starts shall not hold the pipe.
        os.dup2(nothing.fileno(), 0)
    order = json.loads(_first_line(pipe))
    claim_core()
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    try:
        _run(Path(sys.argv[1]), order)
    except InputError as error:
        print(f"rewardsmith: {' '.join(str(error).split())}", flush=True)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from ..train import Stopped

        if isinstance(error, Stopped):
            print(error, flush=True)
            return 130
        traceback.print_exc()
        return 1
    return 0


def claim_core() -> int | None:
    """Keep this process to one core that no other trial of this user on this machine has claimed.

    Where all are claimed, or none can be, it may use those it was given.

    Returns:
        The core, or None.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    folder = Path(tempfile.gettempdir()) / f"rewardsmith-cores-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return None
        for core in sorted(os.sched_getaffinity(0)):
            handle = (folder / str(core)).open("a")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.close()
                continue
            _claimed.append(handle)
            os.sched_setaffinity(0, {core})
            return core
    except OSError:
        pass
    return None


def _run(folder: Path, order: Mapping[str, Any]) -> None:
    from ..config import TrainConfig, trust_module
    from ..finish import finish
    from ..train import resume, train

    _wait_for_the_one_before(folder)
    # From the command that was given it, or that was told to trust its folder.
    trust_module(order["settings"]["env"])
    if (folder / "config.json").is_file():
        run = resume(folder)
    else:
        run = train(TrainConfig.from_json(order["settings"]), folder)
    finish(run, with_film=order["film"])


def _wait_for_the_one_before(folder: Path) -> None:
    """The trial whose starter was killed may still be saving; it ends within `_GRACE_SECONDS`."""
    path = folder / ".lock"
    deadline = time.monotonic() + _GRACE_SECONDS
    while path.exists() and time.monotonic() < deadline:
        with path.open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(_LOCK_POLL_SECONDS)


def _first_line(pipe: int) -> bytes:
    # No buffered reader: the watching thread would hold its lock when the interpreter ends.
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(pipe, 1)
        if not byte:
            sys.exit(130)
        line += byte
    return line


def _end_with(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    # A program that is being compiled or does not return hears no signal.
    time.sleep(_GRACE_SECONDS)
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
