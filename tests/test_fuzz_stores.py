"""Stores that are damaged, and stores that are asked anything: refused by one line, left as they were."""

import contextlib
import shutil
import sqlite3
import tempfile
import uuid
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardsmith.preferences.store import Answer, Role, Store, export_parquet, import_parquet
from rewardsmith.runs.labels import open_for_labels
from tests.fuzzing import digest, examples, refused, spoilt_bytes
from tests.spoilt_stores import MEMORY, VALUES, copied, everything
from tests.store_databases import new, some_arrays

pytest_plugins = "tests.spoilt_stores"
pytestmark = pytest.mark.usefixtures("as_users_have_it")
FILE = "answers.sqlite"
PAGE = 4096


class Odd:
    """An object that is nothing."""

    __hash__ = None  # pyright: ignore


TEXTS = [
    "",
    "a",
    "1",
    "\ud800",
    "\x00",
    "a\nb",
    "x" * 5000,
    "Ann",
    "é",
    "\u202e",
    "left",
    "../" * 10,
    "0" * 64,
]
TEXTS += ["A" * 64, str(uuid.uuid4()), "' OR 1=1 --", "owner", "truereward", "/etc/passwd"]
NUMBERS = [0, 1, 2, -1, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64, 10**400, 0.0, -0.0, 0.5, 1.5, 1e-320]
NUMBERS += [1e300, float("nan"), float("inf"), -float("inf"), 1j, True, False]
NUMBERS += [np.int64(1), np.uint64(2**63), np.float32(1), np.float64("nan"), np.bool_(True)]
OBJECTS = [None, b"", b"left", b"\xff", bytearray(b"a"), (), object(), len, int, range(3), ..., Path("x")]
OBJECTS += [Answer.LEFT, Role.OWNER, datetime.now(UTC), frozenset([1])]
MUTABLE = [[], [1], {}, {1: 0.5}, {"a": 1}, {1}, Odd(), [("0" * 64, "0" * 64)], [(1, 2)], ["ab"], [[[]]]]
MUTABLE += [np.array(1), np.array([1, 2]), np.zeros(0), np.array(["a"]), np.array([1], object)]
MUTABLE += [np.zeros((2, 2), [("a", "f4")]), np.array(["2020"], "M8[s]")]
HASHABLE = st.sampled_from([*TEXTS, *NUMBERS, *OBJECTS])
ODD = HASHABLE | st.sampled_from(MUTABLE) | st.text(max_size=20) | st.integers() | st.floats()


class Calls:
    """What may be asked of a store, each with arguments of which any may be odd."""

    def __init__(self, store, draw):
        self.store, self.draw = store, draw
        self.clips = [store.question(1).first, store.question(1).second]

    def mostly(self, value, odd=ODD):
        return self.draw(odd) if self.draw(st.integers(0, 2)) == 0 else value

    def add_clip(self):
        name = self.mostly("observations", HASHABLE)
        arrays = self.mostly({name: self.mostly(np.zeros((3, 2), np.float32))})
        film = self.draw(st.sampled_from([None, None, lambda path: path.write_bytes(b""), "x", 3]))
        return self.store.add_clip(arrays, env=self.mostly("cheetah"), length=self.mostly(3), film=film)

    def clip(self):
        return self.store.load_clip(self.mostly(self.clips[0]))

    def ask(self):
        pair = self.mostly((self.mostly(self.clips[0]), self.mostly(self.clips[1])))
        more = {"asked_by": self.mostly("m"), "step": self.mostly(1), "overlap": self.mostly(1)}
        return self.store.ask(self.mostly([pair]), held_out=self.mostly([self.mostly(True)]), **more)

    def withdraw(self):
        return self.store.withdraw(self.mostly([self.mostly(4)]))

    def question(self):
        return self.store.question(self.mostly(1))

    def take(self):
        return self.store.take(self.mostly(1), count=self.mostly(1))

    def release(self):
        return self.store.release(self.mostly(1))

    def answer(self):
        who = (self.mostly(3), self.mostly(1), self.mostly(Answer.LEFT))
        return self.store.answer(*who, response_seconds=self.mostly(1.0), request=self.mostly(new()))

    def undo(self):
        return self.store.undo(self.mostly(1), request=self.mostly(new()))

    def records(self):
        return self.store.records(self.mostly(0), self.mostly(3))

    def add_labeller(self):
        return self.store.add_labeller(self.mostly("Dan"), self.mostly(Role.LABELLER))

    def authenticate(self):
        return self.store.authenticate(self.mostly("x" * 43))

    def revoke(self):
        return self.store.revoke(self.mostly("Bob O'Neil"))

    def begin_session(self):
        return self.store.begin_session(self.mostly(1), self.mostly(3.0))

    def session(self):
        return self.store.session(self.mostly("x" * 43))

    def end_session(self):
        return self.store.end_session(self.mostly("x" * 43))

    def get_setting(self):
        return self.store.get_setting(self.mostly("instruction"))

    def set_setting(self):
        return self.store.set_setting(self.mostly("instruction"), self.mostly("text"))

    def predict(self):
        found = {self.mostly(1, HASHABLE): self.mostly(0.5)}
        return self.store.predict(self.mostly(found), step=self.mostly(1))

    def audit(self):
        return self.store.audit(self.mostly("e"), labeller=self.mostly(1), detail=self.mostly("d"))

    def audit_log(self):
        return self.store.audit_log(self.mostly(0), self.mostly(3))

    def open(self):
        Store.open(self.mostly(self.store.clips_folder.parent), lease_seconds=self.mostly(3.0), create=False)


