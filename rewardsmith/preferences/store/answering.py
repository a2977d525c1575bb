"""Lending questions to labellers and the append-only log of what they say.

Every function takes a connection in a transaction; those that change anything, in one of the writer.
"""

from typing import Any, Never

from sqlalchemy import Connection, Select, and_, delete, exists, func, insert, select, update

from ..._core.errors import InputError
from . import clock
from .asking import as_question, get_question, next_key
from .checks import check_choice, check_number, check_request, check_seconds
from .people import check_active
from .records import Answer, Counts, Question, Record, Taken
from .schema import ANSWERED, ANSWERS, EMPTY_UNDOS, LEASES, OPEN, QUESTIONS, STANDING, STORE


class NotYours(InputError):
    """An answer to a question that the labeller does not hold: take the next one instead."""


def take(connection: Connection, labeller: int, count: int, lease: int) -> list[Taken]:
    """Lend up to `count` questions for `lease` microseconds; see `Store.take`."""
    labeller = check_active(connection, labeller)
    count = check_number("count", count, most=1000)
    now = clock.now()
    mine = LEASES.c.labeller == labeller
    held = connection.execute(
        select(QUESTIONS).join(LEASES).where(mine).order_by(QUESTIONS.c.id.desc()).limit(count)
    ).all()
    fresh = _free(connection, labeller, count - len(held), now) if len(held) < count else []
    until = {"taken_at": now, "expires": now + lease}
    if held:
        ids = [row.id for row in held]
        connection.execute(update(LEASES).where(mine, LEASES.c.question.in_(ids)).values(until))
    for row in fresh:
        _make_room(connection, row, now)
        connection.execute(insert(LEASES).values(question=row.id, labeller=labeller, **until))
    return [Taken(as_question(row), clock.as_datetime(now + lease)) for row in (*held, *fresh)]


def _live(now: int) -> Any:
    # A lease that begins further ahead than it lasts was given before the clock was put back.
    lasts = LEASES.c.expires - LEASES.c.taken_at
    return and_(LEASES.c.expires > now, LEASES.c.taken_at - lasts <= now)


def _free(connection: Connection, labeller: int, count: int, now: int) -> list[Any]:
    """Open questions with a place for `labeller`, who neither holds nor has answered them; newest first."""
    of_it = LEASES.c.question == QUESTIONS.c.id
    lent = select(func.count()).select_from(LEASES).where(of_it, _live(now)).scalar_subquery()
    held = exists().where(of_it, LEASES.c.labeller == labeller)
    answered = exists().where(STANDING.c.question == QUESTIONS.c.id, STANDING.c.labeller == labeller)
    wanted = select(QUESTIONS).where(OPEN, lent < QUESTIONS.c.wanted, ~held, ~answered)
    return list(connection.execute(wanted.order_by(QUESTIONS.c.id.desc()).limit(count)).all())


def _make_room(connection: Connection, question: Any, now: int) -> None:
    """Let expired leases go, the oldest first, until one more row fits among those `question` wants."""
    of_it = LEASES.c.question == question.id
    rows = connection.execute(select(func.count()).select_from(LEASES).where(of_it)).scalar_one()
    excess = rows + 1 - question.wanted
    if excess <= 0:
        return
    expired = select(LEASES.c.labeller).where(of_it, ~_live(now)).order_by(LEASES.c.taken_at).limit(excess)
    gone = connection.execute(expired).scalars().all()
    connection.execute(delete(LEASES).where(of_it, LEASES.c.labeller.in_(gone)))


def release(connection: Connection, labeller: int) -> None:
    """Give back all that a labeller holds."""
    connection.execute(delete(LEASES).where(LEASES.c.labeller == check_number("labeller", labeller)))


def answer(
    connection: Connection,
    question: int,
    labeller: int,
    answer: Answer,
    response_seconds: float | None,
    request: str,
) -> Record:
    """Add an answer to the log; see `Store.answer`."""
    request, labeller = check_request(request), check_number("labeller", labeller)
    question, answer = check_number("question", question), check_choice("the answer", answer, Answer)
    seconds = None if response_seconds is None else check_seconds("response_seconds", response_seconds)
    if earlier := _earlier(connection, request):
        same = (earlier.question, earlier.labeller, earlier.answer, earlier.response_seconds)
        if same != (question, labeller, answer, seconds):
            _used(request)
        return earlier
    asked = get_question(connection, question)
    if not connection.execute(_lease(question, labeller)).first():
        reason = "is withdrawn" if asked.withdrawn else "was answered or lent to another meanwhile"
        raise NotYours(f"question {question} {reason}: take the next one")
    line = _add_line(connection, asked, labeller, request, answer=answer, response_seconds=seconds)
    connection.execute(delete(LEASES).where(*_of(LEASES, question, labeller)))
    stand(connection, question, labeller, line.sequence)
    return line


