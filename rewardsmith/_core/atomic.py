"""Files that are either the old ones or the new ones, never half of either."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

from safetensors import SafetensorError

from .errors import InputError


@contextlib.contextmanager
def write_atomically(path: Path) -> Generator[Path, None, None]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one step, else it is removed.

    The data reach the disk (``fsync``) before the rename, and the rename before this returns, so a
    machine that dies at any moment leaves the whole old file or the whole new one. The temporary name
    keeps the suffix of `path`, since writers such as ffmpeg choose a format by it.
    """
    if path.exists() and not path.is_file():
        # A rename would put a file in place of /dev/null for everyone.
        raise FileExistsError(errno.EEXIST, "something else than a file is there", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _flush(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Generator[Path, None, None]:
    """`write_atomically`, but a disk that is full or closed to us is an `InputError` of one line.

    What stood at `path` before is still there then.
    """
    try:
        with write_atomically(path) as temporary:
            yield temporary
    except InputError:
        raise
    except Exception as error:
        # Libraries written in Rust have errors of their own for it, which quote the system's.
        if not isinstance(error, OSError | SafetensorError) and "(os error " not in str(error):
            raise
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise InputError(
            f"cannot write {path} ({reason}): free some space or mend its permissions; "
            "what was there before is untouched"
        ) from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