CALLS = sorted(name for name in vars(Calls) if name[0] != "_" and name != "mostly")


def test_every_method_of_a_store_is_called_with_odd_arguments():
    nothing_given = {"close", "counts", "labellers", "open_questions", "predictions", "load_clip"}
    assert {name for name in vars(Store) if name[0] != "_"} == {*CALLS, *nothing_given}


@examples(50, 1_000)
@given(st.data())
def test_a_store_is_asked_anything(good, data):
    with copied(good[0] / "store") as place, Store.open(place, create=False) as store:
        calls = Calls(store, data.draw)
        for name in data.draw(st.lists(st.sampled_from(CALLS), min_size=6, max_size=12)):
            before = everything(store)
            if refused(getattr(calls, name)) is not None:
                assert everything(store) == before, name
        everything(store)


def uses(store, session, token):
    """All that a trainer and a page do with a store."""
    yield from (store.records, store.counts, store.open_questions, store.labellers, store.predictions)
    yield from (store.audit_log, lambda: store.get_setting("instruction"))
    yield from (lambda: store.session(session), lambda: store.authenticate(token))
    yield from (
        lambda: store.load_clip(store.question(1).first),
        lambda: store.load_clip(store.question(3).second),
    )
    yield lambda: store.answer(store.take(1, count=3)[0].question.id, 1, Answer.LEFT, request=new())
    yield from (
        lambda: store.undo(1, request=new()),
        lambda: store.withdraw([1, 2, 3]),
        lambda: store.release(1),
    )
    yield lambda: store.ask([(store.question(1).first, store.question(2).second)])
    yield from (lambda: store.predict({1: 0.5}, step=4), lambda: store.audit("e", labeller=1))
    yield from (lambda: store.set_setting("instruction", "w"), lambda: store.add_labeller("Eve"))
    yield from (lambda: store.revoke("Ann"), lambda: store.begin_session(2, 3.0))
    yield lambda: store.add_clip(some_arrays(), env="c", length=3, film=None)
    yield lambda: export_parquet(store, store.clips_folder.parent / "export.parquet", films=True)
    yield lambda: import_parquet(store, store.clips_folder.parent / "export.parquet")


def use(place, session, token):
    """Every use of the store at `place` is refused or works."""

    def all_of_it():
        with Store.open(place, create=False) as store:
            for call in uses(store, session, token):
                refused(call, seconds=30.0)

    return refused(all_of_it, seconds=120.0)


@st.composite
def spoilt_databases(draw, content):
    """An SQLite file with pages exchanged or wiped, or a head or any bytes spoilt."""
    spoilt, pages = bytearray(content), len(content) // PAGE
    page = st.integers(0, pages - 1).map(lambda number: slice(number * PAGE, (number + 1) * PAGE))
    match draw(st.sampled_from(["bytes", "head", "wipe", "swap", "cut"])):
        case "bytes":
            return draw(spoilt_bytes(content))
        case "head":
            for _ in range(draw(st.integers(1, 3))):
                spoilt[draw(st.integers(0, 120))] = draw(st.integers(0, 255))
        case "wipe":
            spoilt[draw(page)] = draw(st.sampled_from([bytes(PAGE), b"\xff" * PAGE, bytes(spoilt[:PAGE])]))
        case "swap":
            one, other = draw(page), draw(page)
            spoilt[one], spoilt[other] = spoilt[other], spoilt[one]
        case _:
            del spoilt[draw(st.integers(0, len(spoilt))) :]
    return bytes(spoilt)


@examples(25, 800)
@given(st.data())
def test_a_damaged_database_is_told_in_one_line(good, data):
    with copied(good[0] / "store") as place:
        content = (place / FILE).read_bytes()
        (place / FILE).write_bytes(data.draw(spoilt_databases(content)))
        if data.draw(st.integers(0, 9)) == 0:
            (place / f"{FILE}-wal").write_bytes(data.draw(st.binary(max_size=100)))
        use(place, *good[1:])


