"""The database under a store: versions, failures that people cause, and secrets in messages."""

import ast
import sqlite3
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from rewardsmith import InputError
from rewardsmith.preferences.store import Answer, Store, schema
from tests.store_databases import answer, ask, let_in, new

pytest_plugins = "tests.store_databases"


def fill(store):
    ask(store, 2)
    (ann,) = let_in(store, "Ann")
    store.take(ann, count=2)
    answer(store, 2, ann)
    return store.records(), store.counts(), store.labellers()


def add_mood(connection):
    connection.execute(text("ALTER TABLE labellers ADD COLUMN mood TEXT"))


def set_mood(connection):
    connection.execute(text("UPDATE labellers SET mood = 'calm'"))


def test_an_older_store_is_brought_up_to_date(place, monkeypatch):
    with place.open() as store:
        before = fill(store)
    # What this version writes is version 0 to a code that knows two migrations more.
    assert place.execute("SELECT version FROM rewardsmith_store") == [(len(schema.MIGRATIONS),)]
    newer = (*schema.MIGRATIONS, add_mood, set_mood)
    monkeypatch.setattr(schema, "MIGRATIONS", newer)
    with place.open() as store:
        assert (store.records(), store.counts(), store.labellers()) == before
    assert place.execute("SELECT mood FROM labellers") == [("calm",)]
    assert place.execute("SELECT version FROM rewardsmith_store") == [(len(newer),)]
    # Once is enough: a second time the column would be there already.
    place.open().close()


def test_a_migration_that_fails_changes_nothing(place, monkeypatch):
    def dies(connection):
        connection.execute(text("DROP TABLE settings"))
        raise RuntimeError("power cut")

    with place.open() as store:
        before = fill(store)
    migrations = schema.MIGRATIONS
    monkeypatch.setattr(schema, "MIGRATIONS", (*migrations, add_mood, dies))
    with pytest.raises(RuntimeError, match="power cut"):
        place.open()
    monkeypatch.setattr(schema, "MIGRATIONS", migrations)
    with place.open() as store:
        assert (store.records(), store.counts(), store.labellers()) == before
        store.set_setting("a", "b")
    with pytest.raises(Exception, match="mood"):
        place.execute("SELECT mood FROM labellers")


def test_a_newer_store_is_refused_also_while_it_is_open(place):
    with place.open() as store:
        place.execute("UPDATE rewardsmith_store SET version = 99")
        for use in (place.open, lambda: ask(store)):
            with pytest.raises(InputError, match="newer Rewardsmith .its version is 99.*upgrade") as caught:
                use()
            assert "\n" not in str(caught.value)


def test_many_open_a_new_store_at_once(place):
    stores, errors = [], []

    def open_one():
        try:
            stores.append(place.open())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    fill(stores[0])
    assert all(len(store.records()) == 1 for store in stores)
    for store in stores:
        store.close()
    assert len(place.execute("SELECT * FROM rewardsmith_store")) == 1


def test_a_database_of_others_is_left_alone(place):
    if place.server is None:
        place.folder.mkdir()
    place.execute("CREATE TABLE theirs (a INTEGER)")
    with pytest.raises(InputError, match="not ours: give an empty database"):
        place.open()
    assert place.execute("SELECT * FROM theirs") == []


