"""The audit of a run: planted faults are found, planted virtues are told, and nothing depends on luck."""

import contextlib
import dataclasses
import json
import shutil
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.stats
from rich.console import Console
from safetensors import safe_open

from rewardsmith._core import InputError
from rewardsmith._core.serialise import read_metadata
from rewardsmith.runs.audit import subject as subjects
from rewardsmith.runs.audit.measures import calibrate, correlation, gain, last_third, proportion, trend
from rewardsmith.runs.audit.progress import AuditProgress
from rewardsmith.runs.audit.question import ALL, EARLIER, NEWEST, ON_POLICY
from rewardsmith.runs.audit.record import Audit, Episodes, Hacking, read_audit, write_audit
from rewardsmith.runs.audit.run import audit_run, current_audit, is_cheap, measure
from rewardsmith.runs.audit.subject import load_subject
from rewardsmith.runs.audit.warn import (
    hacking,
    overconfidence,
    temperature_drift,
    too_few_labels,
    variable_horizon,
    warnings_of,
)
from rewardsmith.runs.experiment import Experiment
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.metrics import SCHEMA
from rewardsmith.runs.parts import make_env
from rewardsmith.runs.snapshots import evenly, load_snapshot, snapshot_steps
from rewardsmith.runs.statistics import Interval
from rewardsmith.runs.train import resume, train, train_seeds
from tests.line_walk import BUDGET, STEPS, audited_pendulum, planted
from tests.small_runs import killed_at, settings

pytestmark = pytest.mark.usefixtures("compile_quickly")

LINE = {
    "env": "tests.line_walk:LineWalk-v0",
    "steps": 320,
    "learning_starts": 80,
    "reward_hidden": (),
    "hidden": (4,),
    "method": "drlhf",
    "film_clips": False,
}
FALLING = np.linspace(0.8, -0.8, 12)


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return load_subject(train(settings(**LINE), tmp_path_factory.mktemp("line") / "run"), 0)


def quiet():
    return AuditProgress("run", Console(quiet=True))


def measured(subject) -> Audit:
    return measure(subject, quiet())


# --- numbers


def test_a_calibrated_reward_is_off_by_chance_alone_and_an_overconfident_one_is_told():
    rng = np.random.default_rng(0)
    probability = rng.random(5_000)
    label = (rng.random(5_000) < probability).astype(float)
    found = calibrate(probability, label, 0)
    assert found.error < 0.02 and abs(found.error - found.by_chance) < 0.01
    assert sum(found.count) == 5_000 and len(found.count) == 10
    inside = np.array(found.low) <= found.confidence
    assert (inside & (np.array(found.high) >= found.confidence)).sum() >= 8
    np.testing.assert_allclose(found.brier.value, np.mean(probability * (1 - probability)), atol=8e-3)
    sure = np.where(probability > 0.5, 0.999, 0.001)
    told = calibrate(sure, label, 0)
    np.testing.assert_allclose(told.error, 0.999 - 0.75, atol=0.02)
    assert told.confidence == pytest.approx((0.999,)) and told.by_chance < 0.01
    turned = calibrate(1 - sure, 1 - label, 0)
    assert turned.error == pytest.approx(told.error), "which clip stands first does not matter"


def test_the_chance_of_a_calibration_error_is_that_of_a_calibrated_reward():
    rng = np.random.default_rng(1)
    errors, chances = [], []
    for seed in range(40):
        probability = rng.random(100)
        label = (rng.random(100) < probability).astype(float)
        found = calibrate(probability, label, seed)
        errors.append(found.error)
        chances.append(found.by_chance)
    np.testing.assert_allclose(np.mean(errors), np.mean(chances), rtol=0.1)


def test_correlations_and_their_intervals_against_those_of_scipy():
    rng = np.random.default_rng(2)
    first = rng.normal(size=60)
    second = 0.5 * first + rng.normal(size=60)
    for ranks, by in ((True, scipy.stats.spearmanr), (False, scipy.stats.pearsonr)):

        def statistic(a, b, by: Any = by):
            return by(a, b).statistic

        found = correlation(first, second, 0, ranks=ranks)
        assert found is not None
        np.testing.assert_allclose(found.value, statistic(first, second))
        other = scipy.stats.bootstrap(
            (first, second), statistic, vectorized=False, paired=True, rng=rng,
            method="percentile", n_resamples=500,
        ).confidence_interval  # fmt: skip
        assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=0.05)
    assert correlation(first, np.ones(60), 0, ranks=True) is None
    assert correlation(first[:2], second[:2], 0, ranks=True) is None


