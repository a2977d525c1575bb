"""A connection to the database of a store: who may write when, and what its failures mean to people."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from ..._core.errors import InputError
from .clip_files import is_file
from .schema import STORE, check_version, prepare

FILE = "answers.sqlite"
_WAIT_SECONDS = 30.0
# Any number: the lock under which the tables of a store are made on PostgreSQL.
_PREPARING = 0x5245574152445321


@dataclass(frozen=True)
class Database:
    """One database, many threads.

    Attributes:
        engine: its connections.
        name: for errors; without a password.
    """

    engine: Engine
    name: str
    _secrets: tuple[str, ...] = field(default=(), repr=False)
    _writers: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextlib.contextmanager
    def reading(self) -> Generator[Connection, None, None]:
        """A transaction that sees one state of the store throughout and writes nothing."""
        with self._explained(), self.engine.connect() as connection:
            if not self._is_sqlite:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def writing(self, *, lasting: bool = True) -> Generator[Connection, None, None]:
        """A transaction of the one writer: it sees all that was committed, and nobody writes meanwhile.

        Args:
            lasting: wait until it is on the disk. If not, a power cut may undo it (though never one of what
                was committed later); the death of a process undoes it in neither case.
        """
        with self._explained(), self._turn(), self.engine.connect() as connection:
            connection.execution_options(writes=True, lasting=lasting)
            with connection.begin():
                if not lasting and not self._is_sqlite:
                    connection.execute(text("SET LOCAL synchronous_commit = off"))
                # PostgreSQL's writers queue here; SQLite's did at BEGIN IMMEDIATE.
                version = connection.execute(select(STORE.c.version).with_for_update()).scalar_one()
                check_version(version, self.name)
                yield connection

    def prepare(self, *, create: bool) -> None:
        """Make, if `create`, or bring up to date the tables, in one transaction."""
        with self._explained(), self.engine.connect() as connection:
            connection.execution_options(writes=True)
            with connection.begin():
                if not self._is_sqlite:
                    connection.execute(text(f"SELECT pg_advisory_xact_lock({_PREPARING})"))
                prepare(connection, self.name, create=create)
            if self._is_sqlite:
                # Not before it is known for ours: this writes.
                _use_write_ahead_log(connection)

    @property
    def _is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    def _turn(self) -> contextlib.AbstractContextManager[Any]:
        # SQLite lets waiting writers sleep and try again: within one process a lock is fairer and quicker.
        return self._writers if self._is_sqlite else contextlib.nullcontext()

    @contextlib.contextmanager
    def _explained(self) -> Generator[None, None, None]:
        try:
            yield
        # The driver cannot read its own message where that quotes what is damaged.
        except (SQLAlchemyError, sqlite3.Error, UnicodeDecodeError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            reason = " ".join(str(cause).split()) or type(cause).__name__
            for secret in self._secrets:
                reason = reason.replace(secret, "***")
            raise InputError(
                f"the store {self.name} cannot be used ({reason[:300]}): {_remedy(reason)}"
            ) from error


def open_database(where: Path | str, *, create: bool) -> Database:
    """The database of a folder, or of a ``postgresql://`` URL.

    Raises:
        InputError: no such store (and `create` is false), no rights, not a database, a newer version.
    """
    if isinstance(where, str) and "://" in where:
        database = _postgresql(where)
    else:
        database = _sqlite(Path(where), create)
    try:
        database.prepare(create=create)
    except BaseException:
        database.engine.dispose()
        raise
    return database


def _sqlite(folder: Path, create: bool) -> Database:
    path = folder / FILE
    if not create and not is_file(path):
        raise InputError(f"no store at {folder}: give the folder that holds {FILE}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder} ({error.strerror}): give another one") from error
    engine = create_engine(
        URL.create("sqlite", database=str(path.absolute())),
        connect_args={"timeout": _WAIT_SECONDS},
        pool_size=8,
        max_overflow=56,
        hide_parameters=True,
    )
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return Database(engine, str(folder))


def _set_up_sqlite(connection: Any, _: object) -> None:
    # Transactions are begun by `_begin_sqlite`, not by the driver.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("foreign_keys = ON", "trusted_schema = OFF"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    synchronous = "FULL" if options.get("lasting", True) else "NORMAL"
    if connection.info.get("synchronous") != synchronous:
        connection.exec_driver_sql(f"PRAGMA synchronous = {synchronous}")
        connection.info["synchronous"] = synchronous
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes", False) else "BEGIN")


def _use_write_ahead_log(connection: Connection) -> None:
    driver = connection.connection.cursor()
    until = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            if driver.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                driver.execute("PRAGMA journal_mode = WAL")
            break
        # Several processes open a new store at once: SQLite does not wait for this one lock.
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)
    driver.close()


def _postgresql(where: str) -> Database:
    try:
        url = make_url(where)
    except (ArgumentError, ValueError) as error:
        # The text itself may hold a password.
        raise InputError(
            "the URL of the store cannot be read: write postgresql://user@host/database"
        ) from error
    # The query may hold a password as well.
    name = url.set(password=None, query={}).render_as_string()
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise InputError(f"no store at {name}: give a folder, or postgresql://user@host/database")
    try:
        import psycopg
    except ImportError as error:
        raise InputError('PostgreSQL needs an extra: pip install "rewardsmith[postgresql]"') from error
    del psycopg
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,
            pool_size=5,
            max_overflow=15,
            hide_parameters=True,
            connect_args={"connect_timeout": 10},
        )
    except (SQLAlchemyError, ValueError, TypeError) as error:
        raise InputError(f"the URL {name} cannot be used: write postgresql://user@host/database") from error
    return Database(engine, name, _secrets(url))


def _secrets(url: URL) -> tuple[str, ...]:
    given = (url.password, *url.normalized_query.get("password", ()))
    return tuple(str(secret) for secret in given if secret)


def _remedy(reason: str) -> str:
    known = {
        "not a database": "give another folder, or an empty one",
        "disk is full": "free some space",
        "no space left": "free some space",
        "readonly": "mend the permissions of the folder",
        "unable to open": "mend the permissions of the folder",
        "permission denied": "grant the user the right to it",
        "locked": "another process holds it for long; end that one",
        "connection": "see that the server runs and that host, user, password and database are right",
    }
    lowered = reason.lower()
    return next((cure for sign, cure in known.items() if sign in lowered), "see that it is a store and whole")
