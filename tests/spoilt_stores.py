"""A store that has everything, copies of it to spoil, and what must hold of them after.

Its helpers are imported before pytest sees a plug-in here: PYTEST_DONT_REWRITE.
"""

import contextlib
import shutil
import tempfile
import uuid
from pathlib import Path

import jaxtyping
import pytest

from rewardsmith.preferences.store import Role, Store, database, export_parquet
from tests.test_store_exchange import fill

MEMORY = Path("/dev/shm")

VALUES = [None, 0, -1, 7, 2**40, 2**63 - 1, -(2**63), 1.5, float("inf"), "", "abc", "é", b"", b"\xff\xfe"]
VALUES += ["left", "owner", "0" * 64, "../../x", "a" * 3000, str(uuid.uuid4())]


@pytest.fixture(scope="module")
def as_users_have_it():
    """The tests' own checks of types would refuse much of this before the package sees it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    wait, database._WAIT_SECONDS = database._WAIT_SECONDS, 2.0
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    database._WAIT_SECONDS = wait


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder with all that a store may hold, what signs in there, and an export of it."""
    folder = tmp_path_factory.mktemp("good")
    with Store.open(folder / "store") as store:
        fill(store)
        store.ask([(store.question(1).first, store.question(1).second)] * 4)
        store.set_setting("instruction", "which runs faster?")
        store.predict({1: 0.5, 2: 0.1}, step=3)
        store.audit("something", labeller=1, detail="once")
        store.session_of = store.begin_session(1, 100.0), store.add_labeller("Cid", Role.OWNER)
        store.take(2, count=2)
        export_parquet(store, folder / "answers.parquet", films=True)
        return folder, *store.session_of


@contextlib.contextmanager
def copied(folder):
    """A copy of a store's folder that may be spoilt."""
    place = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    try:
        shutil.copytree(folder, place / "store")
        yield place / "store"
    finally:
        shutil.rmtree(place)


def everything(store):
    """All that is in a store, which must be readable whatever was asked of it."""
    lists = store.records(), store.labellers(), store.open_questions(), store.predictions()
    settings = store.get_setting("instruction")
    return (*lists, store.counts(), settings, sorted(path.name for path in store.clips_folder.iterdir()))
