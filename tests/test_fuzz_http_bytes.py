"""Bytes that are no requests, or nearly ones, to a real server: it answers or hangs up, and serves on."""

import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_server import fill, people, serving

from tests.fuzzing import examples, spoilt_bytes


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes")
    fill(folder, 5, labellers=people(1))
    with serving(folder) as running:
        yield running


BODY = b'{"token": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}'
WHOLE = [
    b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n",
    b"GET /static/style.css HTTP/1.1\r\nhost: 127.0.0.1\r\nrange: bytes=0-3\r\nconnection: close\r\n\r\n",
    b"POST /api/sign-in HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: "
    + str(len(BODY)).encode() + b"\r\nconnection: close\r\n\r\n" + BODY,
    b"POST /api/take HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    b"transfer-encoding: chunked\r\n\r\n9\r\n{\"count\":\r\n3\r\n 1}\r\n0\r\n\r\n",
]  # fmt: skip


def _asked(server, data):
    """All that comes back for these very bytes, until the server has said what it has to say."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        answer = b""
        try:
            connection.sendall(data)
            # What is cut short is not waited for.
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
        except (BrokenPipeError, ConnectionResetError):
            pass
    return answer


@examples(40, 2_000)
@given(st.sampled_from(WHOLE).flatmap(spoilt_bytes))
def test_no_bytes_are_more_than_the_server_can_answer(server, data):
    answer = _asked(server, data)
    if answer:
        status = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
        assert status is not None and int(status[1]) < 500, answer[:500]
        assert not re.search(rb"Traceback|File \"", answer)
    assert server.process.poll() is None


def test_after_all_these_bytes_the_server_serves(server):
    for data in WHOLE[:2]:
        assert _asked(server, data).startswith(b"HTTP/1.1 200")
    status, said = server.stop()
    assert status == 0 and said == ""
