"""The door: what every request passes before anything of it is parsed, and what every response carries."""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .settings import Settings

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
_CHANGING = ("POST", "PUT", "PATCH", "DELETE")
_AUDITED_PATH = 200


class RateLimit:
    """Token buckets: each key may go at once up to `burst` times, and `rate` times a second in the long run.

    Those that were not seen for longest are forgotten beyond `keys`: a forgotten bucket is a full one.
    """

    def __init__(self, rate: float, burst: float, *, keys: int = 10_000):
        self._rate, self._burst, self._keys = rate, burst, keys
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: str, cost: float = 1.0) -> float:
        """Seconds to wait before this may be done; 0: it may, and is counted. Cost 0 only looks."""
        now = time.monotonic()
        with self._lock:
            level, seen = self._buckets.pop(key, (self._burst, now))
            level = min(self._burst, level + (now - seen) * self._rate)
            wait = max(0.0, (max(cost, 1.0) - level) / self._rate)
            self._buckets[key] = (level if wait else level - cost, now)
            if len(self._buckets) > self._keys:
                self._buckets.popitem(last=False)
        return wait


class Refusal(Exception):
    """A request that is refused: its status, one plain sentence, and headers to send."""

    def __init__(self, status: int, reason: str, **headers: str):
        super().__init__(reason)
        self.status, self.reason = status, reason
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> JSONResponse:
        """As it is sent."""
        return JSONResponse({"error": self.reason}, self.status, self.headers)


def too_many(wait: float) -> Refusal:
    """The refusal of one who comes too often: 429, with the seconds to wait."""
    return Refusal(429, "Too many requests: wait a little.", Retry_After=str(max(1, round(wait + 0.5))))


class Guard:
    """ASGI layer around the whole site: host, rate, size, origin and kind of content are checked here.

    Args:
        app: what is guarded.
        settings: of this server.
        audit: `Store.audit`. Neither tokens nor bodies are given to it.
    """

    def __init__(self, app: ASGIApp, settings: Settings, audit: Callable[..., None]):
        self._app, self._settings, self._audit = app, settings, audit
        self._addresses = RateLimit(*settings.limits.address_rate)
        self._audited = RateLimit(*settings.limits.audited_refusals)
        self._unaudited: dict[str, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Whoever signs in adds the labeller, so that the log can name who was refused.
        who = scope.setdefault("state", {})

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
                if message["status"] >= 400:
                    await self._write_down(scope, message["status"], who.get("labeller"))
            await send(message)

        try:
            self._check_head(scope)
            receive = await self._read(scope, receive)
        except Refusal as refusal:
            # The body may be unread: the connection cannot serve another request.
            refusal.headers["connection"] = "close"
            await refusal.response()(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)

    def _check_head(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self._settings.limits.head:
            raise Refusal(431, "The headers are too large.")
        if not self._settings.accepts(host):
            raise Refusal(421, "This server does not go by that name.")
        if not scope["path"].startswith("/") or "\x00" in scope["path"]:
            raise Refusal(400, "The address is malformed.")
        if wait := self._addresses.take(address_of(scope)):
            raise too_many(wait)
        changing = scope["method"] in _CHANGING
        if changing or scope["path"].startswith("/api/"):
            self._check_origin(scope, headers, host)
        if changing:
            self._check_content(headers)

    def _check_origin(self, scope: Scope, headers: Headers, host: str) -> None:
        """Browsers say where a request comes from: it must be a page of this very server."""
        origin = headers.get("origin")
        ours = {f"{scope['scheme']}://{host}", (self._settings.public_url or "").rstrip("/")}
        if origin is not None and (not origin or origin not in ours):
            raise Refusal(403, "This request comes from another site.")
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise Refusal(403, "This request comes from another site.")

    def _check_content(self, headers: Headers) -> None:
        if int(headers.get("content-length", "0")) > self._settings.limits.body:
            raise self._too_large()
        # A form of another site can send text or form fields without asking first, but never JSON.
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "Send JSON: content-type application/json.")

    async def _read(self, scope: Scope, receive: Receive) -> Receive:
        """The whole body, within the limits, and then the receiver that hands it on."""
        headers = Headers(scope=scope)
        if "content-length" not in headers and "transfer-encoding" not in headers:
            return receive
        body, more = b"", True
        try:
            async with asyncio.timeout(self._settings.limits.body_seconds):
                while more:
                    message = await receive()
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._settings.limits.body:
                        raise self._too_large()
        except TimeoutError:
            raise Refusal(408, "The request did not arrive in time.") from None
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_read() -> Message:
            return waiting.pop() if waiting else await receive()

        return receive_read

    def _too_large(self) -> Refusal:
        return Refusal(413, f"A request holds {self._settings.limits.body} bytes at most.")

    async def _write_down(self, scope: Scope, status: int, labeller: int | None) -> None:
        # A flood of refusals must not become a flood of writes: those beyond the rate are counted.
        address = address_of(scope)
        if self._audited.take(address):
            if len(self._unaudited) < 10_000:
                self._unaudited[address] = self._unaudited.get(address, 0) + 1
            return
        missed = self._unaudited.pop(address, 0)
        path = ascii(scope["path"][:_AUDITED_PATH])
        detail = f"{scope['method'][:10]} {path} from {address}"
        detail += f" and {missed} more refusals" if missed else ""
        await run_in_threadpool(self._audit, f"refused {status}", labeller=labeller, detail=detail)


def address_of(scope: Scope) -> str:
    """The address a request comes from."""
    return scope["client"][0] if scope.get("client") else "unknown"
