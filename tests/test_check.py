"""`check`: what it measures on tables and on runs, what it writes, what it refuses."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import polars as pl
import pytest

from rewardsmith import InputError
from rewardsmith.cli import main
from rewardsmith.runs.check.agreement import agreement
from rewardsmith.runs.check.config import CheckConfig
from rewardsmith.runs.check.measure import measure, summary
from rewardsmith.runs.check.records import RUN_SCHEMA, SCHEMA, at_most, frame
from rewardsmith.runs.check.worlds import checked_world
from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.exact.build import build_task
from rewardsmith.runs.train import train

# ---- the statistics -----------------------------------------------------------------------------


def test_summary_by_hand():
    first, second = np.array([[1.0, 0.0]] * 4), np.array([[0.0, 1.0], [0.0, 3.0], [0.0, 2.0], [0.0, 2.0]])
    found = summary(first, second, np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert found["gradient_norm"] == pytest.approx(np.sqrt(2))
    assert found["second_share"] == pytest.approx(np.sqrt(0.5))
    assert found["bias"] == pytest.approx(1 / np.sqrt(2))
    assert found["deviation"] == pytest.approx(np.sqrt(2 / 3 / 2))
    assert found["bias_error"] == pytest.approx(found["deviation"] / 2)
    assert found["error"] == pytest.approx(np.sqrt((0 + 4 + 1 + 1) / 4 / 2))
    cosines = [(1 + s) / np.sqrt(2 * (1 + s * s)) for s in (1, 3, 2, 2)]
    assert found["cosine"] == pytest.approx(np.mean(cosines))
    assert found["cosine_low"] <= found["cosine"] <= found["cosine_high"]
    assert found["second_cosine"] == pytest.approx(1.0)


def test_slope_and_enough():
    row = dict.fromkeys(SCHEMA, 1.0) | {"problem": "p", "estimator": "e", "repeats": 3, "steps": 1}
    sizes = ((64, 0.8, 0.97), (256, 0.4, 0.9), (1024, 0.2, 0.96))
    rows = [row | {"pairs": pairs, "error": error, "cosine": cosine} for pairs, error, cosine in sizes]
    found = at_most(frame(rows)).row(0, named=True)
    assert found["slope"] == pytest.approx(-0.5)
    assert found["enough"] == 1024 and found["pairs"] == 1024


def noisy(rng, mean, deviation, groups=40):
    return mean + deviation * rng.normal(size=(groups, len(mean)))


def test_agreement_has_no_bias_from_noise():
    """Norms and cosine of means under noise seven times as long, over many experiments."""
    rng, size = np.random.default_rng(0), 100
    here = rng.normal(size=size)
    other = here + rng.normal(size=size)
    truth = here @ other / np.linalg.norm(here) / np.linalg.norm(other)
    pairs = [(noisy(rng, here, 7.0), noisy(rng, other, 7.0)) for _ in range(400)]
    found = [agreement(*pair) for pair in pairs]
    squared = np.array([one.signal**2 for one in found])
    naive = np.mean([np.sum(left.mean(axis=0) ** 2) for left, _ in pairs])
    assert abs(np.nanmean(squared) - here @ here) < 4 * np.nanstd(squared) / np.sqrt(len(squared))
    assert naive > 2 * here @ here
    cosines = np.array([one.cosine for one in found])
    assert abs(np.nanmedian(cosines) - truth) < 0.05
    # The jackknife's error is about the spread over experiments.
    told = np.nanmedian([one.cosine_error for one in found])
    spread = np.subtract(*np.nanpercentile(cosines, [84, 16])) / 2
    assert 0.7 < told / spread < 1.4
    assert np.mean([one.deviation for one in found]) == pytest.approx(7 * np.sqrt(size), rel=0.02)


def test_agreement_of_what_is_the_same_and_of_nothing():
    rng = np.random.default_rng(1)
    estimates = noisy(rng, rng.normal(size=50), 0.1)
    same = agreement(estimates, estimates)
    assert same.cosine == pytest.approx(1.0) and same.length == pytest.approx(1.0)
    opposite = agreement(-2 * estimates, estimates)
    assert opposite.cosine == pytest.approx(-1.0) and opposite.length == pytest.approx(2.0)
    # Noise V and signal S: the mean of V/S · c²/(1 − c²) groups has cosine c to its expectation.
    assert same.groups_for(0.6) == pytest.approx((same.deviation / same.signal) ** 2 * 0.36 / 0.64)
    alternating = np.array([[1.0], [-1.0]] * 4)
    drowned = agreement(alternating, estimates[:8, :1])
    assert np.isnan(drowned.signal) and np.isnan(drowned.cosine) and drowned.groups_for(0.95) == np.inf


# ---- tables -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    with jax.enable_x64(True):
        rows = []
        for name in ("preference", "contract", "shaping"):
            config = CheckConfig()
            task = build_task(config.of_problem(name))
            world = checked_world(task, task.start(jax.random.key(config.start)))
            sizes = {"preference": (64, 1024), "contract": (256,), "shaping": (256,)}[name]
            for count in sizes:
                rows += measure(world, config.estimators, count, 8, jax.random.key(count))
    return frame(rows)


@pytest.mark.parametrize("name", ["suffix", "branch", "adjoint"])
def test_estimators_are_right_on_three_tables(table, name):
    rows = at_most(table.filter(pl.col("estimator") == name))
    assert rows["problem"].to_list() == ["preference", "contract", "shaping"]
    assert (rows["cosine"] >= 0.95).all()
    assert (rows["bias"] < 3 * rows["bias_error"]).all()


def test_one_step_is_biased_and_the_others_fall_at_the_monte_carlo_rate(table):
    preference = at_most(table.filter(pl.col("problem") == "preference"))
    slopes = dict(preference.select("estimator", "slope").iter_rows())
    assert slopes.pop("one-step") > -0.1
    assert all(-0.7 < slope < -0.3 for slope in slopes.values())
    one_step = at_most(table.filter(pl.col("estimator") == "one-step"))
    assert (one_step["bias"] > 8 * one_step["bias_error"]).all()


def test_command_on_a_table(tmp_path, capsys):
    out = tmp_path / "out"
    run = f"check preference --estimators one-step --pairs 64 --repeats 3 --out {out}".split()
    with pytest.raises(SystemExit) as stop:
        main(run)
        raise SystemExit(0)
    assert stop.value.code == 0
    rows = pl.read_parquet(out / "metrics.parquet")
    assert rows.schema == pl.Schema(SCHEMA) and rows["pairs"].to_list() == [64]
    assert (out / "errors.png").stat().st_size > 1000
    assert "## preference" in (out / "check.md").read_text(encoding="utf-8")
    assert json.loads((out / "config.json").read_text())["used"] == {"preference": {}}
    assert "not reached" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(run)
    assert stop.value.code == 2
    assert "give another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"pairs": 100}, "multiple of 64"),
        ({"repeats": 2}, "at least 3"),
        ({"horizon": 0}, "at least 1"),
        ({"branch_length": 5}, "for a run"),
        ({"temperature": -1.0}, "positive"),
        ({"seed": -1}, "positive"),
        ({"estimators": ("suffix", "suffix")}, "once"),
        ({"estimators": ("none",)}, "choose one of"),
        ({"estimators": ()}, "give one or more"),
        ({"option": ("levels=4",)}, "name it"),
        ({"problems": ("runs/a", "preference")}, "alone"),
        ({"problems": ("runs/a",), "horizon": 5}, "for tables"),
    ],
)
def test_bad_settings(settings, told):
    with pytest.raises(InputError, match=told):
        CheckConfig(**settings)


@pytest.mark.parametrize(
    "given, told",
    [
        ("inverse-rl", "cannot be checked"),
        ("nothing-like-it", "unknown problem"),
        ("./absent", "no run"),
        ("contract --pairs 1048576", "give --pairs"),
    ],
)
def test_what_cannot_be_checked(given, told, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["check", *given.split(), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ---- runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory, compile_quickly):
    config = TrainConfig(
        env="Pendulum-v1",
        steps=320,
        comparisons=30,
        num_envs=4,
        clip_length=5,
        suffix_length=5,
        branch_length=3,
        leader_every=80,
        leader_steps=2,
        recent_batch_size=8,
        hidden=(8,),
        reward_hidden=(8,),
        ensemble=2,
        batch_size=8,
        learning_starts=100,
        eval_every=320,
        eval_episodes=1,
        snapshot_every=None,
    )
    return SimpleNamespace(config=config, path=train(config, tmp_path_factory.mktemp("run") / "run").path)


def test_command_on_a_run(run, tmp_path, capsys):
    out = tmp_path / "out"
    main(["check", str(run.path), "--pairs", "64", "--branch-length", "12", "--out", str(out)])
    rows = pl.read_parquet(out / "metrics.parquet")
    assert rows.schema == pl.Schema(RUN_SCHEMA)
    names = ["one-step", "suffix", "branch", "adjoint", "reference", "first term"]
    assert rows["estimator"].to_list() == names
    assert rows["pairs"].unique().to_list() == [8] and rows["batches"].unique().to_list() == [8]
    assert (rows["deviation"] > 0).all()
    reference = rows.row(names.index("reference"), named=True)
    assert reference["cosine"] is None or reference["cosine"] == pytest.approx(1.0)
    page = (out / "check.md").read_text(encoding="utf-8")
    # 8 batches: an episode in each of 4 copies, and in 64 copies roll-outs of 12 steps.
    assert f"{8 * (200 * 4 + 64 * 12):,} steps simulated" in page
    assert "roll-outs of 12 steps" in capsys.readouterr().out


def test_a_run_that_cannot_be_checked(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["check", str(run.path), "--pairs", "64", "--horizon", "3", "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    changed = tmp_path / "sac"
    changed.mkdir()
    settings = json.loads((run.path / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(settings | {"method": "sac"}))
    with pytest.raises(SystemExit) as stop:
        main(["check", str(changed), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "learned no reward" in capsys.readouterr().err
