"""Who is asking: signing in by token, the session's cookie, and what pages and owners may do."""

import hashlib
import hmac
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from rewardsmith.preferences.store import Labeller, Role, Store

from .security import RateLimit, Refusal, address_of, too_many
from .settings import Settings

CSRF_HEADER = "x-rewardsmith"
_REMEMBERED, _REMEMBERED_SECONDS = 10_000, 2.0


@dataclass(frozen=True)
class Session:
    """A session that is open.

    Attributes:
        id: what the cookie holds.
        labeller: whose it is.
    """

    id: str
    labeller: Labeller

    @property
    def csrf(self) -> str:
        """What the page must send as a header to change anything: another site can neither read nor send it.

        It follows from the session's id, a secret of 256 bits, so it outlives a restart of the server.
        """
        return hashlib.sha256(f"rewardsmith csrf {self.id}".encode()).hexdigest()


class Sessions:
    """Opens, reads and ends sessions; the store keeps them, so a restart of the server signs no one out."""

    def __init__(self, store: Store, settings: Settings):
        self._store, self._settings = store, settings
        self._rates = RateLimit(*settings.limits.session_rate)
        self._failures = RateLimit(*settings.limits.failed_sign_ins)
        self._read: OrderedDict[str, tuple[Labeller, float]] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, token: str, request: Request) -> Session:
        """Open a session for the bearer of `token`; refused: 401, or 429 after many."""
        address = address_of(request.scope)
        if wait := self._failures.take(address, cost=0.0):
            raise too_many(wait)
        labeller = self._bearer(token)
        if labeller is None:
            self._failures.take(address)
            raise Refusal(401, "That token is not known here.")
        seconds = self._settings.limits.session_seconds
        session = Session(self._store.begin_session(labeller.id, seconds), labeller)
        self._store.audit("sign-in", labeller=labeller.id, detail=f"from {address}")
        return session

    def set_cookie(self, session: Session, response: Response) -> None:
        """Give the browser a session."""
        response.set_cookie(
            self._settings.cookie,
            session.id,
            max_age=int(self._settings.limits.session_seconds),
            httponly=True,
            samesite="strict",
            secure=self._settings.secure,
        )

    def _bearer(self, token: str) -> Labeller | None:
        link = self._settings.link
        if link is not None and hmac.compare_digest(token.encode(), link.encode()):
            return next((one for one in self._store.labellers() if one.id == self._settings.local), None)
        return self._store.authenticate(token)

    def read(self, request: Request) -> Session | None:
        """The session of a request's cookie; None where there is none, or it has ended."""
        cookie = request.cookies.get(self._settings.cookie, "")
        labeller = self._store.session(cookie) if 20 <= len(cookie) <= 200 and cookie.isascii() else None
        if labeller is None:
            return None
        with self._lock:
            self._read[cookie] = labeller, time.monotonic() + _REMEMBERED_SECONDS
            if len(self._read) > _REMEMBERED:
                self._read.popitem(last=False)
        return Session(cookie, labeller)

    async def require(self, request: Request) -> Session:
        """As `read`, but refused: 401 without a session, 429 where it comes too often.

        What was read is believed for two seconds: a page asks for much at once. Who was revoked meanwhile
        can still see a film for so long, but neither take nor answer: the store refuses that.
        """
        cookie = request.cookies.get(self._settings.cookie, "")
        with self._lock:
            known, until = self._read.get(cookie, (None, 0.0))
        if known is not None and time.monotonic() < until:
            session = Session(cookie, known)
        else:
            session = await run_in_threadpool(self.read, request)
        if session is None:
            raise Refusal(401, "Sign in first.")
        request.state.labeller = session.labeller.id
        if wait := self._rates.take(session.csrf):
            raise too_many(wait)
        return session

    def end(self, session: Session, response: Response) -> None:
        """Close the session, give back what its labeller holds, and clear the cookie."""
        self._store.release(session.labeller.id)
        self._store.end_session(session.id)
        with self._lock:
            self._read.pop(session.id, None)
        self._store.audit("sign-out", labeller=session.labeller.id)
        response.delete_cookie(
            self._settings.cookie, httponly=True, samesite="strict", secure=self._settings.secure
        )


async def signed_in(request: Request) -> Session:
    """The session of a request."""
    return await request.app.state.site.sessions.require(request)


async def from_the_page(session: Annotated[Session, Depends(signed_in)], request: Request) -> Session:
    """The session of a request that the page itself sent, as its header proves."""
    given = request.headers.get(CSRF_HEADER, "")
    if not hmac.compare_digest(given.encode(), session.csrf.encode()):
        raise Refusal(403, "This request was not made by the page: reload it.")
    return session


async def owner(session: Annotated[Session, Depends(signed_in)]) -> Session:
    """The session of an owner."""
    if session.labeller.role != Role.OWNER:
        raise Refusal(403, "Only an owner may see this.")
    return session


Reading = Annotated[Session, Depends(signed_in)]
Changing = Annotated[Session, Depends(from_the_page)]
Owning = Annotated[Session, Depends(owner)]
