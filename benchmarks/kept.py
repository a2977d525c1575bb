"""Any program, in a process that keeps the memory it frees: ("benchmarks.kept", module, *arguments).

The setting counts only before a second thread has started, and importing polars starts two: so it comes first
of all, and from its file alone.
"""

import importlib
import runpy
from pathlib import Path

PACKAGES = ()
_ALLOCATOR = Path(__file__).resolve().parents[1] / "rewardsmith" / "_core" / "allocator.py"


def build(module: str, *arguments: str):
    global PACKAGES
    runpy.run_path(str(_ALLOCATOR))["keep_freed_memory"]()
    program = importlib.import_module(module)
    PACKAGES = program.PACKAGES
    return program.build(*arguments)
