"""Requests of someone who means harm: each is refused with the right status, and nothing is changed."""

import hashlib
import json
import socket
import sqlite3
import uuid

import httpx
import pytest
from label_server import Person, fill, people, serving

from rewardsmith._core import InputError
from rewardsmith.preferences.store import Store

GOOD = "11111111-2222-3333-4444-555555555555"
USED = "99999999-2222-3333-4444-555555555555"
CLIP = "0" * 64
SIDES = ("left", "right")
UNTOUCHED = ("answers", "questions", "labellers", "sessions", "settings", "clips", "leases", "predictions")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A server, and what the table below fills in: tokens, cookies, questions, films."""
    folder = tmp_path_factory.mktemp("hostile")
    tokens = fill(folder, 12, labellers=people(2))
    with serving(folder) as server, httpx.Client(base_url=server.url) as ada:
        with httpx.Client(base_url=server.url) as grace:
            mine, theirs = Person(ada, tokens["person 0"]), Person(grace, tokens["person 1"])
            held, lent = mine.take(2), theirs.take(1)[0]
            assert mine.answer(held[0]["question"], "left", USED).status_code == 200
            ended = httpx.Client(base_url=server.url)
            gone = Person(ended, tokens["person 1"])
            old = dict(ended.cookies)
            assert gone.post("/api/sign-out", {}).status_code == 200
            lent = theirs.take(1)[0]
            (cookie,) = old
            words = {
                "FOLDER": folder,
                "SERVER": server,
                "COOKIE": f"{cookie}={ada.cookies[cookie]}",
                "ENDED": f"{cookie}={old[cookie]}",
                "THEIRS": f"{cookie}={grace.cookies[cookie]}",
                "NAME": cookie,
                "CSRF": mine.headers["x-rewardsmith"],
                "ANSWERED": held[0]["question"],
                "HELD": held[1]["question"],
                "LENT": lent["question"],
                "FILM": held[1]["left"]["film"],
                "UNSEEN": next(lent[side]["film"] for side in SIDES if lent[side]["film"] not in str(held)),
                "TOKEN": tokens["person 0"],
            }
            ended.close()
            yield words


def _raw(server, data):
    """Status of the answer to these very bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        try:
            connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = b""
        while b"\r\n" not in answer and (part := connection.recv(4096)):
            answer += part
    return int(answer.split(b" ", 2)[1])


def _digest(folder):
    """Of all that the store holds but the audit log, and of the folder's other files."""
    found = hashlib.sha256()
    with sqlite3.connect(f"file:{folder}/answers.sqlite?mode=ro", uri=True) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert set(UNTOUCHED) <= set(tables), tables
        for table in sorted(tables):
            if not table.startswith("audit"):
                found.update(
                    repr((table, sorted(database.execute(f"SELECT * FROM {table}"), key=repr))).encode()
                )
    database.close()
    for path in sorted((folder / "clips").rglob("*")):
        found.update(str(path).encode() + path.read_bytes())
    return found.hexdigest()


def _answer(**changes):
    body = {"question": "HELD", "answer": "right", "request": GOOD, **changes}
    return {name: value for name, value in body.items() if value is not None}