def refused(where, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        Store.open(where, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return str(caught.value)


def test_folders_that_are_no_stores(tmp_path):
    refused(tmp_path / "none", "no store at .*give the folder that holds answers.sqlite", create=False)
    assert not (tmp_path / "none").exists()
    file = tmp_path / "file"
    file.write_text("")
    refused(file, "cannot make the folder")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "answers.sqlite").write_text("these are no tables\n" * 1000)
    refused(tmp_path / "text", "not a database.*give another folder")
    (tmp_path / "folder" / "answers.sqlite").mkdir(parents=True)
    refused(tmp_path / "folder", "unable to open.*permissions")
    for seconds in (-1.0, float("nan"), 1e12):
        refused(tmp_path / "store", "lease_seconds", lease_seconds=seconds)


def test_a_full_disk_is_said_in_one_line_and_loses_nothing(tmp_path):
    with Store.open(tmp_path / "store") as store:
        before = fill(store)
        with store.database.engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        store.database.engine.dispose()
        with store.database.engine.connect() as connection:
            # A limit of pages is to SQLite what a full disk is.
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(InputError, match="full.*free some space"):
            for number in range(1000):
                store.set_setting(f"long {number}", "x" * 10_000)
        assert (store.records(), store.counts(), store.labellers()) == before


def test_a_store_that_another_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("rewardsmith.preferences.store.database._WAIT_SECONDS", 0.1)
    with Store.open(tmp_path / "store") as store:
        other = sqlite3.connect(tmp_path / "store" / "answers.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert store.records() == []
        with pytest.raises(InputError, match="locked.*end that one"):
            store.set_setting("a", "b")
        other.close()
        store.set_setting("a", "b")


def test_sqlite_writes_through_to_the_disk(tmp_path):
    with Store.open(tmp_path) as store, store.database.engine.connect() as connection:
        pragmas = ("journal_mode", "synchronous", "foreign_keys")
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in pragmas]
    assert found == ["wal", 2, 1]


SECRET = "hunter2-%40"


@pytest.mark.parametrize(
    ("url", "match"),
    [
        (f"postgresql://ann:{SECRET}@127.0.0.1:1/db", "see that the server runs"),
        (f"postgresql://ann:{SECRET}@127.0.0.1:port/db", "cannot be read: write postgresql://"),
        (f"mysql://ann:{SECRET}@host/db", "give a folder, or postgresql://"),
        (f"sqlite://ann:{SECRET}@host/db", "give a folder, or postgresql://"),
        (f"postgresql+asyncpg://ann:{SECRET}@host/db", "give a folder, or postgresql://"),
        (f"postgresql://ann:{SECRET}@127.0.0.1:1/db?password={SECRET}&nonsense=1", "nonsense"),
    ],
)
def test_urls_that_lead_nowhere_keep_their_password(tmp_path, url, match):
    message = refused(url, match, clips=tmp_path)
    assert "hunter2" not in message


def test_postgresql_says_what_is_wrong(postgresql, tmp_path):
    refused(postgresql.url(), "give clips=")
    wrong = postgresql.url().replace(postgresql.password, "wrong-password")
    message = refused(wrong, "password authentication failed.*see that", clips=tmp_path)
    assert "wrong-password" not in message
    message = refused(postgresql.url().replace("/postgres?", "/nowhere?"), "does not exist", clips=tmp_path)
    assert postgresql.password not in message
    with postgresql.connect() as connection:
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
        connection.execute("CREATE SCHEMA closed")
    guest = postgresql.url("closed").replace(f"rewardsmith:{postgresql.password}", "guest:guest")
    refused(guest, "permission denied|no schema", clips=tmp_path)


def test_without_psycopg_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    refused("postgresql://ann@127.0.0.1/db", r'pip install "rewardsmith\[postgresql\]"', clips=tmp_path)


def test_a_lost_connection_is_one_line_and_is_mended(place):
    if place.server is None:
        pytest.skip("a file has no connection to lose")
    with place.open() as store:
        (question,) = ask(store)
        (ann,) = let_in(store, "Ann")
        store.take(ann)
        me = "application_name = '' AND pid <> pg_backend_pid()"
        place.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {me}")
        assert store.answer(question, ann, Answer.LEFT, request=new()).sequence == 1


def test_what_starts_slowly_or_may_be_missing_is_imported_late():
    for path in Path(schema.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            first = {name.split(".")[0] for name in names}
            assert not first & {"jax", "polars", "minari", "psycopg"}, path
