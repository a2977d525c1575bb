"""Answers as a parquet file that is whole by itself: written by one store, read into another.

One row for each line of the log, in its order:

| column | type | what |
|---|---|---|
| store | str | UUID of the store that wrote the line |
| sequence | int64 | the line's number there |
| question_store, question | str, int64 | UUID of the store that asked, and the question's number there |
| labeller | str | name |
| answer | str, null | "left", "right", "equal" or "cannot tell"; null: the line takes an answer back |
| undoes_store, undoes | str, int64, null | the line that is taken back |
| at | datetime (µs, UTC) | when it was said |
| response_seconds | float64, null | from the films' start to the answer |
| asked_at | datetime (µs, UTC) | when it was asked |
| asked_by, step | str, int64 | version of the model that asked, and its environment steps |
| overlap | int64 | how many different labellers should answer |
| held_out | bool | set aside for judging |
| first, second | str | ids of the clips, the left one first |
| env, length | str, int64 | environment of both clips, and steps compared |
| first_arrays, second_arrays | binary | what nets see: safetensors |
| first_film, second_film | binary, null | what people see: MP4; only where films were asked for |

`store` and `sequence` name a line for good, through any number of exports and imports.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, type_coerce

from ..._core.atomic import writing
from ..._core.errors import InputError
from . import clock, column_types
from .answering import fall, stand
from .asking import next_key, put_clip, store_uuid
from .clip_files import arrays_path, film_path, read_clip, write_bytes
from .exchange_rows import BLOBS, Line, check_lines, schema
from .people import labeller_called
from .schema import ANSWERS, CLIPS, LABELLERS, LEASES, QUESTIONS, STANDING
from .store import Store

# Rows whose clips are in memory at once.
_AT_ONCE = 64


def export_parquet(store: Store, path: Path, *, films: bool = False) -> int:
    """Write the whole log of answers, with its clips, to a parquet file; the columns are those above.

    Args:
        store: the store.
        path: the file; one that is there is replaced, in one step.
        films: write the films too.

    Returns:
        Rows written.

    Raises:
        InputError: a clip's file is gone, or the disk is full.
    """
    # It starts threads when it is loaded.
    import polars as pl
    from polars.io.plugins import register_io_source

    with store.database.reading() as connection:
        rows = [dict(row) for row in connection.execute(_lines()).mappings()]

    def pieces(columns: list[str] | None, *_: object) -> Iterator[pl.DataFrame]:
        for start in range(0, len(rows), _AT_ONCE):
            some = [_with_blobs(store, row, films) for row in rows[start : start + _AT_ONCE]]
            piece = pl.DataFrame(some, schema=schema())
            yield piece if columns is None else piece.select(columns)

    with writing(path) as temporary:
        if rows:
            register_io_source(pieces, schema=schema()).sink_parquet(temporary, row_group_size=_AT_ONCE)
        else:
            pl.DataFrame(schema=schema()).write_parquet(temporary)
    return len(rows)


def _lines() -> Any:
    undone = ANSWERS.alias("undone")
    return (
        select(
            ANSWERS.c.origin.label("store"),
            ANSWERS.c.origin_sequence.label("sequence"),
            QUESTIONS.c.origin.label("question_store"),
            QUESTIONS.c.origin_id.label("question"),
            LABELLERS.c.name.label("labeller"),
            ANSWERS.c.answer,
            type_coerce(undone.c.origin, column_types.words(null=True)).label("undoes_store"),
            type_coerce(undone.c.origin_sequence, column_types.number(null=True)).label("undoes"),
            ANSWERS.c.at,
            ANSWERS.c.response_seconds,
            *(QUESTIONS.c[name] for name in ("asked_at", "asked_by", "step", "overlap", "held_out")),
            QUESTIONS.c.first,
            QUESTIONS.c.second,
            CLIPS.c.env,
            CLIPS.c.length,
        )
        .join_from(ANSWERS, QUESTIONS)
        .join(LABELLERS, LABELLERS.c.id == ANSWERS.c.labeller)
        .join(CLIPS, CLIPS.c.id == QUESTIONS.c.first)
        .outerjoin(undone, undone.c.sequence == ANSWERS.c.undoes)
        .order_by(ANSWERS.c.sequence)
    )


def _with_blobs(store: Store, row: dict[str, Any], films: bool) -> dict[str, Any]:
    full = row | {name: clock.as_datetime(row[name]) for name in ("at", "asked_at")}
    for side in ("first", "second"):
        full[f"{side}_arrays"] = read_clip(arrays_path(store.clips_folder, row[side]))
        film = film_path(store.clips_folder, row[side])
        full[f"{side}_film"] = read_clip(film) if films and film.exists() else None
    return full


def import_parquet(store: Store, path: Path) -> int:
    """Add the lines of a file that `export_parquet` wrote; lines that are here already are not added again.

    Labellers are known by their names; one that is new cannot sign in until `Store.add_labeller` lets it.
    The questions are not asked here: they were asked elsewhere. All or nothing is added.

    Args:
        store: the store.
        path: the file.

    Returns:
        Lines added.

    Raises:
        InputError: not such a file, a damaged or contradictory one: nothing is changed.
    """
    lines = check_lines(path)
    # Once to see whether all of it fits, before any file is written.
    with store.database.writing() as connection:
        added = _add_all(connection, lines, path)
        connection.rollback()
    if not added:
        return 0
    filmed = _write_clips(store, path)
    with store.database.writing() as connection:
        return _add_all(connection, lines, path, filmed)


def _write_clips(store: Store, path: Path) -> frozenset[str]:
    """Put the clips' files in place; ids of those with a film."""
    import polars as pl

    scanned, filmed = pl.scan_parquet(path), set[str]()
    count = scanned.select(pl.len()).collect().item()
    for start in range(0, count, _AT_ONCE):
        for row in scanned.slice(start, _AT_ONCE).select("first", "second", *BLOBS).collect().to_dicts():
            for side in ("first", "second"):
                write_bytes(arrays_path(store.clips_folder, row[side]), row[f"{side}_arrays"])
                if film := row[f"{side}_film"]:
                    write_bytes(film_path(store.clips_folder, row[side]), film)
                    filmed.add(row[side])
    return frozenset(filmed)


