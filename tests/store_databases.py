"""Stores for tests, in either database: `pytest_plugins = "tests.store_databases"` gives `place`.

PostgreSQL is a real server of Debian's package, for the session, as an unprivileged user, on a free port.
Its helpers are imported as well, before pytest sees a plug-in here: PYTEST_DONT_REWRITE.
"""

import contextlib
import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg
import pytest

from rewardsmith.preferences.store import Answer, Store, clock

USER = "rewardsmith"


@dataclass(frozen=True)
class Server:
    port: int
    password: str

    def url(self, schema="public"):
        options = f"options=-csearch_path%3D{schema}"
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/postgres?{options}"

    def connect(self, schema="public"):
        return psycopg.connect(self.url(schema), autocommit=True)


@dataclass(frozen=True)
class Place:
    """Where a store lies; `server` is None for SQLite."""

    folder: Path
    server: Server | None
    schema: str = ""

    @property
    def where(self):
        return self.folder if self.server is None else self.server.url(self.schema)

    def open(self, **options):
        clips = None if self.server is None else self.folder / "clips"
        return Store.open(self.where, clips=clips, **options)

    def execute(self, statement):
        """Run a statement past the store, as somebody with rights to the database could."""
        if self.server is None:
            import sqlite3

            with contextlib.closing(sqlite3.connect(self.folder / "answers.sqlite")) as connection:
                rows = connection.execute(statement).fetchall()
                connection.commit()
                return rows
        with self.server.connect(self.schema) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


class Clock:
    """A clock that the test turns, in seconds."""

    def __init__(self):
        self.seconds = 1_700_000_000.0

    def __call__(self):
        return round(self.seconds * 1e6)


@pytest.fixture
def moved_clock(monkeypatch):
    turned = Clock()
    monkeypatch.setattr(clock, "now", turned)
    return turned


@pytest.fixture(scope="session")
def postgresql():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if not found:
        # Where the tests count, the server is there.
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs Debian's postgresql")
    folder, password = Path(tempfile.mkdtemp(prefix="rewardsmith-pg-")), secrets.token_urlsafe(12)
    as_user = _unprivileged(folder)
    server = None
    try:
        (folder / "password").write_text(password)
        (folder / "password").chmod(0o644)
        flags = ["-D", folder / "data", "-U", USER, f"--pwfile={folder / 'password'}", "-A", "scram-sha-256"]
        _run([found[-1], *flags, "-E", "UTF8", "--no-sync", "--locale=C"], folder, as_user)
        port = _free_port()
        settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        # Nothing here outlives the session.
        settings |= {"fsync": "off", "full_page_writes": "off", "shared_buffers": "16MB"}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("w") as log:
            command = [found[-1].with_name("postgres"), "-D", folder / "data", *words]
            server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **as_user)
        yield _answering(Server(port, password), server, folder / "log")
    finally:
        if server is not None:
            # At once: nothing it holds is wanted any more.
            server.send_signal(signal.SIGQUIT)
            server.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged(folder):
    """The server refuses to be run by root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = names.get("postgres") or names["nobody"]
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _run(command, folder, as_user):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, **as_user)
    assert done.returncode == 0, done.stderr


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answering(server, process, log):
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(psycopg.OperationalError):
            server.connect().close()
            return server
        time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """An empty place for a store in either database."""
    if request.param == "sqlite":
        yield Place(tmp_path / "store", None)
        return
    server = request.getfixturevalue("postgresql")
    # Quicker to make than a database.
    name = f"store_{secrets.token_hex(4)}"
    with server.connect() as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    yield Place(tmp_path / "store", server, name)
    with server.connect() as connection:
        connection.execute(f"DROP SCHEMA {name} CASCADE")


_marks = itertools.count()


def new():
    """A request that was never made."""
    return str(uuid.uuid4())


def some_arrays(mark=None, length=3):
    value = next(_marks) if mark is None else mark
    return {
        "actions": np.full((length, 1), -value, np.float32),
        "observations": np.full((length, 2), value, np.float32),
    }


def add_clips(store, count, film=None):
    return [store.add_clip(some_arrays(), env="cheetah", length=3, film=film) for _ in range(count)]


def ask(store, count=1, **options):
    """So many questions of new clips."""
    clips = add_clips(store, count + 1)
    return store.ask(list(itertools.pairwise(clips)), **options)


def let_in(store, *names):
    """Ids of new labellers."""
    return [store.authenticate(store.add_labeller(name)).id for name in names]


def answer(store, question, labeller, said=Answer.LEFT, **options):
    return store.answer(question, labeller, said, request=options.pop("request", new()), **options)


def taken(store, labeller, count=1):
    """Numbers of the questions lent."""
    return [one.question.id for one in store.take(labeller, count=count)]
