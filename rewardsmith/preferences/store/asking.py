"""Clips and the questions made of them, as rows. Every function takes a connection in a transaction."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, func, insert, select, update

from ..._core.errors import InputError
from . import clock
from .checks import check_clip_id, check_flags, check_items, check_number, check_text, shown
from .clip_files import arrays_path, film_path
from .records import Clip, Question
from .schema import CLIPS, LEASES, OPEN, QUESTIONS, STORE

# Numbers put into one statement at most: databases have a limit.
_AT_ONCE = 500

_T = TypeVar("_T")


def next_key(connection: Connection, table: Table) -> int:
    """The number of the next row; nobody else can take it while this transaction writes."""
    (column,) = table.primary_key.columns
    return connection.execute(select(func.coalesce(func.max(column), 0) + 1)).scalar_one()


def store_uuid(connection: Connection) -> str:
    """What tells this store from all others."""
    return connection.execute(select(STORE.c.uuid)).scalar_one()


def put_clip(connection: Connection, clip: str, env: str, length: int, filmed: bool) -> None:
    """Make the row of a clip whose files are in place."""
    known = connection.execute(select(CLIPS.c.filmed).where(CLIPS.c.id == clip)).scalar()
    if known is None:
        connection.execute(insert(CLIPS).values(id=clip, env=env, length=length, filmed=filmed))
    elif filmed and not known:
        connection.execute(update(CLIPS).where(CLIPS.c.id == clip).values(filmed=True))


def get_clip(connection: Connection, clip: str, folder: Path) -> Clip:
    """A clip by its id."""
    clip = check_clip_id(clip)
    row = connection.execute(select(CLIPS).where(CLIPS.c.id == clip)).one_or_none()
    if row is None:
        raise InputError(f"no clip {clip} in this store: give an id that add_clip returned")
    film = film_path(folder, clip) if row.filmed else None
    return Clip(row.id, row.env, row.length, film, arrays_path(folder, clip))


def ask(
    connection: Connection,
    pairs: Sequence[tuple[str, str]],
    asked_by: str,
    step: int,
    overlap: int,
    held_out: Sequence[bool] | None,
) -> list[int]:
    """Put pairs of clips as questions; see `Store.ask`."""
    asked_by = check_text("asked_by", asked_by, 200)
    step, overlap = check_number("step", step, 0), check_number("overlap", overlap, most=1000)
    pairs = _checked_pairs(pairs)
    aside = [False] * len(pairs) if held_out is None else check_flags("held_out", held_out)
    if len(aside) != len(pairs):
        raise InputError(f"held_out has {len(aside)} entries for {len(pairs)} pairs: give one for each pair")
    if not pairs:
        return []
    _check_known(connection, pairs)
    start, now, uuid = next_key(connection, QUESTIONS), clock.now(), store_uuid(connection)
    rows = [
        {
            "id": start + i,
            "first": first,
            "second": second,
            "asked_at": now,
            "asked_by": asked_by,
            "step": step,
            "overlap": overlap,
            "held_out": aside[i],
            "withdrawn": False,
            "wanted": overlap,
            "origin": uuid,
            "origin_id": start + i,
        }
        for i, (first, second) in enumerate(pairs)
    ]
    connection.execute(insert(QUESTIONS), rows)
    return list(range(start, start + len(pairs)))


def _checked_pairs(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    checked = []
    for pair in check_items("pairs", pairs, "pairs of clips' ids"):
        clips = [check_clip_id(clip) for clip in check_items("a pair's clips", pair, "two ids")]
        if len(clips) != 2:
            raise InputError(f"a pair holds {len(clips)} clips: ask about two")
        checked.append((clips[0], clips[1]))
    return checked


def _check_known(connection: Connection, pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse pairs of clips that are unknown, the same, or cannot be compared."""
    ids = sorted({clip for pair in pairs for clip in pair})
    kinds: dict[str, tuple[str, int]] = {}
    for some in _pieces(ids):
        for row in connection.execute(
            select(CLIPS.c.id, CLIPS.c.env, CLIPS.c.length).where(CLIPS.c.id.in_(some))
        ):
            kinds[row.id] = (row.env, row.length)
    if unknown := [clip for clip in ids if clip not in kinds]:
        raise InputError(f"no clip {unknown[0]} in this store: add it with add_clip before asking")
    for first, second in pairs:
        if first == second:
            raise InputError(f"clip {first} stands on both sides: ask about two different clips")
        if kinds[first] != kinds[second]:
            raise InputError(
                f"clips of {kinds[first]} and {kinds[second]} (environment, length) stand in one pair: "
                "ask about two of the same kind"
            )


def withdraw(connection: Connection, questions: Sequence[int]) -> list[int]:
    """Stop asking those of `questions` that are still open; returns them, in the order given."""
    numbers = check_items("questions", questions, "questions' numbers")
    wanted = list(dict.fromkeys(check_number("question", question) for question in numbers))
    gone: set[int] = set()
    for some in _pieces(wanted):
        found = (
            connection.execute(select(QUESTIONS.c.id).where(QUESTIONS.c.id.in_(some), OPEN)).scalars().all()
        )
        connection.execute(update(QUESTIONS).where(QUESTIONS.c.id.in_(found)).values(withdrawn=True))
        connection.execute(LEASES.delete().where(LEASES.c.question.in_(found)))
        gone.update(found)
    return [question for question in wanted if question in gone]


def get_question(connection: Connection, question: int) -> Question:
    """A question by its number."""
    question = check_number("question", question)
    row = connection.execute(select(QUESTIONS).where(QUESTIONS.c.id == question)).one_or_none()
    if row is None:
        raise InputError(f"no question {shown(question)} in this store: give a number that ask returned")
    return as_question(row)


def open_questions(connection: Connection) -> list[Question]:
    """All that want an answer, lent or not, in the order of asking."""
    return [
        as_question(row) for row in connection.execute(select(QUESTIONS).where(OPEN).order_by(QUESTIONS.c.id))
    ]


def as_question(row: Any) -> Question:
    """A row of the table as a record."""
    return Question(
        id=row.id,
        first=row.first,
        second=row.second,
        asked_at=clock.as_datetime(row.asked_at),
        asked_by=row.asked_by,
        step=row.step,
        overlap=row.overlap,
        held_out=row.held_out,
        withdrawn=row.withdrawn,
    )


def _pieces(items: Sequence[_T]) -> Iterable[Sequence[_T]]:
    return (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))