def _add_all(
    connection: Connection, lines: list[Line], path: Path, filmed: frozenset[str] = frozenset()
) -> int:
    own, added = store_uuid(connection), 0
    for number, line in enumerate(lines, 1):
        where = f"{path}, row {number}"
        for clip in (line.first, line.second):
            put_clip(connection, clip, line.env, line.length, clip in filmed)
        question = _question(connection, line, own, where)
        labeller = labeller_called(connection, line.labeller)
        added += _add(connection, line, question, labeller, own, where)
    return added


def _question(connection: Connection, line: Line, own: str, where: str) -> int:
    """The number here of a line's question, which is made where it is new."""
    origin = {"origin": line.question_store, "origin_id": line.question}
    asked = {name: getattr(line, name) for name in ("first", "second", "asked_by", "step", "overlap")}
    asked |= {"asked_at": line.asked_at, "held_out": line.held_out}
    known = connection.execute(select(QUESTIONS).filter_by(**origin)).one_or_none()
    if known is not None:
        if any(getattr(known, name) != value for name, value in asked.items()):
            raise InputError(f"{where}: its question is another one here: import what one store exported")
        return known.id
    number = next_key(connection, QUESTIONS)
    if line.question_store == own:
        # A line of our own that is lost here, as after a backup was put back, keeps its numbers.
        if line.question < number:
            raise InputError(f"{where}: question {line.question} is not among this store's own: {_DIVERGED}")
        number = line.question
    row = {"id": number, "withdrawn": True, "wanted": line.overlap}
    connection.execute(insert(QUESTIONS).values(row | origin | asked))
    return number


_DIVERGED = "two copies of one store have gone different ways; import into a new store"


def _add(connection: Connection, line: Line, question: int, labeller: int, own: str, where: str) -> bool:
    """Add a line to the log unless it is there; whether it was added."""
    undoes = _undone(connection, line, question, labeller, where)
    origin = {"origin": line.store, "origin_sequence": line.sequence}
    said = {"question": question, "labeller": labeller, "answer": line.answer, "undoes": undoes}
    said |= {"at": line.at, "response_seconds": line.response_seconds}
    known = connection.execute(select(ANSWERS).filter_by(**origin)).one_or_none()
    if known is not None:
        if any(getattr(known, name) != value for name, value in said.items()):
            raise InputError(f"{where}: line {line.sequence} says something else here: {_DIVERGED}")
        return False
    sequence = next_key(connection, ANSWERS)
    if line.store == own and line.sequence != sequence:
        raise InputError(f"{where}: line {line.sequence} is not among this store's own: {_DIVERGED}")
    stands = connection.execute(
        select(STANDING.c.sequence).filter_by(question=question, labeller=labeller)
    ).scalar()
    if stands != undoes:
        trouble = (
            "is taken back, which does not stand" if undoes else "was answered by the same labeller already"
        )
        raise InputError(f"{where}: its question {trouble}: leave the row out")
    connection.execute(insert(ANSWERS).values(said | origin | {"sequence": sequence, "request": None}))
    if undoes is None:
        stand(connection, question, labeller, sequence)
        _keep_within_overlap(connection, question, labeller)
    else:
        fall(connection, question, labeller)
    return True


def _undone(connection: Connection, line: Line, question: int, labeller: int, where: str) -> int | None:
    if line.undoes is None:
        return None
    found = connection.execute(
        select(ANSWERS).filter_by(origin=line.undoes_store, origin_sequence=line.undoes)
    ).one_or_none()
    if found is None or found.answer is None or (found.question, found.labeller) != (question, labeller):
        raise InputError(f"{where}: it takes back no earlier answer of its labeller: import the whole file")
    return found.sequence


def _keep_within_overlap(connection: Connection, question: int, labeller: int) -> None:
    """Take back what was lent of a question that was answered elsewhere meanwhile."""
    wanted = connection.execute(select(QUESTIONS.c.wanted).filter_by(id=question)).scalar_one()
    held = select(LEASES.c.labeller).filter_by(question=question).order_by(LEASES.c.taken_at.desc())
    holders = [one for one in connection.execute(held).scalars() if one != labeller][: max(wanted, 0)]
    gone = LEASES.c.question == question, LEASES.c.labeller.not_in(holders)
    connection.execute(LEASES.delete().where(*gone))