def test_a_trend_is_the_change_along_the_line_and_noise_has_none():
    steps = np.array([0.0, 100.0, 200.0, 300.0, 400.0])
    found = trend(steps, 0.01 * steps + 5.0)
    assert found is not None and found.value == pytest.approx(4.0) and found.low == pytest.approx(4.0)
    rng = np.random.default_rng(3)
    noisy = [trend(steps, rng.normal(size=5)) for _ in range(400)]
    covered = np.mean([one is not None and (one.low or 0) <= 0 <= (one.high or 0) for one in noisy])
    assert 0.91 < covered < 0.98, "an interval of 95 %"
    assert trend(steps[:3], steps[:3]) is None
    assert [last_third(count) for count in (2, 5, 12, 30)] == [2, 4, 4, 10]


def test_shares_and_gains():
    assert proportion(np.zeros(0, bool)).low is None
    found = proportion(np.arange(100) < 80)
    assert found.value == 0.8 and (found.low, found.high) == pytest.approx((0.7111, 0.8666), abs=1e-3)
    before, now = np.arange(100) < 50, np.arange(100) < 60
    assert gain(before, now, 0).value == pytest.approx(0.1) and (gain(before, now, 0).low or 0) > 0
    assert gain(now, now, 0) == Interval(0.0, 0.0, 0.0)


# --- planted rewards and policies


def test_the_true_reward_itself_passes_the_audit(line):
    audit = measured(planted(line, FALLING[::-1], [3.0] * 12))
    reward = audit.reward
    assert reward is not None and len(audit.policies) == 12
    for one in audit.policies:
        np.testing.assert_allclose(np.array(one.true_returns) * 3.0, one.learned_returns, rtol=1e-4)
        assert set(one.lengths) == {STEPS} and not any(one.terminated)
    true = [np.mean(one.true_returns) for one in audit.policies]
    np.testing.assert_allclose(true, FALLING[::-1] * (STEPS - 1), atol=1.5)
    for one in reward.along:
        assert one.clip_distance is not None and one.clip_distance.value < 1e-3
        assert one.accuracy is not None and one.accuracy.value == 1.0
    for one in reward.agreement:
        assert one.pearson == pytest.approx(1.0, abs=1e-5) and one.spearman == pytest.approx(1.0, abs=1e-5)
    assert [one.name for one in reward.agreement][:2] == [NEWEST, EARLIER]
    assert [one.name for one in reward.judged] == [ON_POLICY, ALL]
    assert reward.hacking.correlation is not None and reward.hacking.correlation.value == pytest.approx(1.0)
    assert "cannot be restored" in reward.distance_note and "cannot be restored" in reward.films_note
    assert not [line for line in warnings_of(audit) if line.startswith(("Reward hacking", "Too few", "Var"))]


def test_a_reward_that_is_minus_the_true_one_is_hacked(line):
    audit = measured(planted(line, FALLING, [-1.0] * 12))
    assert audit.reward is not None
    found = audit.reward.hacking
    assert found.snapshots == 4 and found.learned_trend is not None and found.true_trend is not None
    assert (found.learned_trend.low or 0) > 0 > (found.true_trend.high or 0)
    told = warnings_of(audit)
    assert told[0].startswith("Reward hacking: over the last 4 snapshots the learned return rose by")
    assert "--clips fresh" in told[0]
    assert any(line.startswith("Too few labels") and "may be guessing" in line for line in told)
    distance = audit.reward.along[-1].clip_distance
    assert distance is not None and distance.value > 0.99


def test_a_reward_that_turned_at_the_end_is_hacked_and_one_that_turned_back_is_not(line):
    rising = np.concatenate([np.linspace(-0.5, 0.8, 8), np.linspace(0.7, 0.3, 4)])
    turned = measured(planted(line, rising, [1.0] * 11 + [-1.0]))
    assert any("over the last 4 snapshots" in line for line in warnings_of(turned))
    straight = measured(planted(line, rising, [-1.0] * 11 + [1.0]))
    assert not any(line.startswith("Reward hacking") for line in warnings_of(straight))


