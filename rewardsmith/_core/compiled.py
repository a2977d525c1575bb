"""Where compiled programs are kept from run to run, so that a second run starts at once."""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

import jax

_LARGEST = 2 * 2**30
# Shorter ones are compiled sooner than they are read.
_WORTH_KEEPING = 0.2


def keep_compiled() -> Path | None:
    """Keep compiled programs in the user's cache folder, of this process and of those it starts.

    In ``$XDG_CACHE_HOME/rewardsmith`` (``~/.cache/rewardsmith``), at most 2 GiB, the least used leave first.
    A folder of its own for each kind of processor and each jaxlib: a home folder may be shared by machines
    whose processors do not run one another's programs. Whoever sets ``JAX_COMPILATION_CACHE_DIR``, to a
    folder or to nothing, is left alone.

    Returns:
        The folder; None where the environment has one already or none can be written.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "rewardsmith" / f"compiled-{_kind_of_machine()}"
    try:
        # What lies here is run: for its owner alone.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return None
    if not os.access(folder, os.W_OK) or folder.stat().st_uid != os.getuid():
        return None
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": _LARGEST,
        "jax_persistent_cache_min_compile_time_secs": _WORTH_KEEPING,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    for name, value in settings.items():
        if name.upper() not in os.environ:
            os.environ[name.upper()] = str(value)
            jax.config.update(name, value)
    return folder


def _kind_of_machine() -> str:
    """Tells apart machines and libraries that compile differently."""
    facts = [platform.machine(), platform.processor(), importlib.metadata.version("jaxlib")]
    with contextlib.suppress(OSError):
        wanted = ("model name", "flags", "Features")
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        facts += [line for line in lines if line.startswith(wanted)][:2]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
