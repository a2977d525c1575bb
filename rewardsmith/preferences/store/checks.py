"""What the store lets in: numbers of rows, texts of bounded length, names of people, ids of clips.

The store keeps what a check returns, not what it was given: SQLite would keep a whole number of NumPy as
bytes.
"""

import operator
import re
import unicodedata
from collections.abc import Iterable, Mapping
from enum import StrEnum
from numbers import Real
from typing import Any, TypeVar

import numpy as np

from ..._core.errors import InputError

_CLIP_ID = re.compile(r"[0-9a-f]{64}")
_REQUEST = re.compile(r"[0-9A-Za-z-]{8,64}")
_LONGEST_NAME = 80
_IN_NAMES = " .-_'@+"
_Choice = TypeVar("_Choice", bound=StrEnum)


def check_clip_id(clip_id: str) -> str:
    """`clip_id` itself: the only kind of text that a path of a file is made of."""
    if not isinstance(clip_id, str) or not _CLIP_ID.fullmatch(clip_id):
        raise InputError(f"no clip {shown(clip_id)}: an id is the 64 hexadecimal digits that add_clip gave")
    return str(clip_id)


def check_request(request: str) -> str:
    """`request` itself: what a client calls one attempt to answer or undo."""
    if not isinstance(request, str) or not _REQUEST.fullmatch(request):
        raise InputError(f"request {shown(request)} is no UUID: give a new str(uuid.uuid4()) for each answer")
    return str(request)


def check_number(what: str, number: int, least: int = 1, most: int = 2**63 - 1) -> int:
    """`number` as an int where it is whole and in range."""
    try:
        whole = operator.index(number)
    except TypeError:
        whole = None
    if isinstance(number, bool) or whole is None or not least <= whole <= most:
        raise InputError(f"{what} is {shown(number)}: give a whole number from {least} to {most}")
    return whole


def check_seconds(what: str, seconds: float, most: float = 1e9) -> float:
    """`seconds` as a float where it is finite, not negative and no longer than `most`."""
    if not _is_between(seconds, most):
        raise InputError(f"{what} is {shown(seconds)}: give seconds from 0 to {most:g}")
    return float(seconds)


def check_probability(what: str, probability: float) -> float:
    """`probability` as a float where it is one."""
    if not _is_between(probability, 1.0):
        raise InputError(f"{what} is {shown(probability)}: give a probability")
    return float(probability)


def _is_between(number: Any, most: float) -> bool:
    real: Any = number if isinstance(number, Real) and not isinstance(number, bool) else float("nan")
    return 0 <= real <= most


def check_choice(what: str, value: str, choices: type[_Choice]) -> _Choice:
    """The member of `choices` that `value` is or names."""
    try:
        return choices(value)
    # Whatever cannot be hashed is looked up one by one, and an array's == is no bool.
    except (ValueError, TypeError):
        raise InputError(f"{what} is {shown(value)}: give one of {', '.join(choices)}") from None


def check_items(what: str, items: Any, form: str) -> list[Any]:
    """The items of a list, tuple, array or the like; a text is none.

    Args:
        what: named in the error.
        items: any.
        form: of what they should be, for the error.
    """
    if isinstance(items, Iterable) and not isinstance(items, str | bytes | bytearray | Mapping):
        try:
            return list(items)
        # An array without dimensions says that it can be iterated.
        except TypeError:
            pass
    raise InputError(f"{what} are {shown(items)}: give a list of {form}")


def check_flags(what: str, flags: Any) -> list[bool]:
    """`flags` as bools; NumPy's will do, other numbers will not."""
    found = check_items(what, flags, "bools")
    if wrong := [flag for flag in found if not isinstance(flag, bool | np.bool_)]:
        raise InputError(f"{what} holds {shown(wrong[0])}: give a list of bools")
    return [bool(flag) for flag in found]


def check_text(what: str, text: str, longest: int, *, lines: bool = False) -> str:
    """`text` as a str where it is short enough and of characters that can be printed and stored.

    Args:
        what: named in the error.
        text: any.
        longest: characters allowed.
        lines: let line ends and tabs pass.
    """
    if not isinstance(text, str):
        raise InputError(f"{what} is {shown(text)}: give text")
    if len(text) > longest:
        raise InputError(f"{what} has {len(text)} characters: give at most {longest}")
    allowed = "\n\r\t" if lines else ""
    # Cc: control characters, among them NUL, which PostgreSQL cannot hold. Cs: halves of a character.
    if any(unicodedata.category(mark) in ("Cc", "Cs") and mark not in allowed for mark in text):
        raise InputError(f"{what} holds a control character: give plain text")
    return str(text)


def check_name(name: str) -> str:
    """A labeller's name as it is kept: in Unicode's composed form, no blanks at its ends."""
    given = name if isinstance(name, str) else ""
    kept = unicodedata.normalize("NFC", given[: 4 * _LONGEST_NAME]).strip()
    wrong = any(unicodedata.category(mark)[0] not in "LMN" and mark not in _IN_NAMES for mark in kept)
    if len(given) > _LONGEST_NAME or not kept or wrong:
        raise InputError(
            f"name {shown(name)}: give 1 to {_LONGEST_NAME} letters, digits, blanks or any of . - _ ' @ +"
        )
    return kept


def shown(value: object) -> str:
    """What was given, on one line and short, as errors quote it."""
    # A long text is cut before it is quoted: it may be megabytes.
    if isinstance(value, str | bytes | bytearray):
        value = value[:60]
    try:
        text = " ".join(ascii(value).split())
    # A number of more than 4300 digits has no text, and what is not ours may have none either.
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 70 else f"{text[:66]}…"
