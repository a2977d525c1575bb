"""The packages that bring native worlds: imported when asked for, and what may go wrong in one line."""

import contextlib
import difflib
import importlib
import io
import warnings
from collections.abc import Collection, Generator
from types import ModuleType

from ..._core import InputError
from .._mujoco import quiet_deprecations


def import_package(env_id: str, module: str) -> ModuleType:
    """A module of the package that the first part of `env_id` names.

    Raises:
        InputError: it, or something that it needs, is not installed.
    """
    package = env_id.split("/")[0]
    try:
        # They also print that optional parts are absent.
        with quietly(), contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f'{env_id} needs {package}: pip install "rewardsmith[{package}]"') from error


@contextlib.contextmanager
def quietly() -> Generator[None, None, None]:
    """Without the notes of packages and model files that are not ours on what is deprecated in them."""
    with quiet_deprecations(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Brax System", UserWarning)
        yield


def check_known(env_id: str, name: str, known: Collection[str]) -> None:
    """Raise InputError, with the nearest names or all, unless `name` is known."""
    if name in known:
        return
    package = env_id.split("/")[0]
    lower = {each.lower(): each for each in known}
    close = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3)]
    if close:
        raise InputError(
            f"unknown environment {env_id}: did you mean {' or '.join(f'{package}/{c}' for c in close)}?"
        )
    raise InputError(f"unknown environment {env_id}: {package} has {', '.join(sorted(known))}")