# name: (status, method, path, body, headers). Words in capitals are filled in; a header None is left out;
# a body that is bytes is sent as it is. The page's own headers are sent unless changed.
TABLE = {
    # ---- paths
    "traversal in a film": (404, "GET", "/api/films/../../answers.sqlite", None, {}),
    "traversal, encoded": (404, "GET", "/api/films/%2e%2e%2f%2e%2e%2fanswers.sqlite", None, {}),
    "traversal, encoded twice": (404, "GET", "/api/films/%252e%252e%252fanswers.sqlite", None, {}),
    "traversal, backslashes": (404, "GET", "/static/..%5c..%5capp.py", None, {}),
    "traversal in static files": (404, "GET", "/static/..%2fapp.py", None, {}),
    "traversal, overlong UTF-8": (404, "GET", "/static/%c0%ae%c0%ae/app.py", None, {}),
    "absolute path": (404, "GET", "/static/%2fetc%2fpasswd", None, {}),
    "two slashes": (404, "GET", "//etc/passwd", None, {}),
    "null byte in a path": (400, "GET", "/api/films/" + CLIP + "%00.mp4", None, {}),
    "unknown path": (404, "GET", "/api/../admin", None, {}),
    "a film by an unknown id": (404, "GET", "/api/films/" + CLIP, None, {}),
    "a film by an id in capitals": (404, "GET", "/api/films/" + "A" * 64, None, {}),
    "a film by SQL": (404, "GET", "/api/films/'%20OR%201=1--", None, {}),
    "a film of another's question": (404, "GET", "UNSEEN", None, {}),
    "a film without a session": (401, "GET", "FILM", None, {"cookie": None}),
    # ---- ranges
    "a range behind the end": (416, "GET", "FILM", None, {"range": "bytes=99999999-"}),
    "a range backwards": (416, "GET", "FILM", None, {"range": "bytes=10-5"}),
    "many ranges": (416, "GET", "FILM", None, {"range": "bytes=" + ",".join(["0-1"] * 500)}),
    "a range of nothing": (416, "GET", "FILM", None, {"range": "bytes=-"}),
    "a range in lines": (416, "GET", "FILM", None, {"range": "lines=0-5"}),
    "a range of huge numbers": (416, "GET", "FILM", None, {"range": "bytes=0-" + "9" * 400}),
    # ---- methods
    "delete an answer": (405, "DELETE", "/api/answers", b"{}", {}),
    "read answers": (405, "GET", "/api/answers", None, {}),
    "post the page": (405, "POST", "/", b"{}", {}),
    "put a film": (405, "PUT", "FILM", b"{}", {}),
    "trace": (405, "TRACE", "/", None, {}),
    # ---- sizes
    "a body too large": (413, "POST", "/api/answers", b" " * 17000, {}),
    "a nested bomb": (400, "POST", "/api/answers", b"[" * 16000, {}),
    "a huge number": (422, "POST", "/api/answers", _answer(question=10**400), {}),
    # ---- who asks
    "no session": (401, "POST", "/api/answers", _answer(), {"cookie": None}),
    "a forged session": (401, "POST", "/api/answers", _answer(), {"cookie": "NAME=" + "x" * 43}),
    "an ended session": (401, "POST", "/api/answers", _answer(), {"cookie": "ENDED"}),
    "SQL as a session": (401, "GET", "/api/me", None, {"cookie": "NAME=\"' OR '1'='1' -- and so on\""}),
    "a token as a session": (401, "GET", "/api/me", None, {"cookie": "NAME=TOKEN"}),
    "a forged token": (401, "POST", "/api/sign-in", {"token": "x" * 43}, {}),
    "SQL as a token": (422, "POST", "/api/sign-in", {"token": "' OR 1=1 --' OR 1=1 --"}, {}),
    "a list as a token": (422, "POST", "/api/sign-in", {"token": ["TOKEN"]}, {}),
    "half a surrogate as a token": (
        422, "POST", "/api/sign-in", b'{"token": "\\ud800' + b"x" * 40 + b'"}', {},
    ),
    "statistics as a labeller": (403, "GET", "/api/statistics", None, {}),
    "the dashboard as a labeller": (403, "GET", "/dashboard", None, {}),
    "an instruction as a labeller": (
        403, "PUT", "/api/instruction", {"text": "<script>alert(1)</script>"}, {},
    ),
    # ---- from elsewhere
    "no header of the page": (403, "POST", "/api/answers", _answer(), {"x-rewardsmith": None}),
    "the header of another session": (403, "POST", "/api/answers", _answer(), {"cookie": "THEIRS"}),
    "another origin": (403, "POST", "/api/answers", _answer(), {"origin": "https://evil.example"}),
    "no origin at all": (403, "POST", "/api/answers", _answer(), {"origin": "null"}),
    "an origin that looks alike": (
        403, "POST", "/api/answers", _answer(), {"origin": "http://127.0.0.1.evil.example"},
    ),
    "a cross-site request": (403, "POST", "/api/undo", {"request": GOOD}, {"sec-fetch-site": "cross-site"}),
    "a same-site request": (403, "POST", "/api/undo", {"request": GOOD}, {"sec-fetch-site": "same-site"}),
    "reading from another site": (403, "GET", "/api/me", None, {"sec-fetch-site": "cross-site"}),
    "a film in another site": (403, "GET", "FILM", None, {"sec-fetch-site": "cross-site"}),
    "a form": (
        415, "POST", "/api/answers", b"question=1", {"content-type": "application/x-www-form-urlencoded"},
    ),
    "text": (415, "POST", "/api/sign-in", b'{"token": "x"}', {"content-type": "text/plain"}),
    "a rebound name": (421, "GET", "/", None, {"host": "evil.example"}),
    "a rebound name with our port": (421, "POST", "/api/take", {"count": 1}, {"host": "evil.example:8765"}),
    "a host with a user": (421, "GET", "/", None, {"host": "127.0.0.1@evil.example"}),
    # ---- answers
    "another's question": (409, "POST", "/api/answers", _answer(question="LENT"), {}),
    "a question that was answered": (409, "POST", "/api/answers", _answer(question="ANSWERED"), {}),
    "a question that is not": (400, "POST", "/api/answers", _answer(question=999999), {}),
    "question zero": (422, "POST", "/api/answers", _answer(question=0), {}),
    "a negative question": (422, "POST", "/api/answers", _answer(question=-1), {}),
    "a question in part": (422, "POST", "/api/answers", _answer(question=1.5), {}),
    "a question beyond numbers": (422, "POST", "/api/answers", _answer(question=2**63), {}),
    "a question in words": (422, "POST", "/api/answers", _answer(question="1; DROP TABLE answers"), {}),
    "a true question": (422, "POST", "/api/answers", _answer(question=True), {}),
    "an answer that is none": (422, "POST", "/api/answers", _answer(answer="both"), {}),
    "script as an answer": (422, "POST", "/api/answers", _answer(answer="<script>"), {}),
    "no request id": (422, "POST", "/api/answers", _answer(request=None), {}),
    "a bad request id": (422, "POST", "/api/answers", _answer(request="' OR 1=1"), {}),
    "a request used for another answer": (
        400, "POST", "/api/answers", _answer(question="ANSWERED", request=USED), {},
    ),
    "a request used for another question": (400, "POST", "/api/answers", _answer(request=USED), {}),
    "a request used, as an undo": (400, "POST", "/api/undo", {"request": USED}, {}),
    "for another labeller": (422, "POST", "/api/answers", _answer(labeller=1), {}),
    "before the films began": (422, "POST", "/api/answers", _answer(response_seconds=-1), {}),
    "not a time": (422, "POST", "/api/answers", b'{"question": 1, "response_seconds": NaN}', {}),
    "no JSON": (422, "POST", "/api/answers", b"{", {}),
    "JSON that is no object": (422, "POST", "/api/answers", b'"x"', {}),
    "bytes that are no text": (422, "POST", "/api/answers", b"\xff\xfe{}", {}),
    "a thousand questions": (422, "POST", "/api/take", {"count": 1000}, {}),
}  # fmt: skip


