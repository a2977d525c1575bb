"""JSON that someone else may have written: read whole and plain, or refused in one line."""

import json
import stat
from pathlib import Path
from typing import Any

from .errors import InputError

_DEEPEST = 64
_WIDEST = 2**63


def read_json(path: Path, told: str) -> Any:
    """The content of a JSON file in UTF-8.

    Integers beyond 64 bits and nests deeper than any file of ours are refused here, so that no reader
    behind it meets an ``OverflowError`` or a ``RecursionError``. NaN and infinities are read.

    Args:
        path: the file.
        told: what is wrong with a file that holds no such JSON, and what to do about it, such as "is no
            valid JSON: restore it".

    Raises:
        FileNotFoundError: there is none.
        InputError: it is no ordinary file, cannot be read, or holds no such JSON.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # A pipe would be waited for, a device never ends.
            raise InputError(f"{path} is no ordinary file: move it away")
        value = json.loads(path.read_text("utf-8"), parse_int=_whole)
        if _deeper(value, _DEEPEST):
            raise ValueError("too deep")
    except (FileNotFoundError, InputError):
        raise
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): mend its permissions") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} {told}") from error
    return value


def _whole(digits: str) -> int:
    value = int(digits)
    if not -_WIDEST <= value < _WIDEST:
        raise ValueError("an integer beyond 64 bits")
    return value


def _deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(one, levels - 1) for one in inner)
