"""MuJoCo's bindings, and a way to keep them quiet about model files that are not ours."""

import contextlib
import warnings
from collections.abc import Generator
from typing import Any

import mujoco as _bindings

# The bindings are compiled and their stubs incomplete.
mujoco: Any = _bindings


@contextlib.contextmanager
def quiet_deprecations() -> Generator[None, None, None]:
    """Drop MuJoCo's notes that a model file uses a deprecated attribute; other notes become warnings.

    Left alone it prints them, and writes MUJOCO_LOG.TXT into the working directory.
    """
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(_pass_on)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(previous)


def _pass_on(message: str) -> None:
    if "deprecated" not in message:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