def _fill_in(value, words):
    if isinstance(value, dict):
        return {name: _fill_in(one, words) for name, one in value.items()}
    if isinstance(value, list):
        return [_fill_in(one, words) for one in value]
    if not isinstance(value, str):
        return value
    if value in words:
        return words[value]
    for word in ("NAME", "TOKEN"):
        value = value.replace(word, words[word])
    return value


def test_the_table_is_long_enough():
    assert len(TABLE) >= 40


@pytest.mark.parametrize("name", TABLE)
def test_refused(name, place):
    status, method, path, body, changes = _fill_in(list(TABLE[name]), place)
    server = place["SERVER"]
    headers = {
        "host": f"127.0.0.1:{server.port}",
        "cookie": place["COOKIE"],
        "x-rewardsmith": place["CSRF"],
        "origin": server.url,
        "content-type": "application/json",
        "connection": "close",
        **changes,
    }
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    if content:
        headers["content-length"] = str(len(content))
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{key}: {value}" for key, value in headers.items() if value is not None]
    before, audited = _digest(place["FOLDER"]), _audited(place["FOLDER"])
    assert _raw(server, "\r\n".join([*lines, "", ""]).encode() + content) == status
    assert _digest(place["FOLDER"]) == before
    last = _audited(place["FOLDER"])
    assert len(last) == len(audited) + 1 and last[-1].startswith(f"refused {status}")
    assert place["TOKEN"] not in " ".join(last) and place["COOKIE"] not in " ".join(last)


