"""The site as one ASGI application: pages, what they ask for, and the guard around both."""

import functools
import secrets
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from rewardsmith._core.errors import InputError
from rewardsmith.preferences.store import NotYours, Role, Store

from . import api, films
from .dashboard import Statistics
from .security import Guard, Refusal
from .sessions import Sessions
from .settings import Settings

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_CLIPS_KEPT = 4096


@dataclass(frozen=True)
class Site:
    """What the routes share; `app.state.site`."""

    store: Store
    sessions: Sessions
    lent: films.Lent
    statistics: Statistics
    key: str
    pages: dict[str, tuple[bytes, str]]

    @functools.cached_property
    def clip(self) -> Any:
        """`Store.clip`, remembered: clips never change."""
        return functools.lru_cache(_CLIPS_KEPT)(self.store.clip)


def create_app(store: Store, settings: Settings | None = None) -> FastAPI:
    """The labelling site over a store.

    Args:
        store: where questions come from and answers go.
        settings: by default those of a server that only this machine reaches.

    Returns:
        An ASGI application; `serve` runs it.
    """
    settings = settings or Settings()
    app = FastAPI(
        title="Rewardsmith", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    key = store.get_setting("key")
    if not key:
        key = secrets.token_hex(16)
        store.set_setting("key", key)
    app.state.site = Site(
        store, Sessions(store, settings), films.Lent(), Statistics(store, settings.run), key, _read_pages()
    )
    app.include_router(films.router)
    app.include_router(api.router)
    app.add_api_route("/", _page("label.html"))
    app.add_api_route("/dashboard", _dashboard)
    app.add_api_route("/static/{name}", _static)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _not_routed)
    app.add_exception_handler(RequestValidationError, _not_understood)
    app.add_exception_handler(InputError, _bad_input)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(Guard, settings=settings, audit=store.audit)
    return app


def _read_pages() -> dict[str, tuple[bytes, str]]:
    """All that may be asked for under /static, by name: no request reaches the disk."""
    found = {}
    for entry in (files("rewardsmith.label") / "static").iterdir():
        kind = _TYPES.get(entry.name[entry.name.rfind(".") :])
        if kind is not None:
            found[entry.name] = (entry.read_bytes(), kind)
    return found


def _send(request: Request, name: str, status: int = 200) -> Response:
    pages = request.app.state.site.pages
    if name not in pages:
        raise Refusal(404, "There is nothing here.")
    content, kind = pages[name]
    # Small files of one machine: asked for again each time, so a new version is never mixed with an old one.
    return Response(content, status, {"cache-control": "no-cache"}, kind)


def _page(name: str) -> Any:
    async def page(request: Request) -> Response:
        return _send(request, name)

    return page


def _dashboard(request: Request) -> Response:
    """The owners' page. Without a session it says so by itself: it holds nothing that is secret."""
    session = request.app.state.site.sessions.read(request)
    if session is not None and session.labeller.role != Role.OWNER:
        request.state.labeller = session.labeller.id
        return _send(request, "forbidden.html", 403)
    return _send(request, "dashboard.html")


async def _static(name: str, request: Request) -> Response:
    return _send(request, name)


# Starlette hands every handler an Exception, of the class it was registered for.


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _not_routed(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reasons = {404: "There is nothing here.", 405: "This address does not take that method."}
    reason = reasons.get(error.status_code, "The request was not understood.")
    return JSONResponse({"error": reason}, error.status_code, error.headers)


async def _not_understood(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # What was sent is not repeated: it may be anything.
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][:1]) or "request"
    return JSONResponse({"error": f"The {where} is not as it should be ({first['type']})."}, 422)


async def _bad_input(_: Request, error: Exception) -> Response:
    if error.__cause__ is not None:
        # The database failed, not the one who asked: what they sent is to be sent again.
        return JSONResponse({"error": "The store cannot be reached just now."}, 503)
    return JSONResponse({"error": str(error)}, 409 if isinstance(error, NotYours) else 400)


async def _failed(_: Request, error: Exception) -> Response:
    del error  # The server logs it; people who ask learn nothing of its inside.
    return JSONResponse({"error": "The server could not do this: try again."}, 500)