def undo(connection: Connection, labeller: int, request: str, lease: int) -> Record | None:
    """Take back the last standing answer of a labeller; see `Store.undo`."""
    request, labeller = check_request(request), check_number("labeller", labeller)
    if earlier := _earlier(connection, request):
        if earlier.labeller != labeller or earlier.undoes is None:
            _used(request)
        return earlier
    found_nothing = select(EMPTY_UNDOS.c.labeller).where(EMPTY_UNDOS.c.request == request)
    if (asker := connection.execute(found_nothing).scalar()) is not None:
        return None if asker == labeller else _used(request)
    check_active(connection, labeller)
    last = connection.execute(
        select(STANDING).where(STANDING.c.labeller == labeller).order_by(STANDING.c.sequence.desc()).limit(1)
    ).one_or_none()
    if last is None:
        connection.execute(insert(EMPTY_UNDOS).values(request=request, labeller=labeller))
        return None
    question = get_question(connection, last.question)
    line = _add_line(connection, question, labeller, request, undoes=last.sequence)
    fall(connection, question.id, labeller)
    # Whoever took it back decides on it again, in the place that its answer had.
    if not question.withdrawn:
        now = clock.now()
        row = {"question": question.id, "labeller": labeller, "taken_at": now, "expires": now + lease}
        connection.execute(insert(LEASES).values(row))
    return line


def stand(connection: Connection, question: int, labeller: int, sequence: int) -> None:
    """Let the answer of line `sequence` stand."""
    connection.execute(insert(STANDING).values(question=question, labeller=labeller, sequence=sequence))
    connection.execute(_of_question(question).values(wanted=QUESTIONS.c.wanted - 1))


def fall(connection: Connection, question: int, labeller: int) -> None:
    """Let the answer of a labeller to a question stand no more."""
    connection.execute(delete(STANDING).where(*_of(STANDING, question, labeller)))
    connection.execute(_of_question(question).values(wanted=QUESTIONS.c.wanted + 1))


def records(connection: Connection, after: int, limit: int | None) -> list[Record]:
    """Lines of the log behind line `after`."""
    after = check_number("after", after, 0)
    if limit is not None:
        limit = check_number("limit", limit, 0)
    wanted = _LOG.where(ANSWERS.c.sequence > after).order_by(ANSWERS.c.sequence).limit(limit)
    return [_as_record(row) for row in connection.execute(wanted)]


def counts(connection: Connection) -> Counts:
    """How things stand."""
    questions = select(func.count()).select_from(QUESTIONS)
    taken = select(func.count(LEASES.c.question.distinct())).join(QUESTIONS).where(OPEN, _live(clock.now()))
    wanted = {
        "open": questions.where(OPEN),
        "taken": taken,
        "answered": questions.where(ANSWERED),
        "withdrawn": questions.where(QUESTIONS.c.withdrawn, ~ANSWERED),
        "answers": select(func.count()).select_from(STANDING),
    }
    rows = connection.execute(
        select(*(one.scalar_subquery().label(name) for name, one in wanted.items()))
    ).mappings()
    return Counts(**rows.one())


_LOG: Select[Any] = select(ANSWERS, QUESTIONS.c.asked_by, QUESTIONS.c.step, QUESTIONS.c.held_out).join(
    QUESTIONS
)


def _as_record(row: Any) -> Record:
    return Record(
        sequence=row.sequence,
        question=row.question,
        labeller=row.labeller,
        answer=None if row.answer is None else Answer(row.answer),
        undoes=row.undoes,
        at=clock.as_datetime(row.at),
        response_seconds=row.response_seconds,
        asked_by=row.asked_by,
        step=row.step,
        held_out=row.held_out,
    )


def _earlier(connection: Connection, request: str) -> Record | None:
    row = connection.execute(_LOG.where(ANSWERS.c.request == request)).one_or_none()
    return None if row is None else _as_record(row)


def _add_line(
    connection: Connection,
    question: Question,
    labeller: int,
    request: str,
    *,
    answer: Answer | None = None,
    undoes: int | None = None,
    response_seconds: float | None = None,
) -> Record:
    sequence, now = next_key(connection, ANSWERS), clock.now()
    row = {
        "sequence": sequence,
        "question": question.id,
        "labeller": labeller,
        "answer": None if answer is None else str(answer),
        "undoes": undoes,
        "at": now,
        "response_seconds": response_seconds,
        "request": request,
        "origin": select(STORE.c.uuid).scalar_subquery(),
        "origin_sequence": sequence,
    }
    connection.execute(insert(ANSWERS).values(row))
    return Record(
        sequence=sequence,
        question=question.id,
        labeller=labeller,
        answer=answer,
        undoes=undoes,
        at=clock.as_datetime(now),
        response_seconds=response_seconds,
        asked_by=question.asked_by,
        step=question.step,
        held_out=question.held_out,
    )


def _used(request: str) -> Never:
    raise InputError(f"request {request} was made before, with other contents: give each a new UUID")


def _of(table: Any, question: int, labeller: int) -> tuple[Any, Any]:
    return table.c.question == question, table.c.labeller == labeller


def _of_question(question: int) -> Any:
    return update(QUESTIONS).where(QUESTIONS.c.id == question)


def _lease(question: int, labeller: int) -> Select[Any]:
    return select(LEASES.c.expires).where(*_of(LEASES, question, labeller))
