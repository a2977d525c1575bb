"""Answers that are held out train nothing: stores that differ in them alone leave the same run, bit for bit.
More stores with REWARDSMITH_FUZZ=1."""

import itertools
import uuid

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as drawing
from safetensors.numpy import load_file

from rewardsmith.preferences.store import Answer, Store
from rewardsmith.runs import people
from rewardsmith.runs.attribution.run import Options, influence_of_run
from rewardsmith.runs.train import resume, train
from tests.fuzzing import LONG as FUZZ
from tests.left_behind import differing, shared_programs
from tests.small_runs import killed_at, measured, settings

pytestmark = pytest.mark.usefixtures("compile_quickly")
ASKING = {
    "env": "Pendulum-v1", "method": "drlhf", "teacher": "human", "comparisons": 36, "max_waiting": 12,
    "held_out": 0.4, "answer_wait": 0.0, "answer_deadline": 1e-6, "fallback_teacher": "oracle",
    "steps": 400, "learning_starts": 120, "hidden": (8,), "leader_steps": 2, "leader_warmup_steps": 4,
    "snapshot_every": None, "checkpoint_every": 160,
}  # fmt: skip
NAMES = "Ann", "Bob"
# What answers held out may change: how the reward is judged.
JUDGED = {"metrics.parquet held_out_accuracy", "metrics.parquet preference_accuracy"}


class Film:
    """Stands for a filmer; what people see does not matter here."""

    def __init__(self, *_, **__):
        pass

    def film(self, starts, actions, path):
        path.write_bytes(b"film")

    def close(self):
        pass


class Crowd:
    """Answers whatever is asked, at once, as drawn for each question and person; takes some of it back.

    Every fifth question is left to the fallback.

    Args:
        trained: seed of the answers that train.
        held_out: of those that do not.
        flipped: one of the first, the other way round.
    """

    def __init__(self, trained, held_out, flipped=None):
        self.seeds, self.flipped, self.aside = {False: trained, True: held_out}, flipped, set()

    def says(self, question, who, turn):
        rng = np.random.default_rng((self.seeds[question.held_out], question.id, who, turn))
        answer = rng.choice([Answer.LEFT, Answer.RIGHT] * 3 + [Answer.EQUAL, Answer.CANNOT_TELL])
        if question.id == self.flipped:
            return {Answer.LEFT: Answer.RIGHT}.get(answer, Answer.LEFT)
        return Answer(answer)

    def answer(self, store):
        known = {one.name: one.id for one in store.labellers()}
        for name in NAMES:
            if name not in known:
                known[name] = store.authenticate(store.add_labeller(name)).id
        for who in known.values():
            for taken in reversed(store.take(who, count=100)):
                question = taken.question
                if question.held_out:
                    self.aside.add(question.id)
                if question.id % 5 == 0:
                    continue
                for turn in range(2 if question.id % 4 == 0 else 1):
                    if turn:
                        assert store.undo(who, request=str(uuid.uuid4())).undoes
                    store.answer(question.id, who, self.says(question, who, turn), request=str(uuid.uuid4()))


@pytest.fixture(scope="module", autouse=True)
def programs():
    with shared_programs():
        yield


@pytest.fixture
def crowd(monkeypatch):
    """A list whose last member answers whatever a run asks."""
    crowds, post = [], people.PeoplesDesk._post

    def posted(self, collector, moment):
        post(self, collector, moment)
        crowds[-1].answer(self._store)

    monkeypatch.setattr(people, "ClipFilmer", Film)
    monkeypatch.setattr(people.PeoplesDesk, "_post", posted)
    return crowds


@pytest.mark.parametrize(
    "changes",
    [{"overlap": 2}, {"method": "sobirl"}, {"selection": "influence"}][: 3 if FUZZ else 1],
    ids=lambda changes: next(iter(changes)),
)
def test_answers_that_are_held_out_train_nothing(tmp_path, crowd, changes):
    config, count = settings(**ASKING | changes), itertools.count()
    crowd.append(Crowd(0, 0))
    plain = train(config, tmp_path / "plain")
    assert len(crowd[0].aside) > 5

    @drawing(
        max_examples=max(2, round(25 * FUZZ)),
        phases=[Phase.generate],
        deadline=None,
        database=None,
        derandomize=not FUZZ,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(1, 2**32), st.none() | st.integers(40, 99))
    def others(seed, stop):
        crowd.append(Crowd(0, seed))
        out = tmp_path / str(next(count))
        if stop is not None:
            with killed_at(4 * stop):
                train(config, out)
        other = train(config, out) if stop is None else resume(out)
        assert differing(plain, other) <= JUDGED
        assert (
            measured(plain)["held_out_accuracy"].to_list() != measured(other)["held_out_accuracy"].to_list()
        )

    others()
    # One answer that is not held out is enough.
    first = min({1, 2, 3, 4, 6, 7, 8} - crowd[0].aside)
    crowd.append(Crowd(0, 0, flipped=first))
    found = differing(plain, train(config, tmp_path / "flipped"))
    assert all(any(part in name for name in found) for part in ("follower", "leader", "queue"))


def test_a_store_that_starts_another_run_keeps_them_out(tmp_path, crowd):
    runs = []
    for seed in (0, 1):
        crowd.append(Crowd(0, seed))
        train(settings(**ASKING), tmp_path / f"first-{seed}")
        store = str(tmp_path / f"first-{seed}" / "answers")
        runs.append(train(settings(**ASKING, store=store, seed=7), tmp_path / f"second-{seed}"))
    assert differing(*runs) <= JUDGED | {"config.json"}
    # From the first session on it has learned from all that the other run was told.
    with Store.open(tmp_path / "first-0" / "answers") as store:
        told = {r.sequence for r in store.records() if not r.held_out and r.asked_by.startswith("first-0")}
    (used,) = (a for n, a in load_file(runs[0].checkpoints()[-1]).items() if n.endswith("['record']"))
    assert len(told & set(used.tolist())) > 5


def test_influence_reads_them_and_trains_nothing(tmp_path, crowd):
    tables = []
    for seed in (0, 1):
        crowd.append(Crowd(0, seed))
        folder = train(settings(**ASKING), tmp_path / str(seed))
        before = {path: path.read_bytes() for path in folder.path.rglob("*.safetensors")}
        out = influence_of_run(folder.path, Options(fit_steps=5, polish=5, folds=2))
        assert before == {path: path.read_bytes() for path in folder.path.rglob("*.safetensors")}
        tables.append(pl.read_parquet(out).sort("comparison"))
    names = [name for name in tables[0].columns if not tables[0][name].equals(tables[1][name])]
    # Onto the answers held out, which are others.
    assert names == ["influence"]
