"""A program that is timed lives in a process of its own, pinned to one core, and waits for its turn.

One JSON object a line. The child says ``{"ready": versions}`` once it is warm; to ``{"measure": options}``
it answers ``{"result": ...}``. Standard library only: peers run it in their own environment.
"""

import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_PATIENCE = 600.0


class WorkerError(Exception):
    """A child ended, or did not answer in time."""


def run_program(main: Callable[[], None], name: str) -> None:
    """Call `main`, leaving no measured program behind; one line where one of them fails."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except WorkerError as failure:
        sys.exit(f"{name}: a measured program failed: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)


class Worker:
    """Parent's side: starts `module`.build(*arguments) in a child and asks it to measure.

    Args:
        python: interpreter of the child.
        core: the processor it may use; None leaves it free.
        program: module and arguments.

    Raises:
        WorkerError: it could not start; the text is the last line of its standard error.
    """

    def __init__(self, python: Path | str, core: int | None, program: Sequence[str]):
        self._folder = tempfile.TemporaryDirectory(prefix="benchmark-")
        self._errors = tempfile.TemporaryFile("w+", errors="replace")
        # Both sides of every ratio on the CPU, and on one thread.
        environment = os.environ | {
            "PYTHONPATH": str(_ROOT),
            "PYTHONWARNINGS": "ignore",
            "JAX_PLATFORMS": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }
        try:
            self._process = subprocess.Popen(
                [str(python), "-m", "benchmarks.worker", "none" if core is None else str(core), *program],
                cwd=self._folder.name,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )
        except OSError as error:
            raise WorkerError(f"cannot start {python}: {error.strerror}") from error
        try:
            self.versions: dict[str, str] = self._answer("ready")
        except BaseException:
            self.close()
            raise

    def measure(self, **options: Any) -> Any:
        """What the program's measure(**options) returns: seconds, unless it says otherwise."""
        assert self._process.stdin is not None
        # A child that has ended says why in `_answer`.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"measure": options}) + "\n")
            self._process.stdin.flush()
        return self._answer("result")

    def close(self) -> None:
        """End the child."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._errors.close()
        self._folder.cleanup()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, name: str) -> Any:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], _PATIENCE)[0]:
            raise WorkerError(f"no answer in {_PATIENCE:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            told = [text for text in self._errors.read().splitlines() if text.strip()]
            raise WorkerError(told[-1].strip() if told else "ended without a word")
        return json.loads(line)[name]


def _main(core: str, module: str, *arguments: str) -> None:
    # Before anything is imported that counts processors.
    if core != "none":
        os.sched_setaffinity(0, {int(core)})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print is no answer.

    def answer(**reply: Any) -> None:
        print(json.dumps(reply), file=answers, flush=True)

    program = importlib.import_module(module)
    measure = program.build(*arguments)
    versions = {name: importlib.metadata.version(name) for name in program.PACKAGES}
    answer(ready={"Python": platform.python_version()} | versions)
    for line in sys.stdin:
        result = measure(**json.loads(line)["measure"])
        if core != "none" and os.sched_getaffinity(0) != {int(core)}:
            sys.exit(f"something else moved this process away from core {core}: the ratio would mean nothing")
        answer(result=result)


if __name__ == "__main__":
    _main(*sys.argv[1:])