def _audited(folder):
    with sqlite3.connect(f"file:{folder}/answers.sqlite?mode=ro", uri=True) as database:
        lines = [f"{event} {detail}" for event, detail in database.execute("SELECT event, detail FROM audit")]
    database.close()
    return lines


HEAD = "POST /api/answers HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
RAW = {
    "a body too large, in chunks": (
        413, (HEAD + "transfer-encoding: chunked\r\n\r\n").encode() + b"1000\r\n" + b" " * 4096 + b"\r\n"
        + (b"1000\r\n" + b" " * 4096 + b"\r\n") * 4,
    ),
    "a length that lies": (413, (HEAD + "content-length: 99999999999\r\n\r\n").encode()),
    "two lengths": (400, (HEAD + "content-length: 2\r\ncontent-length: 3\r\n\r\n{}").encode()),
    "a negative length": (400, (HEAD + "content-length: -5\r\n\r\n").encode()),
    "huge headers": (431, b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"x" * 70000 + b"\r\n\r\n"),
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "no host, of old": (421, b"GET / HTTP/1.0\r\n\r\n"),
    "two hosts": (400, b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: evil.example\r\n\r\n"),
    "an absolute address": (
        400, b"GET http://evil.example/ HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    ),
    "as a proxy": (400, b"CONNECT evil.example:443 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"),
    "no HTTP": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  + b"\r\n\r\n"),
    "a null byte in a header": (400, b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx: a\x00b\r\n\r\n"),
    "a line in a header": (421, b"GET / HTTP/1.1\r\nhost: a\r\nx: b\r\n\r\n"),
    "a web socket": (
        404, b"GET /api/socket HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\n"
        b"connection: upgrade\r\n\r\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
def test_refused_as_bytes(name, place):
    status, data = RAW[name]
    before = _digest(place["FOLDER"])
    assert _raw(place["SERVER"], data) == status
    assert _digest(place["FOLDER"]) == before


def test_after_all_that_the_server_serves(place):
    """What is in order still is: the refusals above were not refused for another reason."""
    headers = {"cookie": place["COOKIE"], "x-rewardsmith": place["CSRF"], "origin": place["SERVER"].url}
    with httpx.Client(base_url=place["SERVER"].url, headers=headers) as client:
        assert client.get(place["FILM"], headers={"range": "bytes=0-9"}).status_code == 206
        body = {"question": place["HELD"], "answer": "right", "request": str(uuid.uuid4())}
        before = _digest(place["FOLDER"])
        assert client.post("/api/answers", json=body).status_code == 200
        assert _digest(place["FOLDER"]) != before


def test_script_in_a_name_and_in_the_instruction_stays_text(tmp_path):
    """Names are letters; the instruction goes as JSON, and pages put it in as text (tested in a browser)."""
    name, script = "<img src=x onerror=alert(1)>", "<script>alert(1)</script>"
    tokens = fill(tmp_path, 1, labellers=people(0))
    with Store.open(tmp_path) as store, pytest.raises(InputError, match="letters"):
        store.add_labeller(name)
    with serving(tmp_path) as server, httpx.Client(base_url=server.url) as client:
        owner = Person(client, tokens["owner"])
        bad = client.put("/api/instruction", headers=owner.headers, json={"text": "a\x00b"})
        assert bad.status_code == 422
        client.put("/api/instruction", headers=owner.headers, json={"text": script})
        for path in ("/api/me", "/api/statistics"):
            response = client.get(path)
            assert response.headers["content-type"] == "application/json"
            assert response.headers["x-content-type-options"] == "nosniff"
        for page in ("/", "/dashboard"):
            assert script not in client.get(page).text
