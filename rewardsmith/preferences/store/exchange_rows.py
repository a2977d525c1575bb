"""Rows of an exported file: their types, and what must hold before any is let in."""

import dataclasses
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._core.errors import InputError
from . import clock
from .checks import check_clip_id, check_name, check_number, check_seconds, check_text, shown
from .clip_files import from_bytes, is_file
from .records import Answer

if TYPE_CHECKING:
    import polars as pl

FILMS = ("first_film", "second_film")
BLOBS = ("first_arrays", "second_arrays", *FILMS)
_MAY_BE_NULL = ("answer", "undoes_store", "undoes", "response_seconds", *FILMS)
_AT_ONCE = 64


@dataclass(frozen=True)
class Line:
    """One row without its clips' files; moments as `clock.now` gives them."""

    store: str
    sequence: int
    question_store: str
    question: int
    labeller: str
    answer: str | None
    undoes_store: str | None
    undoes: int | None
    at: int
    response_seconds: float | None
    asked_at: int
    asked_by: str
    step: int
    overlap: int
    held_out: bool
    first: str
    second: str
    env: str
    length: int


def schema() -> "pl.Schema":
    """Types of the columns."""
    import polars as pl

    kinds: dict[str, Any] = {field.name: pl.String for field in dataclasses.fields(Line)}
    kinds |= dict.fromkeys(("sequence", "question", "undoes", "step", "overlap", "length"), pl.Int64)
    kinds |= dict.fromkeys(("at", "asked_at"), pl.Datetime("us", "UTC"))
    kinds |= {"response_seconds": pl.Float64, "held_out": pl.Boolean}
    return pl.Schema(kinds | dict.fromkeys(BLOBS, pl.Binary))


def check_lines(path: Path) -> list[Line]:
    """All rows of a file, once each was found right by itself, with its clips.

    Raises:
        InputError: no such file, not parquet, other columns, or a row that cannot be.
    """
    import polars as pl

    if not is_file(path):
        raise InputError(f"no file {path}: give one that was exported from a store")
    try:
        scanned = pl.scan_parquet(path)
        _check_columns(scanned.collect_schema(), path)
        count = scanned.select(pl.len()).collect().item()
        lines: list[Line] = []
        for start in range(0, count, _AT_ONCE):
            rows = scanned.slice(start, _AT_ONCE).collect().to_dicts()
            lines += _checked(rows, start + 1, path)
    except InputError:
        raise
    # ValueError and OverflowError: moments of years that Python does not know. A reader written in another
    # language panics at some damaged files, which is no Exception here.
    except (
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        OSError,
        OverflowError,
        ValueError,
    ) as error:
        raise InputError(f"{path} cannot be read as parquet ({shown(str(error))}): export it anew") from error
    return lines


def _check_columns(found: "pl.Schema", path: Path) -> None:
    wanted = schema()
    for name, kind in wanted.items():
        if found.get(name) != kind:
            raise InputError(
                f"{path}: column {name} is {found.get(name, 'missing')}, not {kind}: "
                "import what a store exported"
            )
    if extra := [name for name in found if name not in wanted]:
        raise InputError(f"{path}: column {shown(extra[0])} is not known here: leave it out")


def _checked(rows: Iterable[dict[str, Any]], start: int, path: Path) -> list[Line]:
    lines = []
    for number, row in enumerate(rows, start):
        where = f"{path}, row {number}"
        if empty := [name for name, value in row.items() if value is None and name not in _MAY_BE_NULL]:
            raise InputError(f"{where}: {empty[0]} is empty: import what a store exported")
        blobs = {name: row.pop(name) for name in BLOBS}
        row |= {name: clock.as_microseconds(row[name]) for name in ("at", "asked_at")}
        line = Line(**row)
        try:
            _check_line(line)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        for side, clip in (("first", line.first), ("second", line.second)):
            from_bytes(blobs[f"{side}_arrays"], clip, line.env, line.length, where)
            film = blobs[f"{side}_film"]
            if film is not None and film[4:8] != b"ftyp":
                raise InputError(f"{where}: its {side} film is no MP4: leave the films out")
        lines.append(line)
    return lines


def _check_line(line: Line) -> None:
    for name in (line.store, line.question_store, *([line.undoes_store] if line.undoes_store else [])):
        _check_uuid(name)
    check_number("sequence", line.sequence)
    check_number("question", line.question)
    check_number("step", line.step, 0)
    check_number("overlap", line.overlap, most=1000)
    check_text("asked_by", line.asked_by, 200)
    if check_name(line.labeller) != line.labeller:
        raise InputError(
            f"name {shown(line.labeller)} is not as a store keeps it: import what a store exported"
        )
    if check_clip_id(line.first) == check_clip_id(line.second):
        raise InputError("one clip stands on both sides: leave the row out")
    if line.response_seconds is not None:
        check_seconds("response_seconds", line.response_seconds)
    undo = (line.undoes is not None, line.undoes_store is not None, line.answer is None)
    if line.answer not in (None, *Answer) or undo not in ((True,) * 3, (False,) * 3):
        raise InputError("it is neither an answer nor an undo: give answer, or undoes_store and undoes")


def _check_uuid(text: str) -> None:
    try:
        right = str(uuid.UUID(text)) == text
    except ValueError:
        right = False
    if not right:
        raise InputError(f"{shown(text)} is no UUID of a store: import what a store exported")
