"""Requests of every kind to every route: an answer each time, and no change by what is refused.

Routes, methods and bodies come from the application itself, so a new route is asked as soon as it is there.
"""

import asyncio
import json
import re
import shutil
import sqlite3
import tempfile
import urllib.parse
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_server import add_clips, people
from label_server import fill as fill_store

from rewardsmith.label import api, films
from rewardsmith.label.app import create_app
from rewardsmith.label.security import HEADERS
from rewardsmith.label.sessions import CSRF_HEADER, Session
from rewardsmith.label.settings import Limits, Settings
from rewardsmith.preferences.store import Store
from tests.fuzzing import bounded, examples, json_fragments

MEMORY = Path("/dev/shm")
# Refusals are not written down here, so that whatever a refused request writes is its own doing.
NO_LIMITS = Limits(
    session_rate=(1e9, 1e9), address_rate=(1e9, 1e9), failed_sign_ins=(1e9, 1e9), audited_refusals=(1e-9, 0.0)
)
REFUSALS = {400, 401, 403, 404, 405, 409, 413, 415, 416, 421, 422, 431}
LEAKS = re.compile(rb"Traceback|File \"|\.py\b|sqlite|/site-packages/|rewardsmith\.", re.IGNORECASE)


class Site:
    """The application over a store of its own, asked as a server would ask it."""

    def __init__(self, folder):
        self.tokens = fill_store(folder, 60, labellers=people(2), overlap=2)
        self.store = Store.open(folder)
        self.app = create_app(self.store, Settings(limits=NO_LIMITS))
        self.people = [one for one in self.store.labellers() if one.active]
        self.watcher = sqlite3.connect(folder / "answers.sqlite")
        self.runner = asyncio.Runner()
        self.routes = sorted((path, method) for path, methods in self._paths().items() for method in methods)
        self.clips = [question.first for question in self.store.open_questions()[:3]]

    def _paths(self):
        return {
            path: [method.upper() for method in methods]
            for path, methods in self.app.openapi()["paths"].items()
        }

    def schema(self, path, method):
        """JSON schema of what a route wants as a body; {} where it wants none."""
        document = self.app.openapi()
        body = document["paths"].get(path, {}).get(method.lower(), {}).get("requestBody")
        if body is None:
            return {}
        (content,) = body["content"].values()
        return document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]

    def version(self):
        """Changes whenever anything was written to the store."""
        return self.watcher.execute("PRAGMA data_version").fetchone()[0]

    def session(self, labeller):
        return Session(self.store.begin_session(labeller.id, 1000.0), labeller)

    def ask(self, method, target, headers, chunks=()):
        """Status, headers and body of the answer."""
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": urllib.parse.unquote(path),
            "raw_path": path.encode("ascii"),
            "query_string": query.encode("ascii"),
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1234),
            "server": ("127.0.0.1", 8765),
        }
        waiting = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
        waiting.append({"type": "http.request", "body": b"", "more_body": False})
        sent = []

        async def receive():
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        self.runner.run(self.app(scope, receive, send))
        assert sent and sent[0]["type"] == "http.response.start" and not sent[-1].get("more_body"), sent
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], dict(sent[0]["headers"]), body

    def close(self):
        self.runner.close()
        self.watcher.close()
        self.store.close()


@pytest.fixture(scope="module")
def site():
    folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    # The checks of types that tests add would answer some requests with an error that no server has.
    jaxtyping.config.update("jaxtyping_disable", True)
    made = Site(folder)
    yield made
    made.close()
    jaxtyping.config.update("jaxtyping_disable", False)
    shutil.rmtree(folder)


def test_every_route_of_the_application_is_asked(site):
    routes = [*site.app.routes, *api.router.routes, *films.router.routes]
    found = {(route.path, method) for route in routes for method in getattr(route, "methods", ())}
    assert found == set(site.routes)
    assert {"/", "/dashboard", "/static/{name}", "/api/answers", "/api/films/{clip}"} <= {p for p, _ in found}


PRINTABLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30)
PIECES = st.sampled_from(
    ".. %2e%2e %2f %5c %00 %ff %c0%ae %25 % %zz // label.html app.py '%20OR%201=1-- %F0%9F%98%80 * ; {clip} "
    "%0d%0a nul 1e9".split()
    + ["A" * 64, "0" * 64, "x" * 3000]
)
SEGMENTS = PIECES | PRINTABLE | st.lists(PIECES, max_size=4).map("/".join)
QUERIES = st.sampled_from(["", "", "", "?", "?a=1&a=2&%00", "?" + "x=y&" * 500, "?token=x", "?clip=..%2f.."])
METHODS = "GET HEAD POST PUT PATCH DELETE OPTIONS TRACE CONNECT FOO get M-SEARCH PROPFIND".split()
# Whatever the server's parser lets through as a value.
LINES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=40)
RANGES = "0- -5 5-1 0-1,2-3 - \xb2- 0-0 -0".split() + ["9" * 400, "0-" + "9" * 15, "1-" + "9" * 5000]
HOSTS = "127.0.0.1 localhost:1 [::1]:8 evil.example 127.0.0.1:99999 a@127.0.0.1".split()
ORIGINS = "null http://127.0.0.1 https://evil.example http://127.0.0.1.evil file:// \xff".split()
KINDS = "text/plain ; application/json;charset=utf-16 multipart/form-data \xff/json".split()
REMEMBERED = ["rewardsmith=" + one for one in ("", "x" * 43, "\xff" * 30)]
COOKIES = ["a", "=", ";" * 500, 'a="\\', "\xe9", *REMEMBERED]
VALUES = {
    "host": ["", "x" * 300, *HOSTS],
    "origin": ["", *ORIGINS],
    "sec-fetch-site": ["", "cross-site", "same-site", "none", "same-origin", "\xe9"],
    "content-type": ["", *KINDS],
    "range": ["x=1", "\xff", *("bytes=" + one for one in RANGES)],
    "cookie": COOKIES,
    CSRF_HEADER: ["", "x" * 64, "\xe9" * 64, "0"],
    "accept-encoding": ["gzip", "*;q=0", ""],
    "if-range": ["x", '"a"'],
    "if-modified-since": ["x", "Thu, 01 Jan 1970 00:00:00 GMT"],
    "x-forwarded-for": ["1.2.3.4", "x" * 200],
    "authorization": ["Bearer x", "Basic \xff"],
    "expect": ["100-continue"],
    "x-" + "y" * 200: ["z" * 9000, "z" * 17000],
}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
FRAGMENTS = json_fragments.filter(lambda text: len(text) < 9_000)
WRONG = [
    b"",
    b"{",
    b"\xff\xfe{}",
    b"[" * 9000,
    b'{"a":' * 3000,
    b" " * 17000,
    b'{"a":1,"a":2}',
    b"\xef\xbb\xbf{}",
]
BODIES = st.one_of(
    DOCUMENTS.map(lambda value: json.dumps(value).encode()),
    FRAGMENTS.map(str.encode),
    st.binary(max_size=60),
    st.sampled_from(WRONG),
)


@st.composite
def bodies(draw, site, path, method):
    """Mostly an object with the fields that the route wants, of which some hold what they should."""
    schema = site.schema(path, method)
    if not schema or draw(st.integers(0, 4)) == 0:
        return draw(BODIES)
    texts = {}
    for name, field in schema.get("properties", {}).items():
        match draw(st.sampled_from(["good"] * 5 + ["odd", "odd", "none"])):
            case "good":
                texts[name] = json.dumps(draw(_good(field)))
            case "odd":
                texts[name] = draw(FRAGMENTS | DOCUMENTS.map(json.dumps))
    if draw(st.integers(0, 9)) == 0:
        texts[draw(st.text(max_size=8))] = draw(FRAGMENTS)
    return ("{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in texts.items()) + "}").encode()


def _good(field):
    """Values that a field's schema allows."""
    for kind in field.get("anyOf", [field]):
        if "enum" in kind:
            return st.sampled_from(kind["enum"])
        if kind.get("type") == "integer":
            return st.integers(kind.get("minimum", 0), min(kind.get("maximum", 9), 70))
        if kind.get("type") == "number":
            return st.floats(kind.get("minimum", 0), kind.get("maximum", 1))
        if "pattern" in kind:
            return st.from_regex(kind["pattern"], fullmatch=True)
    return st.text(max_size=30)


