"""Random histories of lending and answering, against a model of forty lines."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rewardsmith.preferences.store import Answer, NotYours, Store, clock
from tests.store_databases import Clock, add_clips, let_in, new

PEOPLE = st.integers(1, 3)
LEASE = 10.0
# Answers are safe on a disk; this one is only quicker.
MEMORY = Path("/dev/shm")


class Lending(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.real, clock.now = clock.now, self.clock
        self.folder = tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None)
        self.store = Store.open(Path(self.folder), lease_seconds=LEASE)
        self.pair = tuple(add_clips(self.store, 2))
        let_in(self.store, "Ann", "Bob", "Cid")
        self.overlap, self.withdrawn, self.lent, self.standing, self.log = {}, set(), {}, {}, []

    def teardown(self):
        clock.now = self.real
        self.store.close()
        shutil.rmtree(self.folder)

    def wanted(self, question):
        return self.overlap[question] - sum(one == question for one, _ in self.standing)

    def is_open(self, question):
        return question not in self.withdrawn and self.wanted(question) > 0

    def live(self, key):
        return key in self.lent and -LEASE <= self.clock.seconds - self.lent[key] < LEASE

    @rule(overlap=st.integers(1, 2), count=st.integers(1, 3))
    def ask(self, overlap, count):
        for number in self.store.ask([self.pair] * count, overlap=overlap):
            self.overlap[number] = overlap

    @rule(labeller=PEOPLE, count=st.integers(1, 3))
    def take(self, labeller, count):
        newest = sorted(self.overlap, reverse=True)
        held = [number for number in newest if (number, labeller) in self.lent]
        free = [number for number in newest if self.has_place_for(number, labeller)]
        expected = (held + free)[:count] if len(held) < count else held[:count]
        taken = self.store.take(labeller, count=count)
        assert [one.question.id for one in taken] == expected
        for number in expected:
            mine = (number, labeller)
            others = sorted((at, key) for key, at in self.lent.items() if key[0] == number and key != mine)
            while len(others) + 1 > self.wanted(number):
                over = next(key for _, key in others if not self.live(key))
                others = [other for other in others if other[1] != over]
                del self.lent[over]
            self.lent[mine] = self.clock.seconds

    def has_place_for(self, number, labeller):
        live = sum(self.live((number, one)) for one in (1, 2, 3))
        mine = (number, labeller)
        return (
            self.is_open(number)
            and live < self.wanted(number)
            and mine not in self.lent
            and mine not in self.standing
        )

    @precondition(lambda self: self.overlap)
    @rule(labeller=PEOPLE, back=st.integers(0, 4), answer=st.sampled_from(Answer))
    def answer(self, labeller, back, answer):
        number = max(len(self.overlap) - back, 1)
        if (number, labeller) not in self.lent:
            with pytest.raises(NotYours):
                self.store.answer(number, labeller, answer, request=new())
            return
        request = new()
        line = self.store.answer(number, labeller, answer, request=request)
        assert line == self.store.answer(number, labeller, answer, request=request)
        self.log.append((number, labeller, answer, None))
        self.standing[number, labeller] = len(self.log)
        del self.lent[number, labeller]

    @rule(labeller=PEOPLE)
    def undo(self, labeller):
        last = max((line for (_, one), line in self.standing.items() if one == labeller), default=None)
        line = self.store.undo(labeller, request=new())
        if last is None:
            assert line is None
            return
        number = self.log[last - 1][0]
        self.log.append((number, labeller, None, last))
        del self.standing[number, labeller]
        if number not in self.withdrawn:
            self.lent[number, labeller] = self.clock.seconds

    @rule(labeller=PEOPLE)
    def release(self, labeller):
        self.store.release(labeller)
        self.lent = {key: at for key, at in self.lent.items() if key[1] != labeller}

    @precondition(lambda self: self.overlap)
    @rule(back=st.integers(0, 4))
    def withdraw(self, back):
        number = max(len(self.overlap) - back, 1)
        assert self.store.withdraw([number]) == [number] * self.is_open(number)
        if self.is_open(number):
            self.withdrawn.add(number)
            self.lent = {key: at for key, at in self.lent.items() if key[0] != number}

    @rule(seconds=st.sampled_from([1.0, LEASE, 3 * LEASE, -1.0, -LEASE - 1, -1e6]))
    def time_passes(self, seconds):
        self.clock.seconds += seconds

    @rule()
    def open_again(self):
        self.store.close()
        self.store = Store.open(Path(self.folder), create=False, lease_seconds=LEASE)

    @invariant()
    def the_store_is_as_the_model(self):
        found = [(one.question, one.labeller, one.answer, one.undoes) for one in self.store.records()]
        assert found == self.log
        counts, numbers = self.store.counts(), list(self.overlap)
        wanting = [number for number in numbers if self.is_open(number)]
        assert counts.open == len(wanting) == len(self.store.open_questions())
        assert counts.taken == sum(any(self.live((one, who)) for who in (1, 2, 3)) for one in wanting)
        assert counts.answered == sum(self.wanted(number) <= 0 for number in numbers)
        assert counts.answers == len(self.standing)
        assert counts.open + counts.answered + counts.withdrawn == len(numbers)
        for number in numbers:
            assert sum(key[0] == number for key in self.lent) <= max(self.wanted(number), 0)


def test_random_histories():
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run = settings(
        max_examples=15, stateful_step_count=30, deadline=None, database=None, suppress_health_check=checks
    )
    run_state_machine_as_test(Lending, settings=run)
