"""What the store lets in: numbers of rows, texts of bounded length, names of people, ids of clips."""

import math
import re
import unicodedata

from ..._core.errors import InputError

_CLIP_ID = re.compile(r"[0-9a-f]{64}")
_REQUEST = re.compile(r"[0-9A-Za-z-]{8,64}")
_LONGEST_NAME = 80
_IN_NAMES = " .-_'@+"


def check_clip_id(clip_id: str) -> str:
    """`clip_id` itself: the only kind of text that a path of a file is made of."""
    if not _CLIP_ID.fullmatch(clip_id):
        raise InputError(f"no clip {shown(clip_id)}: an id is the 64 hexadecimal digits that add_clip gave")
    return clip_id


def check_request(request: str) -> str:
    """`request` itself: what a client calls one attempt to answer or undo."""
    if not _REQUEST.fullmatch(request):
        raise InputError(f"request {shown(request)} is no UUID: give a new str(uuid.uuid4()) for each answer")
    return request


def check_number(what: str, number: int, least: int = 1, most: int = 2**63 - 1) -> int:
    """`number` itself where it is whole and in range."""
    if isinstance(number, bool) or not least <= number <= most:
        raise InputError(f"{what} is {shown(number)}: give a whole number from {least} to {most}")
    return int(number)


def check_seconds(what: str, seconds: float, most: float = 1e9) -> float:
    """`seconds` itself where it is finite, not negative and no longer than `most`."""
    if not math.isfinite(seconds) or not 0 <= seconds <= most:
        raise InputError(f"{what} is {seconds}: give seconds from 0 to {most:g}")
    return float(seconds)


def check_text(what: str, text: str, longest: int, *, lines: bool = False) -> str:
    """`text` itself where it is short enough and of characters that can be printed and stored.

    Args:
        what: named in the error.
        text: any.
        longest: characters allowed.
        lines: let line ends and tabs pass.
    """
    if len(text) > longest:
        raise InputError(f"{what} has {len(text)} characters: give at most {longest}")
    allowed = "\n\r\t" if lines else ""
    # Cc: control characters, among them NUL, which PostgreSQL cannot hold. Cs: halves of a character.
    if any(unicodedata.category(mark) in ("Cc", "Cs") and mark not in allowed for mark in text):
        raise InputError(f"{what} holds a control character: give plain text")
    return text


def check_name(name: str) -> str:
    """A labeller's name as it is kept: in Unicode's composed form, no blanks at its ends."""
    kept = unicodedata.normalize("NFC", name[: 4 * _LONGEST_NAME]).strip()
    wrong = any(unicodedata.category(mark)[0] not in "LMN" and mark not in _IN_NAMES for mark in kept)
    if len(name) > _LONGEST_NAME or not kept or wrong:
        raise InputError(
            f"name {shown(name)}: give 1 to {_LONGEST_NAME} letters, digits, blanks or any of . - _ ' @ +"
        )
    return kept


def shown(value: object) -> str:
    """What was given, on one line and short, as errors quote it."""
    # A long text is cut before it is quoted: it may be megabytes.
    text = ascii(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 70 else f"{text[:66]}…"
