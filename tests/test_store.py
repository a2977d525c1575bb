"""Asking, lending, answering and taking back: what a store promises, in either database."""

import math
from datetime import UTC, datetime

import pytest

from rewardsmith import InputError
from rewardsmith.preferences.store import Answer, Counts, NotYours, Record
from tests.store_databases import add_clips, answer, ask, let_in, new, taken

pytest_plugins = "tests.store_databases"


@pytest.fixture
def store(place):
    with place.open() as opened:
        yield opened


def test_questions_are_as_they_were_asked(store):
    a, b, c, d = add_clips(store, 4)
    numbers = store.ask([(a, b), (c, d)], asked_by="cheetah@12", step=12, overlap=2, held_out=[False, True])
    assert numbers == [1, 2]
    second = store.question(2)
    assert (second.first, second.second, second.held_out) == (c, d, True)
    assert (second.asked_by, second.step, second.overlap, second.withdrawn) == ("cheetah@12", 12, 2, False)
    assert abs((second.asked_at - datetime.now(UTC)).total_seconds()) < 60
    assert [one.id for one in store.open_questions()] == [1, 2]
    assert store.ask([]) == []


def test_newest_question_first_and_held_ones_before(store):
    ask(store, 3)
    (ann,) = let_in(store, "Ann")
    assert taken(store, ann) == [3]
    ask(store, 1)
    assert taken(store, ann, 2) == [3, 4]
    assert taken(store, ann, 9) == [4, 3, 2, 1]
    assert store.counts() == Counts(open=4, taken=4, answered=0, withdrawn=0, answers=0)


def test_a_record_holds_what_was_said(store, moved_clock):
    question, _ = ask(store, 2, asked_by="m@1", step=7, held_out=[True, False])
    (ann,) = let_in(store, "Ann")
    store.take(ann, count=2)
    moved_clock.seconds += 1.5
    record = answer(store, question, ann, Answer.CANNOT_TELL, response_seconds=1.25)
    at = datetime.fromtimestamp(moved_clock.seconds, UTC)
    assert record == Record(1, question, ann, Answer.CANNOT_TELL, None, at, 1.25, "m@1", 7, True)
    other = answer(store, 2, ann, Answer.EQUAL)
    assert (other.sequence, other.response_seconds, other.held_out) == (2, None, False)
    assert store.records() == [record, other]
    assert store.records(after=1) == [other] and store.records(limit=1) == [record]
    assert store.counts() == Counts(open=0, taken=0, answered=2, withdrawn=0, answers=2)


def test_two_labellers_never_hold_the_same_question(store):
    ask(store, 3)
    ann, bob = let_in(store, "Ann", "Bob")
    assert taken(store, ann, 2) == [3, 2]
    assert taken(store, bob, 2) == [1]
    answer(store, 3, ann)
    assert taken(store, bob, 9) == [1]


@pytest.mark.parametrize("overlap", [2, 3])
def test_overlap_counts_answers_and_leases(store, overlap):
    (question,) = ask(store, overlap=overlap)
    people = let_in(store, "Ann", "Bob", "Cid", "Dan")
    answer(store, *taken(store, people[0]), people[0])
    assert taken(store, people[0]) == []
    got = [taken(store, labeller) for labeller in people[1:]]
    assert got == [[question]] * (overlap - 1) + [[]] * (4 - overlap)
    for labeller in people[1:overlap]:
        answer(store, question, labeller)
    assert store.counts() == Counts(0, 0, 1, 0, overlap)


def test_an_abandoned_question_returns_after_a_time_out(place, moved_clock):
    with place.open(lease_seconds=10.0) as store:
        (question,) = ask(store)
        ann, bob = let_in(store, "Ann", "Bob")
        assert taken(store, ann) == [question]
        moved_clock.seconds += 9.9
        assert taken(store, bob) == []
        moved_clock.seconds += 0.2
        assert store.counts().taken == 0
        assert taken(store, bob) == [question]
        with pytest.raises(NotYours, match="lent to another"):
            answer(store, question, ann)
        answer(store, question, bob)
        with pytest.raises(NotYours):
            answer(store, question, ann)
        assert [one.labeller for one in store.records()] == [bob]