def wrong_rows(path, draw):
    """Rows written past the store, by somebody who keeps to no rule of its tables."""
    connection = sqlite3.connect(path, isolation_level=None)
    if draw(st.booleans()):
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '') WHERE type = 'table'")
        connection.execute("PRAGMA schema_version = 999")
        connection.close()
        connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("ignore_check_constraints = ON", "foreign_keys = OFF"):
        connection.execute(f"PRAGMA {pragma}")
    for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {trigger}")
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for _ in range(draw(st.integers(1, 3))):
        table = draw(st.sampled_from(tables))
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        some = f"(SELECT rowid FROM {table} ORDER BY rowid LIMIT {draw(st.sampled_from([1, 2, 100]))})"
        column = draw(st.sampled_from(columns)) if columns else "a"
        statements = {
            "value": f'UPDATE {table} SET "{column}" = ? WHERE rowid IN {some}',
            "rows gone": f"DELETE FROM {table} WHERE rowid IN {some}",
            "table gone": f"DROP TABLE {table}",
            "column gone": f'ALTER TABLE {table} RENAME COLUMN "{column}" TO other',
        }
        what = draw(st.sampled_from(["value"] * 8 + [*statements]))
        with contextlib.suppress(sqlite3.Error):
            connection.execute(statements[what], (draw(st.sampled_from(VALUES)),) if what == "value" else ())
    connection.close()


@examples(25, 800)
@given(st.data())
def test_rows_of_wrong_kinds_are_told_in_one_line(good, data):
    with copied(good[0] / "store") as place:
        wrong_rows(place / FILE, data.draw)
        use(place, *good[1:])


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("UPDATE questions SET step = ?", "abc"),
        ("UPDATE questions SET asked_at = ?", 2**62),
        ("UPDATE labellers SET name = ?", b"\xff"),
        ("UPDATE clips SET length = ?", 1.5),
    ],
)
def test_a_wrong_value_is_named_and_gets_nowhere(good, statement, value):
    with copied(good[0] / "store") as place:
        with contextlib.closing(sqlite3.connect(place / FILE)) as connection:
            connection.execute(f"{statement} WHERE rowid = 1", (value,))
            connection.commit()
        with Store.open(place, create=False) as store:
            calls = [store.open_questions, lambda: store.question(1), store.labellers]
            calls += [
                lambda: store.clip(store.question(1).first),
                lambda: store.clip(store.question(1).second),
            ]
            said = [text for call in calls if (text := refused(call))]
            assert said and all("where there should be" in text for text in said)


@examples(15, 300)
@given(st.data())
def test_damaged_files_of_clips_are_told_in_one_line(good, data):
    with copied(good[0] / "store") as place:
        for path in sorted((place / "clips").iterdir()):
            match data.draw(st.sampled_from(["", "", "gone", "bytes", "folder", "loop"])):
                case "gone":
                    path.unlink()
                case "bytes":
                    path.write_bytes(data.draw(spoilt_bytes(path.read_bytes())))
                case "folder":
                    path.unlink()
                    path.mkdir()
                case "loop":
                    path.unlink()
                    path.symlink_to(path)
        use(place, *good[1:])


@examples(20, 500)
@given(st.data())
def test_what_is_no_store_is_refused_and_left_as_it_was(data):
    place = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    try:
        with contextlib.closing(sqlite3.connect(place / FILE)) as connection:
            for number in range(data.draw(st.integers(1, 3))):
                name = data.draw(st.sampled_from(["theirs", "clips", "answers", "audit", "users"]))
                with contextlib.suppress(sqlite3.Error):
                    connection.execute(f"CREATE TABLE {name} (a INTEGER, b{number} TEXT)")
                    connection.execute(f"INSERT INTO {name} VALUES (1, 'x')")
            connection.commit()
        if data.draw(st.booleans()):
            (place / FILE).write_bytes(data.draw(st.binary(min_size=1, max_size=2000)))
        before, create = digest(place), data.draw(st.booleans())
        assert refused(lambda: Store.open(place, create=create))
        assert digest(place) == before
    finally:
        shutil.rmtree(place)


def test_a_store_cut_to_nothing_is_no_new_store(tmp_path):
    (tmp_path / FILE).write_bytes(b"")
    text = refused(lambda: Store.open(tmp_path, create=False))
    assert text and "is empty" in text and not (tmp_path / "clips").exists()
    assert refused(lambda: open_for_labels(str(tmp_path), 1))


@examples(40, 2_000)
@given(
    st.sampled_from(TEXTS + ["postgresql://", "postgresql://a:b@[::1", "sqlite:///x", "://", "mysql://u@h/d"])
)
def test_a_place_of_any_name_is_refused(where):
    with contextlib.chdir(tempfile.mkdtemp()):
        assert refused(lambda: Store.open(where, create=False))
        refused(lambda: Store.open(where, clips=Path("clips"), create=False))