def test_policies_that_all_rank_the_wrong_way_are_hacking_without_a_trend():
    turning = Hacking(Interval(-0.8, -0.9, -0.5), 4, Interval(1.0, -1.0, 3.0), None)
    (told,) = hacking(turning)
    assert "Spearman −0.8 [−0.9, −0.5]" in told
    assert not list(hacking(Hacking(Interval(-0.8, -0.9, 0.1), 4, None, None)))
    assert not list(hacking(Hacking(None, 2, None, None)))


def test_more_labels_are_asked_for_while_accuracy_rises(line):
    weights = [-1.0] * 8 + [-0.5, 0.0, 1.0, 1.0]
    rising = measured(planted(line, FALLING[::-1], weights))
    assert rising.reward is not None
    (told,) = too_few_labels(rising.reward)
    assert "still rose with the last 40 comparisons" in told
    settled = measured(planted(line, FALLING[::-1], [-1.0] * 4 + [1.0] * 8))
    assert settled.reward is not None and not list(too_few_labels(settled.reward))


def test_an_overconfident_reward_is_warned_of(line):
    # Of one place all clips are alike but for the noise of the actions, and a teacher who errs is a coin.
    config = dataclasses.replace(line.config, teacher="bradley-terry", teacher_temperature=100.0)
    noisy = dataclasses.replace(line, config=config, experiment=Experiment(config, line.spec))
    audit = measured(planted(noisy, FALLING[::-1], [50.0] * 12))
    assert audit.reward is not None
    (told,) = overconfidence(audit.reward.judged)
    assert told.startswith("Badly calibrated: on clips of")
    fair = measured(planted(noisy, FALLING[::-1], [0.01] * 12))
    assert fair.reward is not None and not list(overconfidence(fair.reward.judged))


def test_a_variable_horizon_is_warned_of(line):
    config = dataclasses.replace(line.config, env="tests.line_walk:LineWalkLasting-v0")
    subject = dataclasses.replace(line, config=config)
    audit = measured(planted(subject, FALLING, [1.0] * 12))
    (told,) = [line for line in warnings_of(audit) if line.startswith("Variable horizon")]
    assert "after 14 to 40 steps" in told and "--hide-ends" in told and "Spearman 0." in told
    even = Episodes(1, None, (1.0, 2.0), (), (40, 40), (True, True))
    assert not list(variable_horizon([even], 0)), "episodes of one length tell nothing"


def test_a_temperature_that_moved_is_warned_of():
    def metrics(values):
        rows = {"step": list(range(len(values))), "temperature": values}
        return pl.DataFrame(rows).with_columns(pl.lit(None).alias(name) for name in SCHEMA.keys() - rows)

    (told,) = temperature_drift(metrics([1.0, 1.0, 1.0, 0.5, 0.2]))
    assert "from 1 to 0.2" in told and "factor of 5.0" in told
    for calm in ([9.0, 5.0, 1.0, 0.9, 0.6], [1.0] * 5, [None] * 5, [1.0, 1.0, 0.0, 0.0, 1.0], []):
        assert not list(temperature_drift(metrics(calm)))


def test_the_same_seed_measures_the_same(line):
    subject = planted(line, FALLING[:4], [1.0] * 4)
    assert measured(subject) == measured(subject)
    assert measured(dataclasses.replace(subject, seed=1)) != measured(subject)


# --- in the folder of a run


@pytest.fixture(scope="module")
def pendulum():
    folder = audited_pendulum()
    return folder, audit_run(folder.path)


def test_an_audit_of_a_run_lies_in_its_folder_and_is_not_repeated(pendulum, monkeypatch, capsys):
    folder, audit = pendulum
    assert audit.step == 640 and audit.reward is not None
    assert [one.step for one in audit.policies] == folder.snapshot_steps()
    assert audit.policies[-1].comparisons == 40
    assert read_audit(folder.audit_path) == current_audit(folder)
    names = {film.film for film in audit.reward.films}
    assert {path.name for path in folder.audit_films_path.iterdir()} == names and len(names) >= 2
    assert audit.reward.films_note == "" and audit.reward.distance_states in (0, 16)
    monkeypatch.setattr("rewardsmith.runs.audit.run.measure", None)
    again = audit_run(folder.path)
    assert again == read_audit(folder.audit_path)
    with pytest.raises(TypeError):
        audit_run(folder.path, again=True)
    with pytest.raises(TypeError):
        audit_run(folder.path, seed=1)
    with pytest.raises(InputError, match="--seed is -1"):
        audit_run(folder.path, seed=-1)
    assert not is_cheap(folder), "a run of a few hundred steps is shorter than its audit"


