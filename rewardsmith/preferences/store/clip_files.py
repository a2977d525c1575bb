"""Clips as files of one folder: what nets see (safetensors) and what people see (MP4)."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..._core.atomic import writing
from ..._core.errors import InputError
from .checks import check_clip_id, check_number, check_text, shown

_DAY_SECONDS = 86400.0


def check_clip(
    arrays: Mapping[str, np.ndarray], env: str, length: int
) -> tuple[dict[str, np.ndarray], str, int]:
    """The arrays as they are stored, native and contiguous, in the order of their names; env and length.

    Raises:
        InputError: no array, an array that is not of numbers, or one of true rewards.
    """
    env = check_text("the name of the environment", env, 200)
    length = check_number("the clip's length", length, most=10**9)
    if not isinstance(arrays, Mapping) or not arrays:
        raise InputError("a clip without arrays: give at least one by its name, such as observations")
    names = sorted(check_text("the name of an array", name, 100) for name in arrays)
    return {name: _checked_array(name, arrays[name]) for name in names}, env, length


def _checked_array(name: str, array: object) -> np.ndarray:
    if "truereward" in "".join(filter(str.isalnum, name.lower())):
        raise InputError(f"array {shown(name)}: true rewards are not stored with clips; leave it out")
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise InputError(
            f"array {shown(name)} is no array of numbers: give bool, int, uint or float of NumPy"
        )
    return np.require(array.astype(array.dtype.newbyteorder("="), copy=False), requirements="C")


def clip_id(arrays: Mapping[str, np.ndarray], env: str, length: int) -> str:
    """SHA-256 of checked arrays, environment and length; it does not depend on how files are laid out."""
    digest = hashlib.sha256(json.dumps([env, length]).encode())
    for name, array in arrays.items():
        digest.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def as_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Checked arrays as safetensors."""
    return save(dict(arrays))


def from_bytes(data: bytes, clip: str, env: str, length: int, source: str) -> dict[str, np.ndarray]:
    """The arrays in `data`, once they were found to be those of `clip`.

    Args:
        data: safetensors.
        clip: the id they should have.
        env, length: of the clip.
        source: named in the error.

    Raises:
        InputError: not safetensors, or other arrays.
    """
    named = f"{source}: clip {clip[:8]}…"
    try:
        found = load(data)
    # The reader lets KeyError and its kin out for a dtype that NumPy has not.
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{named} is damaged ({shown(str(error))}): use a whole one") from error
    try:
        arrays, env, length = check_clip(found, env, length)
    except InputError as error:
        raise InputError(f"{named}: {error}") from error
    if clip_id(arrays, env, length) != clip:
        raise InputError(f"{named} is damaged (its checksum does not match): use a whole one")
    return arrays


def arrays_path(folder: Path, clip: str) -> Path:
    """Where what nets see lies."""
    return folder / f"{check_clip_id(clip)}.safetensors"


def film_path(folder: Path, clip: str) -> Path:
    """Where what people see lies."""
    return folder / f"{check_clip_id(clip)}.mp4"


def write_clip(folder: Path, clip: str, arrays: bytes, film: Callable[[Path], None] | None) -> None:
    """Put the files of a clip in place, whole and on disk, or none; those that are there stay."""
    target = film_path(folder, clip)
    if film is None or target.exists():
        write_bytes(arrays_path(folder, clip), arrays)
        return
    with writing(target) as temporary:
        film(temporary)
        if temporary.stat().st_size == 0:
            raise InputError("the film of a clip is empty: let `film` write an MP4 to the path it is given")
        # A film that cannot be made leaves no arrays behind.
        write_bytes(arrays_path(folder, clip), arrays)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole, or leave the one that is there."""
    if path.exists():
        return
    with writing(path) as temporary:
        temporary.write_bytes(data)


def is_file(path: Path) -> bool:
    """Whether a file is there that can be looked at; a name that no disk takes is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_clip(path: Path) -> bytes:
    """What a file of a clip holds."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): put the file back") from error


def sweep(folder: Path) -> None:
    """Remove what writers that died left under temporary names, once it is a day old."""
    for left in folder.glob(".*-*"):
        is_ours = left.suffix in (".safetensors", ".mp4") and left.is_file()
        # Another process may give it its name, or sweep it, at any moment.
        with contextlib.suppress(FileNotFoundError):
            if is_ours and time.time() - left.stat().st_mtime > _DAY_SECONDS:
                left.unlink()