def test_an_expired_lease_counts_until_another_has_the_question(place, moved_clock):
    with place.open(lease_seconds=10.0) as store:
        (question,) = ask(store)
        (ann,) = let_in(store, "Ann")
        store.take(ann)
        moved_clock.seconds += 1e6
        assert answer(store, question, ann).answer is Answer.LEFT


def test_taking_again_renews_the_lease(place, moved_clock):
    with place.open(lease_seconds=10.0) as store:
        (question,) = ask(store)
        ann, bob = let_in(store, "Ann", "Bob")
        store.take(ann)
        moved_clock.seconds += 9
        (renewed,) = store.take(ann)
        assert renewed.expires.timestamp() == moved_clock.seconds + 10
        moved_clock.seconds += 9
        assert taken(store, bob) == []


def test_a_clock_put_back_lends_nothing_twice_and_keeps_nothing_for_ever(place, moved_clock):
    with place.open(lease_seconds=10.0) as store:
        ask(store, 2)
        ann, bob = let_in(store, "Ann", "Bob")
        assert taken(store, ann) == [2]
        moved_clock.seconds += 11
        assert taken(store, bob) == [2]
        # Ann's first lease would be running again.
        moved_clock.seconds -= 5
        assert taken(store, ann, 2) == [1]
        with pytest.raises(NotYours):
            answer(store, 2, ann)
        # Leases of a day that has not come yet hold nobody up.
        moved_clock.seconds -= 86400
        (cid,) = let_in(store, "Cid")
        assert taken(store, cid, 2) == [2, 1]
        assert store.counts().taken == 2


def test_releasing_gives_back(store):
    ask(store, 2)
    ann, bob = let_in(store, "Ann", "Bob")
    store.take(ann, count=2)
    store.release(ann)
    assert taken(store, bob, 2) == [2, 1]
    with pytest.raises(NotYours):
        answer(store, 2, ann)


def test_the_same_request_is_one_answer(store):
    ask(store, 2)
    ann, bob = let_in(store, "Ann", "Bob")
    store.take(ann, count=2)
    request = new()
    first = answer(store, 2, ann, request=request, response_seconds=0.1)
    assert answer(store, 2, ann, request=request, response_seconds=0.1) == first
    for question, labeller, said, seconds in [
        (1, ann, Answer.LEFT, 0.1),
        (2, bob, Answer.LEFT, 0.1),
        (2, ann, Answer.RIGHT, 0.1),
        (2, ann, Answer.LEFT, 0.2),
    ]:
        with pytest.raises(InputError, match="other contents"):
            answer(store, question, labeller, said, request=request, response_seconds=seconds)
    with pytest.raises(InputError, match="other contents"):
        store.undo(ann, request=request)
    store.revoke("Ann")
    assert answer(store, 2, ann, request=request, response_seconds=0.1) == first
    assert store.records() == [first]


def test_undo_adds_a_line_and_lends_again(store):
    ask(store, 2)
    ann, bob = let_in(store, "Ann", "Bob")
    store.take(ann, count=2)
    answer(store, 1, ann)
    second = answer(store, 2, ann, Answer.RIGHT)
    request = new()
    undone = store.undo(ann, request=request)
    assert (undone.question, undone.answer, undone.undoes) == (2, None, second.sequence)
    assert store.undo(ann, request=request) == undone
    assert taken(store, bob, 2) == [] and store.counts() == Counts(1, 1, 1, 0, 1)
    again = answer(store, 2, ann, Answer.EQUAL)
    assert [store.undo(ann, request=new()).undoes for _ in range(2)] == [again.sequence, 1]
    assert store.undo(ann, request=new()) is None
    assert store.undo(bob, request=new()) is None
    assert [one.sequence for one in store.records()] == [1, 2, 3, 4, 5, 6]
    assert store.counts() == Counts(2, 2, 0, 0, 0)


