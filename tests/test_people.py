"""Runs that ask people: a thread takes the part of a person, through the store."""

import threading
import time
import uuid

import numpy as np
import pytest
from small_runs import killed_at, measured, settings

from rewardsmith._core import InputError
from rewardsmith.preferences.store import Answer, Store
from rewardsmith.runs.collect import Collector
from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.train import resume, train
from rewardsmith.runs.training import Training

ASKING = {
    "env": "Pendulum-v1",
    "method": "drlhf",
    "teacher": "human",
    "comparisons": 12,
    "max_waiting": 4,
    "held_out": 0.25,
    "answer_wait": 4.0,
    "snapshot_every": None,
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file.*ffmpeg:ResourceWarning"),
    pytest.mark.usefixtures("compile_quickly"),
]


class Person(threading.Thread):
    """Answers whatever is open until told to stop; remembers what it said."""

    def __init__(self, folder, answers=(Answer.LEFT, Answer.RIGHT), most=10_000):
        super().__init__(daemon=True)
        self.folder, self.answers, self.most = folder, answers, most
        self.said, self.done = {}, threading.Event()

    def run(self):
        while not (self.folder / "answers.sqlite").exists():
            if self.done.wait(0.05):
                return
        with Store.open(self.folder) as store:
            token = store.add_labeller("ann")
            me = store.authenticate(token)
            assert me is not None
            while not self.done.is_set() and len(self.said) < self.most:
                for taken in store.take(me.id):
                    answer = self.answers[len(self.said) % len(self.answers)]
                    record = store.answer(
                        taken.question.id, me.id, answer, response_seconds=0.1, request=str(uuid.uuid4())
                    )
                    self.said[record.sequence] = record
                time.sleep(0.1)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join(10)
        assert not self.is_alive()


def queue_of(folder):
    training = Training([TrainConfig.from_json(folder.config)], [folder])
    training.restore()
    assert training.seats[0].collector is not None
    queue = training.seats[0].collector.queue
    order = queue._order()
    return {name: array[order].copy() for name, array in queue.arrays().items()}


def test_answers_become_comparisons_and_those_held_out_never_do(tmp_path):
    run = tmp_path / "run"
    with Person(run / "answers") as person:
        folder = train(settings(**ASKING), run)
    with Store.open(run / "answers") as store:
        records, predictions = store.records(), store.predictions()
        clip = store.clip(store.question(records[0].question).first)
        arrays = store.load_clip(clip.id)
    assert 4 <= len(records) <= 12
    queue, rows = queue_of(folder), measured(folder)
    used = {record.sequence for record in records if not record.held_out}
    aside = {record.sequence for record in records if record.held_out}
    # All but those that came behind the last session.
    assert set(queue["record"]) <= used and len(queue["record"]) >= len(used) - 4
    assert aside and not aside & set(queue["record"])
    for record, label in zip(queue["record"], queue["label"], strict=True):
        assert person.said[record].answer.label == label
    assert set(queue["labeller"]) == {1}
    assert rows["held_out_accuracy"].drop_nulls().is_between(0.0, 1.0).all()
    assert len(rows["held_out_accuracy"].drop_nulls()) > 0
    # What the model thought before it learned from an answer is on record.
    assert {question for question, _, _ in predictions} <= {record.question for record in records}
    assert all(0.0 <= p <= 1.0 for _, _, p in predictions) and predictions
    # People see a film, nets see arrays, and nobody sees the true reward.
    assert clip.film is not None and clip.film.stat().st_size > 1000
    assert not any("reward" in name for name in arrays)
    assert clip.length == 10 and arrays["actions"].shape[0] >= 10


def test_without_anyone_nothing_breaks(tmp_path):
    folder = train(settings(**ASKING | {"answer_wait": 0.2}), tmp_path / "run")
    rows = measured(folder)
    assert rows["step"].max() == 640
    assert rows.filter(kind="leader").is_empty()
    with Store.open(tmp_path / "run" / "answers") as store:
        assert store.counts().open == 4
    assert len(queue_of(folder)["record"]) == 0


def test_a_fallback_answers_what_nobody_did(tmp_path):
    changes = {"answer_wait": 0.0, "answer_deadline": 1e-3, "fallback_teacher": "oracle", "held_out": 0.0}
    changes |= {"max_waiting": 3, "leader_every": 160}
    folder = train(settings(**ASKING | changes), tmp_path / "run")
    queue = queue_of(folder)
    with Store.open(tmp_path / "run" / "answers") as store:
        counts = store.counts()
        assert counts.answers == 0 and counts.withdrawn == len(queue["label"]) >= 6
    assert set(queue["labeller"]) == {0}
    assert set(np.unique(queue["label"])) <= {0.0, 0.5, 1.0}


