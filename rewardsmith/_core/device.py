"""Which processor a command computes on, with how many threads, and how much memory it took."""

import os
import resource
import sys
from pathlib import Path
from typing import Any

import jax

from .errors import InputError

DEVICES = ("auto", "cpu", "gpu")
_GIB = 2**30


def choose_device(device: str = "auto", threads: int | None = None) -> str | None:
    """Settle it for this process and those it starts; call it before JAX first computes.

    Args:
        device: "cpu"; "gpu", which must be there; "auto": a GPU where JAX sees one.
        threads: of JAX on a CPU; None: one for each processor that this process may use.

    Returns:
        A line to tell: that this machine has a GPU which JAX does not see. Else None.

    Raises:
        InputError: no GPU where one was asked for, or a number out of range.
    """
    if device not in DEVICES:
        raise InputError(f"unknown --device {device!r}: choose one of {', '.join(DEVICES)}")
    if threads is not None:
        if threads < 1:
            raise InputError(f"--threads is {threads}: give a whole number of at least 1")
        # The size of XLA's pool; affinity would also bind the threads of the simulator.
        os.environ["PJRT_NPROC"] = str(threads)
    if device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
        jax.config.update("jax_platforms", "cpu")
        return None
    seen = sorted({found.platform for found in jax.devices()})
    if "gpu" in seen:
        return None
    if device == "gpu":
        raise InputError(
            f"--device gpu: JAX sees no GPU here, only {', '.join(seen)}: install its build for yours "
            '(pip install "jax[cuda13]"), or leave --device out'
        )
    asked_otherwise = "cpu" in os.environ.get("JAX_PLATFORMS", "")
    if seen == ["cpu"] and not asked_otherwise and Path("/dev/nvidiactl").exists():
        return 'a GPU is here, but JAX sees none: pip install "jax[cuda13]" to use it'
    return None


def memory_used() -> str:
    """The most memory this process has held, in words: on the host and, where there is one, on the GPU."""
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    told = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB:.2f} GiB"
    device: Any = jax.devices()[0]
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return told if peak is None else f"{told}, and {peak / _GIB:.2f} GiB on {device.device_kind}"


def memory_there() -> int:
    """Bytes of memory of this machine, or of the device that JAX computes on where that has more."""
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    told = jax.local_devices()[0].memory_stats() or {}
    return max(host, told.get("bytes_limit", 0))
