"""A program that is timed lives in a process of its own, pinned to one core, and waits for its turn.

One JSON object a line. The child says ``{"ready": versions}`` once it is warm; to ``{"measure": options}``
it answers ``{"result": ...}``, to ``{"core": n}`` ``{"moved": n}``, to ``{"memory": null}`` the most bytes
held on its accelerator. Standard library only: peers run it in their own environment.
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
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_PATIENCE = 600.0
# Both sides of every ratio on the CPU, and on one thread.
_ON_CPU = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


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

    The child begins at once; `versions`, entering a context and `finish` wait for it.

    Args:
        python: interpreter of the child.
        core: the processor it may use; None leaves it free.
        program: module and arguments.
        device: "cpu", or "gpu" for the first GPU.

    Raises:
        WorkerError: it could not start; the text is the last line of its standard error.
    """

    def __init__(self, python: Path | str, core: int | None, program: Sequence[str], device: str = "cpu"):
        self._folder = tempfile.TemporaryDirectory(prefix="benchmark-")
        self._errors = tempfile.TemporaryFile("w+", errors="replace")
        self._versions: dict[str, str] | None = None
        self._read = b""
        environment = os.environ | {"PYTHONPATH": str(_ROOT), "PYTHONWARNINGS": "ignore"}
        environment |= _ON_CPU if device == "cpu" else _on_first_gpu()
        try:
            self._process = subprocess.Popen(
                [str(python), "-m", "benchmarks.worker", "none" if core is None else str(core), *program],
                cwd=self._folder.name,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except OSError as error:
            raise WorkerError(f"cannot start {python}: {error.strerror}") from error

    @property
    def versions(self) -> dict[str, str]:
        """Of what runs in the child."""
        if self._versions is None:
            self._versions = self._answer("ready")
        assert self._versions is not None
        return self._versions

    def measure(self, **options: Any) -> Any:
        """What the program's measure(**options) returns: seconds, unless it says otherwise."""
        self.start(**options)
        return self.finish()

    def start(self, **options: Any) -> None:
        """Begin to measure, as soon as what was asked before is done."""
        self._ask(measure=options)

    def finish(self) -> Any:
        """The result of the first `start` that is not answered yet."""
        return self._told("result")

    def move(self, core: int | None) -> None:
        """Go on on another processor, with all threads; None: stay."""
        if core is not None:
            self._ask(core=core)
            self._told("moved")

    def memory(self) -> int | None:
        """The most bytes that were in use on the accelerator; None where none is used."""
        self._ask(memory=None)
        return self._told("memory")

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
        try:
            _ = self.versions
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, **what: Any) -> None:
        assert self._process.stdin is not None
        # A child that has ended says why in `_answer`.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()

    def _told(self, name: str) -> Any:
        _ = self.versions
        return self._answer(name)

    def _answer(self, name: str) -> Any:
        assert self._process.stdout is not None
        # Of several answers that come at once, those read with the first are no longer in the pipe.
        while b"\n" not in self._read:
            _wait([self._process.stdout])
            chunk = os.read(self._process.stdout.fileno(), 2**16)
            if not chunk:
                self._errors.seek(0)
                told = [text for text in self._errors.read().splitlines() if text.strip()]
                raise WorkerError(told[-1].strip() if told else "ended without a word")
            self._read += chunk
        line, self._read = self._read.split(b"\n", 1)
        return json.loads(line)[name]


def first_to_answer(workers: Iterable[Worker]) -> Worker:
    """The one whose answer, or end, is there first."""
    by_pipe: dict[Any, Worker] = {}
    for worker in workers:
        if b"\n" in worker._read:
            return worker
        by_pipe[worker._process.stdout] = worker
    return by_pipe[_wait(list(by_pipe))]


def _wait(pipes: list[Any]) -> Any:
    """The first that has something to read, or is closed."""
    ready = select.select(pipes, [], [], _PATIENCE)[0]
    if not ready:
        raise WorkerError(f"no answer in {_PATIENCE:.0f} s")
    return ready[0]


def _on_first_gpu() -> dict[str, str]:
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    # Memory as it is needed, so that what was used can be told.
    return {"JAX_PLATFORMS": "", "CUDA_VISIBLE_DEVICES": first, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def _main(core: str, module: str, *arguments: str) -> None:
    # Before anything is imported that counts processors.
    allowed = None if core == "none" else {int(core)}
    if allowed is not None:
        os.sched_setaffinity(0, allowed)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print is no answer.

    def answer(**reply: Any) -> None:
        print(json.dumps(reply), file=answers, flush=True)

    program = importlib.import_module(module)
    measure = program.build(*arguments)
    versions = {name: importlib.metadata.version(name) for name in program.PACKAGES}
    answer(ready={"Python": platform.python_version()} | versions)
    for line in sys.stdin:
        asked = json.loads(line)
        if "core" in asked:
            allowed = {asked["core"]}
            for thread in Path("/proc/self/task").iterdir():
                os.sched_setaffinity(int(thread.name), allowed)
            answer(moved=asked["core"])
        elif "memory" in asked:
            answer(memory=_device_memory())
        else:
            result = measure(**asked["measure"])
            if allowed is not None and os.sched_getaffinity(0) != allowed:
                sys.exit("something else moved this process to another core: the ratio would mean nothing")
            answer(result=result)


def _device_memory() -> int | None:
    jax = sys.modules.get("jax")
    stats = jax.devices()[0].memory_stats() if jax is not None else None
    return stats.get("peak_bytes_in_use") if stats else None


if __name__ == "__main__":
    _main(*sys.argv[1:])