@st.composite
def requests(draw, site):
    """Method, target, headers and the body's parts, of which some are as a page would send them."""
    path, method = draw(st.sampled_from(site.routes))
    body = (
        draw(bodies(site, path, method)) if method in ("POST", "PUT") or draw(st.integers(0, 5)) == 0 else b""
    )
    named = site.clips if "{clip}" in path else [*site.app.state.site.pages]
    target = re.sub(r"{\w+}", lambda _: draw(st.sampled_from(named * 2) | SEGMENTS), path)
    match draw(st.sampled_from(["as it is"] * 6 + ["behind", "before", "else"])):
        case "behind":
            target += "/" + draw(SEGMENTS)
        case "before":
            target = "/" + draw(SEGMENTS) + target
        case "else":
            target = "/" + draw(SEGMENTS)
    target = target.replace("?", "").replace("#", "") + draw(QUERIES)
    if draw(st.integers(0, 5)) == 0:
        method = draw(st.sampled_from(METHODS))
    headers = [
        ("host", "127.0.0.1:8765"),
        ("origin", "http://127.0.0.1:8765"),
        ("content-type", "application/json"),
    ]
    labeller = draw(st.sampled_from([*site.people, *site.people[:1] * 3, None]))
    if labeller is not None:
        session = site.session(labeller)
        headers += [("cookie", f"rewardsmith={session.id}"), (CSRF_HEADER, session.csrf)]
    if "{" in path:
        headers.append(("range", draw(st.sampled_from(VALUES["range"]))))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 4]))):
        name = draw(st.sampled_from(sorted(VALUES)))
        if draw(st.booleans()):
            headers = [one for one in headers if one[0] != name]
        if draw(st.integers(0, 3)):
            headers.append((name, draw(st.sampled_from(VALUES[name]) | LINES)))
    chunks = [body] if body else []
    if body and draw(st.booleans()):
        cut = draw(st.integers(0, len(body)))
        chunks = [body[:cut], body[cut:]]
    if body or draw(st.integers(0, 9)) == 0:
        length = [("content-length", str(len(body)))], [("transfer-encoding", "chunked")]
        headers += length[draw(st.integers(0, 1))]
    return method, target, [(name.encode(), value.encode("latin-1")) for name, value in headers], chunks


def check(site, method, target, headers, chunks):
    before = site.version()
    with bounded(20.0):
        status, found, body = site.ask(method, target, headers, chunks)
    said = f"{status} for {method} {target[:200]}: {body[:300]!r}"
    assert 200 <= status < 400 or status in REFUSALS, said
    assert all(found[name.encode()] == value.encode() for name, value in HEADERS.items()), said
    if status >= 400:
        assert site.version() == before, f"written to by {said}"
        assert b"cookie" not in found, said
        if b"html" not in found.get(b"content-type", b"") and method != "HEAD":
            assert list(json.loads(body)) == ["error"] and len(body) < 300, said
    if status >= 400 or b"json" in found.get(b"content-type", b""):
        assert not LEAKS.search(body), said
    return status


@examples(120, 1_500)
@given(st.data())
def test_no_request_is_more_than_the_site_can_answer(site, data):
    for _ in range(5):
        check(site, *data.draw(requests(site)))


def test_what_is_in_order_is_still_served(site):
    """After all that: the refusals above were not for another reason."""
    session = site.session(site.people[-1])
    page = [(b"host", b"127.0.0.1"), (b"cookie", f"rewardsmith={session.id}".encode())]
    page += [(CSRF_HEADER.encode(), session.csrf.encode()), (b"content-type", b"application/json")]
    assert site.ask("GET", "/api/me", page)[0] == 200
    extra = add_clips(site.store, None, 2)
    site.store.ask([tuple(extra)])

    def post(path, body):
        content = json.dumps(body).encode()
        length = [(b"content-length", str(len(content)).encode())]
        status, _, answer = site.ask("POST", path, page + length, [content])
        assert status == 200, answer
        return json.loads(answer)

    (pair,) = post("/api/take", {"count": 1})["pairs"]
    request = "11111111-2222-3333-4444-000000000001"
    said = {"question": pair["question"], "answer": "left", "request": request}
    assert post("/api/answers", said)["question"] == pair["question"]
    assert site.ask("GET", pair["left"]["film"], [*page, (b"range", b"bytes=0-9")])[0] == 206
    for path, method in site.routes:
        if method == "GET" and "{" not in path:
            assert site.ask("GET", path, page)[0] in (200, 403)
