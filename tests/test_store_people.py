"""Labellers, their secrets, and what is kept beside answers."""

import pytest

from rewardsmith import InputError
from rewardsmith.preferences.store import NotYours, Role
from tests.store_databases import Store, answer, ask, let_in, new, taken

pytest_plugins = "tests.store_databases"


@pytest.fixture
def store(place):
    with place.open() as opened:
        yield opened


def everything(place):
    """All text in the database."""
    tables = ["labellers", "sessions", "answers", "audit", "settings", "empty_undos"]
    return " ".join(str(place.execute(f"SELECT * FROM {table}")) for table in tables)


def test_a_token_is_its_bearer_and_is_not_kept(place, store):
    token = store.add_labeller("Ann")
    owner = store.add_labeller("Olga", Role.OWNER)
    assert len(token) == 43 and token != owner
    ann = store.authenticate(token)
    assert (ann.id, ann.name, ann.role, ann.active) == (1, "Ann", Role.LABELLER, True)
    assert store.authenticate(owner).role is Role.OWNER
    assert store.labellers() == [ann, store.authenticate(owner)]
    session = store.begin_session(ann.id, 60.0)
    assert len(session) == 43
    kept = everything(place)
    assert "Ann" in kept and token not in kept and owner not in kept and session not in kept


@pytest.mark.parametrize("forged", ["", "x", "A" * 43, "é\x00\ud800", "A" * 10_000_000, "' OR 1=1 --"])
def test_forged_secrets_are_nobodys(store, forged):
    token = store.add_labeller("Ann")
    store.begin_session(1, 60.0)
    for secret in (forged, token[:-1], token + "A", token.swapcase()):
        assert store.authenticate(secret) is None
        assert store.session(secret) is None
        store.end_session(secret)


def test_a_long_secret_is_not_taken_for_its_beginning(store):
    token = store.add_labeller("Ann")
    assert store.authenticate(token + "A" * 200) is None


def test_sessions_end(place, moved_clock):
    with place.open() as store:
        ann, bob = let_in(store, "Ann", "Bob")
        first, second = store.begin_session(ann, 10.0), store.begin_session(ann, 100.0)
        other = store.begin_session(bob, 100.0)
        assert store.session(first).id == ann and store.session(other).id == bob
        store.end_session(second)
        assert store.session(second) is None and store.session(first) is not None
        moved_clock.seconds += 10
        assert store.session(first) is None
    with place.open() as store:
        assert store.session(other).id == bob


def test_revoking_shuts_the_door_and_keeps_the_answers(store):
    ask(store, 3)
    token = store.add_labeller("Ann")
    ann, (bob,) = store.authenticate(token).id, let_in(store, "Bob")
    session = store.begin_session(ann, 60.0)
    store.take(ann, count=2)
    answer(store, 3, ann)
    store.revoke("Ann")
    assert store.authenticate(token) is None and store.session(session) is None
    assert taken(store, bob, 9) == [2, 1]
    with pytest.raises(NotYours):
        answer(store, 2, ann)
    for refused in (
        lambda: store.take(ann),
        lambda: store.undo(ann, request=new()),
        lambda: store.begin_session(ann, 1.0),
    ):
        with pytest.raises(InputError, match="no labeller 1 may answer"):
            refused()
    assert len(store.records()) == 1
    again = store.add_labeller("Ann")
    assert again != token and store.authenticate(again).id == ann


@pytest.mark.parametrize("name", ["Ann", "Zoë O'Neil-1", "आभा", "李明", "a.b_c@d+e", "Ann  Lee"])
def test_names_of_people_are_names(store, name):
    assert store.authenticate(store.add_labeller(f" {name} ")).name == name
    with pytest.raises(InputError, match="already"):
        store.add_labeller(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "<script>alert(1)</script>",
        "a\nb",
        "a\x00",
        "\ud800",
        "a" * 81,
        "a" * 10_000_000,
        "../a",
        "a;b",
    ],
)
def test_other_names_are_refused(store, name):
    for refused in (store.add_labeller, store.revoke):
        with pytest.raises(InputError) as caught:
            refused(name)
        assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
    assert store.labellers() == []


def test_unknown_people_are_refused(store):
    ask(store)
    for unknown in (1, 0, -1, 2**63):
        with pytest.raises(InputError):
            store.take(unknown)
    with pytest.raises(InputError, match="no labeller 'Zoe'"):
        store.revoke("Zoe")


def test_settings(store):
    assert store.get_setting("instruction") == "" and store.get_setting("instruction", "Choose") == "Choose"
    for text in ("Choose\nthe faster", "", "x" * 10_000):
        store.set_setting("instruction", text)
        assert store.get_setting("instruction") == text
    for name, value in [("n" * 101, ""), ("n", "x" * 10_001), ("n", "\x00"), ("n\n", "")]:
        with pytest.raises(InputError):
            store.set_setting(name, value)


def test_predictions_stay_as_they_were_first(store):
    ask(store, 2)
    store.predict({1: 0.25, 2: 1.0}, step=5)
    store.predict({1: 0.75}, step=5)
    store.predict({1: 0.5}, step=9)
    assert store.predictions() == [(1, 5, 0.25), (1, 9, 0.5), (2, 5, 1.0)]
    for wrong in ({3: 0.5}, {2: 0.5, 1: 1.5}, {2: float("nan")}):
        with pytest.raises(InputError):
            store.predict(wrong, step=20)
    assert len(store.predictions()) == 3


def test_the_audit_log(store):
    (ann,) = let_in(store, "Ann")
    store.audit("sign in", labeller=ann)
    store.audit("refused", detail="a\nb\x00c<script>" + "x" * 1000)
    first, second = store.audit_log()
    assert (first.sequence, first.event, first.labeller, first.detail) == (1, "sign in", ann, "")
    assert second.detail.startswith("a?b?c<script>xx") and len(second.detail) == 500
    assert store.audit_log(after=1) == [second] and store.audit_log(limit=1) == [first]
    with pytest.raises(InputError):
        store.audit("e" * 101)


def test_one_person_may_use_two_stores(place, tmp_path):
    with place.open() as store, Store.open(tmp_path / "other") as other:
        tokens = store.add_labeller("Ann"), other.add_labeller("Ann")
        assert other.authenticate(tokens[0]) is None and store.authenticate(tokens[1]) is None