def test_a_record_comes_back_and_a_damaged_one_is_one_line(pendulum, tmp_path):
    _, audit = pendulum
    path = tmp_path / "audit.json"
    assert read_audit(path) is None
    write_audit(path, dataclasses.replace(audit, step=7))
    found = read_audit(path)
    assert found is not None and found.step == 7
    write_audit(path, found)
    assert read_audit(path) == found, "rounded once"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"version": 0}))
    assert read_audit(path) is None
    for text in ("{", "[]", json.dumps(record | {"step": "x"}), json.dumps({"version": 1})):
        path.write_text(text)
        with pytest.raises(InputError, match="damaged: delete it") as caught:
            read_audit(path)
        assert "\n" not in str(caught.value)


def test_an_audit_of_an_older_checkpoint_does_not_count(pendulum, tmp_path):
    folder, audit = pendulum
    later = RunFolder(shutil.copytree(folder.path, tmp_path / "run"))
    write_audit(later.audit_path, dataclasses.replace(audit, step=480))
    assert current_audit(later) is None


def test_the_ceiling_learns_no_reward_and_its_policies_are_played(tmp_path, monkeypatch):
    monkeypatch.setattr(subjects, "OF_VECTORS", BUDGET)
    audit = audit_run(train(settings(**(LINE | {"method": "sac"})), tmp_path / "run").path)
    assert audit.reward is None and audit.policies[-1].learned_returns == ()
    assert audit.random.step is None and len(audit.policies) >= 3


# --- snapshots


def contents(folder):
    """The checksums of all snapshots; their headers are in no order."""
    sums = {}
    for path in folder.snapshots_path.iterdir():
        with safe_open(path, framework="numpy") as file:
            sums[path.name] = file.metadata()["rewardsmith.sha256"]
    return sums


def test_snapshots_lie_evenly_on_sessions_and_end_with_the_run():
    config = settings(steps=100_000, leader_every=1000, learning_starts=2000)
    with contextlib.closing(make_env(settings(env="Pendulum-v1"), 1)) as env:
        spec = env.spec
    steps = snapshot_steps(config, spec)
    assert len(steps) == 32 and steps[0] == 2000 and steps[-1] == 100_000
    assert np.ptp(np.diff(steps)) <= 1000 and all(step % 1000 == 0 for step in steps)
    assert snapshot_steps(settings(), spec) == (160, 240, 320, 400, 480, 560, 640)
    assert evenly("abc", 5) == ("a", "b", "c") and evenly(range(10), 2) == (0, 9)


def test_a_resumed_run_ends_with_the_same_snapshots(tmp_path):
    config = settings(**LINE)
    whole = train(config, tmp_path / "whole")
    with killed_at(260):
        train(config, tmp_path / "killed")
    killed = RunFolder(tmp_path / "killed")
    assert killed.snapshot_steps() == [80, 160, 240], "beyond the checkpoint of step 200"
    (killed.snapshots_path / ".step_half.safetensors").touch()
    stray = killed.snapshot_path(250)
    stray.write_bytes(b"of a time that will not have been")
    resumed = resume(killed.path)
    assert contents(resumed) == contents(whole) and len(contents(whole)) == 4


def test_a_snapshot_is_what_the_run_had_then(tmp_path):
    config = settings(**(LINE | {"steps": 160}))
    folder, other = train_seeds(config, tmp_path / "seeds", 2)
    with contextlib.closing(make_env(config, 1)) as env:
        experiment = Experiment(config, env.spec)
    policy, x = load_snapshot(folder, 160, experiment)
    subject = load_subject(folder, 0)
    last = subject.rewards[-1]
    assert x is not None
    np.testing.assert_array_equal(x.networks.head.weights[0], last.networks.head.weights[0])
    np.testing.assert_array_equal(policy.trunk.weights[0], subject.policies[-1].trunk.weights[0])
    assert contents(folder).keys() == contents(other).keys()
    assert contents(folder) != contents(other)
    assert read_metadata(folder.snapshot_path(160)) == {}
    with pytest.raises(InputError, match="no file"):
        load_snapshot(folder, 159, experiment)