def test_a_fallback_trains_nothing_that_was_held_out(tmp_path):
    changes = {"answer_wait": 0.0, "answer_deadline": 1e-3, "fallback_teacher": "oracle", "held_out": 0.5}
    folder = train(settings(**ASKING | changes | {"leader_every": 160}), tmp_path / "run")
    with Store.open(tmp_path / "run" / "answers") as store:
        withdrawn = store.counts().withdrawn
        aside = sum(store.question(number).held_out for number in range(1, withdrawn + 1))
    assert 0 < aside < withdrawn
    assert len(queue_of(folder)["label"]) == withdrawn - aside


def test_answers_given_while_it_was_stopped_count(tmp_path):
    run = tmp_path / "run"
    changes = {"answer_wait": 0.2, "checkpoint_every": 200}
    with killed_at(440):
        train(settings(**ASKING | changes), run)
    with Person(run / "answers", most=3) as person:
        while len(person.said) < 3:
            time.sleep(0.1)
    folder = resume(run)
    used = {s for s, record in person.said.items() if not record.held_out}
    assert used <= set(queue_of(folder)["record"])
    assert measured(folder).filter(kind="leader").height > 0


def test_an_answer_taken_back_leaves_the_comparisons(tmp_path, monkeypatch):
    run = tmp_path / "run"
    session, undone = Training._session, []

    def then_undo(self):
        session(self)
        if self.step >= 320 and not undone:
            with Store.open(run / "answers") as store:
                undone.append(store.undo(1, request=str(uuid.uuid4())).undoes)

    monkeypatch.setattr(Training, "_session", then_undo)
    with Person(run / "answers", most=4):
        folder = train(settings(**ASKING | {"held_out": 0.0, "answer_wait": 3.0}), run)
    queue = queue_of(folder)
    assert undone and undone[0] not in queue["record"]
    assert set(queue["record"]) == {1, 2, 3, 4} - set(undone)


def test_answers_of_one_run_start_another(tmp_path):
    with Person(tmp_path / "first" / "answers", most=6):
        train(settings(**ASKING | {"held_out": 0.0}), tmp_path / "first")
    store = str(tmp_path / "first" / "answers")
    again = settings(**ASKING | {"store": store, "answer_wait": 0.1, "clip_length": 8, "max_waiting": 1})
    folder = train(again, tmp_path / "second")
    assert {1, 2, 3, 4, 5, 6} <= set(queue_of(folder)["record"])
    with pytest.raises(InputError, match="fewer than 15 steps"):
        longer = settings(**ASKING | {"store": store, "clip_length": 15, "answer_wait": 0.1})
        train(longer, tmp_path / "third")
    with pytest.raises(InputError, match="clips of another task"):
        other = settings(**ASKING | {"store": store, "env": "InvertedPendulum-v5", "answer_wait": 0.1})
        train(other, tmp_path / "fourth")


@pytest.mark.parametrize(
    ("changes", "words"),
    (
        ({"teacher": "oracle", "store": "x"}, "give --teacher human with it"),
        ({"store": "postgresql://me:secret@localhost/db"}, "PGPASSWORD"),
        ({"max_waiting": 0}, "--max-waiting is 0"),
        ({"held_out": 1.0}, "--held-out is 1.0"),
        ({"answer_deadline": 0.0}, "--answer-deadline is 0.0"),
        ({"fallback_teacher": "human"}, "unknown --fallback-teacher"),
        ({"selection": "random"}, "unknown --selection"),
        ({"selection": "entropy", "clips": "fresh"}, "give --clips queue"),
    ),
)
def test_settings_that_cannot_be(changes, words):
    with pytest.raises(InputError, match=words):
        settings(**ASKING | changes)


def test_a_clip_is_never_compared_with_itself(tmp_path, monkeypatch):
    pairs = Collector.pairs
    kept = []

    def twins(self, count, act, rng, **options):
        first, second = pairs(self, count, act, rng, **options)
        for name in ("observations", "actions"):
            getattr(second, name)[0] = getattr(first, name)[0]
        for name, array in second.extras.items():
            array[0] = first.extras[name][0]
        kept.append(count)
        return first, second

    monkeypatch.setattr(Collector, "pairs", twins)
    train(settings(**ASKING | {"answer_wait": 0.0}), tmp_path / "run")
    with Store.open(tmp_path / "run" / "answers") as store:
        assert 0 < store.counts().open <= sum(kept) - len(kept)