def test_an_undo_that_found_nothing_takes_nothing_back_when_it_is_sent_again(store):
    ask(store)
    ann, bob = let_in(store, "Ann", "Bob")
    request = new()
    assert store.undo(ann, request=request) is None
    store.take(ann)
    answer(store, 1, ann)
    assert store.undo(ann, request=request) is None
    with pytest.raises(InputError, match="other contents"):
        store.undo(bob, request=request)
    assert len(store.records()) == 1


def test_an_undone_place_is_not_given_away(store):
    (question,) = ask(store, overlap=2)
    ann, bob, cid = let_in(store, "Ann", "Bob", "Cid")
    for labeller in (ann, bob):
        store.take(labeller)
    answer(store, question, ann)
    store.undo(ann, request=new())
    assert taken(store, cid) == []
    answer(store, question, bob)
    answer(store, question, ann)


def test_withdrawn_questions_are_asked_no_more(store):
    ask(store, 3)
    ann, bob = let_in(store, "Ann", "Bob")
    store.take(ann, count=2)
    answer(store, 3, ann)
    assert store.withdraw([2, 1, 3, 99, 2]) == [2, 1]
    assert store.withdraw([1]) == []
    assert taken(store, bob, 3) == []
    with pytest.raises(NotYours, match="withdrawn"):
        answer(store, 2, ann)
    assert store.question(1).withdrawn and not store.question(3).withdrawn
    assert store.counts() == Counts(0, 0, 1, 2, 1)


def test_an_undo_does_not_revive_a_withdrawn_question(store):
    (question,) = ask(store, overlap=2)
    (ann,) = let_in(store, "Ann")
    store.take(ann)
    answer(store, question, ann)
    assert store.withdraw([question]) == [question]
    assert store.undo(ann, request=new()).undoes == 1
    assert taken(store, ann) == []
    assert store.counts() == Counts(0, 0, 0, 1, 0)


def test_a_question_is_answered_once_by_each(store):
    (question,) = ask(store, overlap=5)
    (ann,) = let_in(store, "Ann")
    store.take(ann)
    answer(store, question, ann)
    with pytest.raises(NotYours):
        answer(store, question, ann)
    assert len(store.records()) == 1


@pytest.mark.parametrize("table", ["answers", "audit", "predictions"])
def test_the_database_itself_guards_the_logs(place, table):
    with place.open() as store:
        (question,) = ask(store)
        (ann,) = let_in(store, "Ann")
        store.take(ann)
        answer(store, question, ann)
        store.audit("sign in")
        store.predict({question: 0.5}, step=1)
    before = place.execute(f"SELECT * FROM {table}")
    changes = [f"DELETE FROM {table}"]
    column = {"answers": "response_seconds", "audit": "at", "predictions": "probability"}[table]
    changes += [f"UPDATE {table} SET {column} = 1"]
    sqlite = place.server is None
    changes += (
        [f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}"] if sqlite else [f"TRUNCATE {table} CASCADE"]
    )
    for change in changes:
        with pytest.raises(Exception, match="lines are added, never changed or removed"):
            place.execute(change)
    assert place.execute(f"SELECT * FROM {table}") == before and len(before) == 1


def test_held_out_and_labels(store):
    ask(store, 2, held_out=[True, False])
    (ann,) = let_in(store, "Ann")
    store.take(ann, count=2)
    for question, said in [(1, Answer.RIGHT), (2, Answer.CANNOT_TELL)]:
        answer(store, question, ann, said)
    records = store.records()
    assert [one.held_out for one in records] == [True, False]
    assert records[0].answer.label == 0.0 and math.isnan(records[1].answer.label)


def test_everything_is_there_when_it_is_opened_again(place):
    with place.open() as store:
        ask(store, 2)
        (ann,) = let_in(store, "Ann")
        store.take(ann, count=2)
        answer(store, 2, ann)
        store.undo(ann, request=new())
        answer(store, 2, ann)
        before = store.records(), store.counts(), store.open_questions(), store.labellers()
        store.clip(store.question(1).first)
    with place.open(create=False) as store:
        assert (store.records(), store.counts(), store.open_questions(), store.labellers()) == before
        assert answer(store, 1, ann).sequence == 4
