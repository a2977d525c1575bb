"""What all tests share."""

import gc
import os
from importlib.metadata import version

import jax
import pytest

# One processor for each worker, and none of XLA's own threads: with a pool of two its CPU client (jaxlib
# 0.10.2) has stopped for good inside a program, all threads asleep. The workers fill the machine anyway.
# Not for the process that starts them: they would all inherit its one processor.
worker = os.environ.get("PYTEST_XDIST_WORKER")
if worker is not None and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
flags = [os.environ.get("XLA_FLAGS", ""), "--xla_cpu_multi_thread_eigen=false"]
# Tests compile much and run little, and this way of generating code compiles in a half to a quarter of the
# time. XLA reads the flags at its first use, and ends the process at one that it does not know.
if version("jaxlib").startswith("0.10."):
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(flags).strip()


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory):
    """Equal programs are compiled once for all workers and the commands they start: tests train the same
    small runs many times."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker is None else base.parent) / "compiled"
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


@pytest.fixture
def double_precision():
    """float64 for tests of the exact world: `pytestmark = pytest.mark.usefixtures("double_precision")`."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Compiled programs of a file go when it is done: thousands at once exhaust a process's memory maps."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module")
def compile_quickly():
    """For files whose programs run once or twice: compiling them well would take longer than it saves. The
    commands that they start do as they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)
