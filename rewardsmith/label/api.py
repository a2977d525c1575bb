"""What the page asks of the server: pairs to compare, answers, undo; for owners, statistics and settings."""

import unicodedata
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from rewardsmith.preferences.store import Answer, Question, Record

from .sessions import Changing, Owning, Reading, Session

# Every route makes its own response: FastAPI would check each once more, in another thread.
router = APIRouter(prefix="/api")
_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


def _printable(text: str) -> str:
    if any(unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\n\t" for letter in text):
        raise ValueError("control characters are not allowed")
    return text


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _SignIn(_Body):
    token: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{20,100}$")]


class _Take(_Body):
    count: Annotated[int, Field(ge=1, le=10)]


class _Answer(_Body):
    question: Annotated[int, Field(ge=1, le=2**53)]
    answer: Literal["left", "right", "equal", "cannot tell"]
    response_seconds: Annotated[float | None, Field(ge=0, le=86400, allow_inf_nan=False)] = None
    request: Annotated[str, Field(pattern=_UUID)]


class _Undo(_Body):
    request: Annotated[str, Field(pattern=_UUID)]


class _Nothing(_Body):
    pass


class _Instruction(_Body):
    text: Annotated[str, Field(max_length=2000), AfterValidator(_printable)]


@router.post("/sign-in")
def sign_in(body: _SignIn, request: Request) -> Response:
    """Open a session for the bearer of a token."""
    sessions = request.app.state.site.sessions
    session = sessions.begin(body.token, request)
    response = JSONResponse(_me(request, session))
    sessions.set_cookie(session, response)
    return response


@router.post("/sign-out")
def sign_out(_body: _Nothing, session: Changing, request: Request) -> Response:
    """End the session."""
    response = JSONResponse({})
    request.app.state.site.sessions.end(session, response)
    return response


@router.get("/me")
def me(session: Reading, request: Request) -> Response:
    """Who is signed in, and what the page needs to begin."""
    return JSONResponse(_me(request, session))


@router.post("/take")
def take(body: _Take, session: Changing, request: Request) -> Response:
    """Questions lent to this labeller, those it holds first, and how things stand."""
    site = request.app.state.site
    taken = site.store.take(session.labeller.id, count=body.count)
    pairs = [_pair(request, session, lent.question) for lent in taken]
    return JSONResponse({"pairs": pairs, "counts": _counts(request)})


@router.post("/answers")
def answer(body: _Answer, session: Changing, request: Request) -> Response:
    """Write an answer down. The same request again changes nothing and returns the same.

    Refused: 409 where the question is not lent to this labeller, or the request was used for another answer.
    """
    record = request.app.state.site.store.answer(
        body.question,
        session.labeller.id,
        Answer(body.answer),
        response_seconds=body.response_seconds,
        request=body.request,
    )
    return JSONResponse(_record(record))


@router.post("/undo")
def undo(body: _Undo, session: Changing, request: Request) -> Response:
    """Take back this labeller's last answer; its question is lent to them again."""
    store = request.app.state.site.store
    record = store.undo(session.labeller.id, request=body.request)
    if record is None:
        return JSONResponse({"sequence": None, "pair": None})
    return JSONResponse(_record(record) | {"pair": _pair(request, session, store.question(record.question))})


@router.post("/release")
def release(_body: _Nothing, session: Changing, request: Request) -> Response:
    """Give back what this labeller holds."""
    request.app.state.site.store.release(session.labeller.id)
    return JSONResponse({})


@router.get("/statistics")
def statistics(_owner: Owning, request: Request) -> Response:
    """What the dashboard shows."""
    return JSONResponse(request.app.state.site.statistics.read())


@router.get("/instruction")
def instruction(_owner: Owning, request: Request) -> Response:
    """The instruction as the owner wrote it."""
    return JSONResponse({"text": request.app.state.site.store.get_setting("instruction")})


@router.put("/instruction")
def set_instruction(body: _Instruction, session: Changing, _owner: Owning, request: Request) -> Response:
    """Set the instruction that every labeller reads: plain text."""
    store = request.app.state.site.store
    store.set_setting("instruction", body.text.strip())
    store.audit("instruction", labeller=session.labeller.id, detail=f"{len(body.text)} characters")
    return JSONResponse({"text": body.text.strip()})


def _me(request: Request, session: Session) -> dict[str, Any]:
    site = request.app.state.site
    return {
        "name": session.labeller.name,
        "role": session.labeller.role,
        "csrf": session.csrf,
        # Answers that were not sent yet wait in the browser under this name: never another's, nor another
        # store's at the same address.
        "outbox": f"{site.key}:{session.labeller.id}",
        "instruction": site.store.get_setting("instruction"),
        "counts": _counts(request),
    }


def _counts(request: Request) -> dict[str, int]:
    counts = request.app.state.site.store.counts()
    return {"open": counts.open, "answered": counts.answered}


def _pair(request: Request, session: Session, question: Question) -> dict[str, Any]:
    site = request.app.state.site
    site.lent.add(session.labeller.id, (question.first, question.second))
    sides = {}
    for side, clip_id in (("left", question.first), ("right", question.second)):
        clip = site.clip(clip_id)
        film = None if clip.film is None else f"/api/films/{clip_id}"
        sides[side] = {"film": film, "env": clip.env, "length": clip.length}
    return {"question": question.id, **sides}


def _record(record: Record) -> dict[str, Any]:
    return {"sequence": record.sequence, "question": record.question, "answer": record.answer}
