"""Tuning: what may be searched, that a search goes on where it was, and what it hands over."""

import json
import shlex
import signal
from dataclasses import replace

import pytest
import tyro
from test_ranking import write_run

from rewardsmith._core import InputError
from rewardsmith.runs import train as training
from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.sweep import tune
from rewardsmith.runs.sweep.engines import Ended, Running
from rewardsmith.runs.sweep.search import Range, read_search
from tests.commands import command
from tests.sweeps import FakeEngine, evaluated

pytest.importorskip("optuna")
BASE = TrainConfig(env="Pendulum-v1", method="sac", steps=1000)
SEARCH = ("learning-rate=log:1e-4:1e-2", "hidden=8,4x4")


def paid(job, attempt):
    """The larger the learning rate, the better; wide networks better still."""
    return evaluated(job, job.config.learning_rate * 100 + len(job.config.hidden) + job.config.seed / 1000)


@pytest.fixture
def engine(monkeypatch):
    engine = FakeEngine(paid)
    monkeypatch.setattr(Running, "make", lambda self: engine)
    return engine


def test_ranges_are_read():
    found = read_search(["reward-learning-rate=log:1e-5:1e-2", "leader_steps=int:1:9", "discount=0.9:0.99"])
    assert found == (
        Range("reward_learning_rate", 1e-5, 1e-2, log=True),
        Range("leader_steps", 1, 9),
        Range("discount", 0.9, 0.99),
    )
    (words,) = read_search(["second-term-bound=none,0.5"])
    assert [words.value(word) for word in words.words] == [None, 0.5]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "nothing to search"),
        ("--search learning-rates=1:2", "did you mean learning-rate"),
        ("--search learning-rate=2:1", "LOW has to be below HIGH"),
        ("--search learning-rate=log:0:1", "and above 0 for log"),
        ("--search learning-rate=int:1:2", "is no whole number: leave int: out"),
        ("--search learning-rate=a:b", "give NAME=LOW:HIGH, NAME=log:LOW:HIGH"),
        ("--search method=log:1:2", "give it with --methods"),
        ("--search teacher=1:2", "teacher is no number"),
        ("--search discount=0.9,much", "'much' is not a number"),
        ("--search discount=0.9,0.99 --search discount=0:1", "discount is there twice"),
        ("--search discount=0:1 --trials 0", "--trials is 0"),
        ("--search discount=0:1 --seeds-per-trial 0", "--seeds-per-trial is 0"),
        ("--search discount=0:1 --objective loss", "choose one of true-return, held-out-accuracy"),
        ("--search discount=0:1 --objective held-out-accuracy", "held-out answers are people's"),
        ("--search discount=0:1 --objective preference-accuracy --method sac", "sac learns no reward"),
        ("--search discount=0:1 --env Nowhere-v1", "unknown environment Nowhere-v1"),
        ("--resume nowhere", "no search at nowhere"),
        ("--resume . --search discount=0:1", "takes the search's own settings"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command("tune", *arguments.split()) == 2
    told = capsys.readouterr()
    assert told.out == "" and says in told.err and told.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_best_is_handed_over_as_a_command(engine, tmp_path, capsys):
    out = tmp_path / "tuned"
    assert tune.start(tune.Plan(BASE, SEARCH, trials=12, seeds=2), out, Running()) == 0
    assert len(engine.started) == 24 and engine.most == 2
    best = json.loads((out / "best.json").read_text())
    runs = sorted(out.glob("trial-*/seed-*/eval.json"))
    values = [json.loads(path.read_text())["mean"] for path in runs]
    means = [sum(pair) / 2 for pair in zip(values[::2], values[1::2], strict=True)]
    assert best["value"] == pytest.approx(max(means)) and best["trial"] == means.index(max(means))
    assert best["settings"]["hidden"] == [4, 4] and best["settings"]["learning_rate"] > 1e-3
    assert best["command"] in capsys.readouterr().out

    program, verb, *options = shlex.split(best["command"])
    config = tyro.cli(TrainConfig, args=options)
    assert (program, verb) == ("rewardsmith", "train")
    assert config == replace(BASE, **best["settings"] | {"hidden": (4, 4)})


def test_a_search_goes_on_where_it_was(engine, tmp_path, capsys):
    out = tmp_path / "tuned"

    def interrupted(job, attempt):
        if len(engine.started) < 5:
            return paid(job, attempt)
        if len(engine.started) == 5:
            signal.raise_signal(signal.SIGINT)
        return Ended(130)

    engine.fate, engine.workers = interrupted, 1
    with pytest.raises(training.Stopped, match=f"rewardsmith tune --resume {out}"):
        tune.start(tune.Plan(BASE, SEARCH, trials=4, seeds=2), out, Running())
    assert engine.started[-1] == "trial-0002/seed-0"
    before, engine.started, engine.fate = engine.started, [], paid
    assert tune.resume(out, Running(), trials=5) == 0
    assert engine.started[:2] == ["trial-0002/seed-0", "trial-0002/seed-1"]
    assert len({*before, *engine.started}) == 10, "five trials of two seeds"
    assert "trial-0004/seed-1" in engine.started and "trial-0000/seed-0" not in engine.started
    assert tune.Plan.read(out).trials == 5
    drawn = {path.read_text() for path in out.glob("trial-*/seed-0/eval.json")}
    assert len(drawn) == 5, "a resumed search draws other settings"
    with pytest.raises(InputError, match="already holds a search"):
        tune.start(tune.Plan(BASE, SEARCH), out, Running())


def test_settings_that_do_not_fit_and_runs_that_fail_are_failed_trials(engine, tmp_path, capsys):
    base = TrainConfig(env="Pendulum-v1", method="drlhf", steps=1000, num_envs=4)
    engine.fate = lambda job, attempt: Ended(1, "no memory") if job.config.clip_length == 10 else paid(job, 1)
    plan = tune.Plan(base, ("clip-length=5,10,400",), trials=9)
    failed = tune.start(plan, tmp_path / "tuned", Running())
    told = capsys.readouterr().out
    assert 0 < failed < 9 and f"{failed} of 9 failed" in told
    assert "failed: no memory" in told and "failed: --learning-starts is 1600" in told
    assert json.loads((tmp_path / "tuned" / "best.json").read_text())["settings"] == {"clip_length": 5}


def test_accuracies_are_means_of_the_last_sessions(tmp_path):
    sessions = [(step, step / 1000) for step in range(100, 1000, 100)]
    path = write_run(tmp_path / "run", (0, 1, 2), final=7.5, held_out=sessions)
    assert tune.measure(path, "true-return") == 7.5
    assert tune.measure(path, "held-out-accuracy") == pytest.approx(0.7)
    assert tune.measure(path, "preference-accuracy") is None
