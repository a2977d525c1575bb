"""Which runs are better, and how sure that is: the numbers, the words and the files."""

import dataclasses
import itertools
import json

import numpy as np
import polars as pl
import pytest
import scipy.stats

from rewardsmith._core import InputError
from rewardsmith.cli import main
from rewardsmith.cli_sweep import names_runs
from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.metrics import Metrics
from rewardsmith.runs.ranking.collect import collect, labels_of
from rewardsmith.runs.ranking.compare import compare_runs
from rewardsmith.runs.ranking.rank import ALL, rank
from rewardsmith.runs.statistics import Interval, probability_of_improvement, stratified_iqm
from rewardsmith.runs.sweep.manifest import Manifest, Outcome, Trial, write_outcomes

STEPS = (1000, 2000, 4000)


def write_run(path, returns, steps=STEPS, final=None, held_out=(), length=4000, **settings):
    """A run folder as training leaves one; `final` is the return of the evaluation at the end."""
    config = TrainConfig(**({"steps": length, "env": "Pendulum-v1", "method": "sac"} | settings))
    folder = RunFolder.create(path, dataclasses.asdict(config))
    metrics = Metrics(folder.metrics_path)
    for step, value in zip(steps, returns, strict=True):
        metrics.record(kind="eval", step=step, true_return=value, seconds=step / 10)
    for step, value in held_out:
        metrics.record(kind="leader", step=step, held_out_accuracy=value)
    metrics.flush()
    if final is not None:
        folder.save_checkpoint(steps[-1], {"step": np.asarray(steps[-1])})
        folder.eval_path.write_text(json.dumps({"step": steps[-1], "mean": final}))
    return path


def write_runs(place, **finals):
    """Runs of methods, each with one final return a seed."""
    for method, values in finals.items():
        for seed, value in enumerate(values):
            write_run(place / f"{method}-{seed}", (0, value / 2, value), method=method, seed=seed)
    return place


def ranked(*paths, unfinished=False):
    runs, _ = collect(paths, unfinished)
    return rank(runs, labels_of(runs))


# ---- the numbers --------------------------------------------------------------------------------


def test_probability_of_improvement_counts_pairs():
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 6, 5) * 1.0, rng.integers(0, 5, 4) * 1.0) for _ in range(3)]
    shares = [np.mean([(x > y) + 0.5 * (x == y) for x in xs for y in ys]) for xs, ys in pairs]
    found = probability_of_improvement(pairs)
    assert found.value == pytest.approx(np.mean(shares))
    assert found.low is not None and found.high is not None
    assert 0 <= found.low < found.value < found.high <= 1
    xs, ys = pairs[0]
    statistic = scipy.stats.mannwhitneyu(xs, ys).statistic
    assert probability_of_improvement(pairs[:1]).value == pytest.approx(statistic / 20)


def test_the_interval_of_an_improvement_is_that_of_all_resamples():
    x, y = np.array([1.0, 4.0, 5.0]), np.array([2.0, 3.0, 6.0])
    every = [
        np.mean([a > b for a in xs for b in ys])
        for xs in itertools.product(x, repeat=3)
        for ys in itertools.product(y, repeat=3)
    ]
    found = probability_of_improvement([(x, y)])
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(every, [2.5, 97.5])), abs=0.06)


def test_strata_are_drawn_each_for_itself():
    apart = [np.array([0.0, 0.1, 0.2]), np.array([100.0, 100.1, 100.2])]
    found = stratified_iqm(apart)
    assert found.value == pytest.approx(50.1) and found.low is not None and found.high is not None
    assert found.high - found.low < 0.2
    mixed = stratified_iqm([np.concatenate(apart)])
    assert mixed.low is not None and mixed.high is not None and mixed.high - mixed.low > 50


def test_the_interquartile_mean_leaves_out_both_ends():
    values = np.array([-1e6, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1e6])
    assert stratified_iqm([values]).value == pytest.approx(3.5)


def test_two_seeds_have_no_interval():
    two, three = np.arange(2.0), np.arange(3.0)
    assert stratified_iqm([two]) == Interval(0.5)
    assert stratified_iqm([three, two]).low is None
    assert probability_of_improvement([(three, two)]).low is None


# ---- how runs are held against one another ------------------------------------------------------


def test_curves_are_ranked_with_area_time_and_accuracy(tmp_path):
    write_run(tmp_path / "a", (-4, 0, 8), held_out=((1500, 0.5), (3500, 0.75)), method="sobirl")
    write_run(tmp_path / "b", (0, 0, 2), method="drlhf")
    rows = {row.label: row for row in ranked(tmp_path).rows}
    assert list(rows) == ["sobirl", "drlhf"]
    # From 1000 to 2000 on average −2, from there to 4000 on average 4.
    assert rows["sobirl"].area == pytest.approx((-2 * 1 + 4 * 2) / 3)
    assert rows["sobirl"].final.value == 8 and rows["sobirl"].seconds == 400
    assert rows["sobirl"].held_out == 0.75 and rows["drlhf"].held_out is None


def test_runs_of_different_lengths_meet_at_the_last_common_step(tmp_path):
    write_run(tmp_path / "a", (0, 10, 30), final=99, held_out=((2500, 0.6), (3500, 0.9)))
    write_run(tmp_path / "b", (0, 25), (1000, 3000), final=99, length=3000, method="sobirl")
    found = ranked(tmp_path)
    rows = {row.label: row for row in found.rows}
    assert list(rows) == ["sobirl", "sac"], "steps tell no runs apart"
    assert rows["sac"].final.value == 20 and rows["sac"].held_out == 0.6 and rows["sac"].seconds == 300
    assert any("3,000 to 4,000 steps; compared at step 3,000" in line for line in found.words)


def test_the_evaluation_at_the_end_counts_where_all_have_one(tmp_path):
    write_run(tmp_path / "a", (0, 1, 2), final=10)
    write_run(tmp_path / "b", (0, 1, 3), final=5, method="drlhf")
    assert [(row.label, row.final.value) for row in ranked(tmp_path).rows] == [("sac", 10), ("drlhf", 5)]
    (tmp_path / "a" / "eval.json").unlink()
    assert [(row.label, row.final.value) for row in ranked(tmp_path).rows] == [("drlhf", 3), ("sac", 2)]


def test_what_differs_tells_runs_apart_and_the_seed_does_not(tmp_path):
    write_run(tmp_path / "a", (0, 1, 2), hidden=(8, 8), seed=0, eval_every=10)
    write_run(tmp_path / "b", (0, 1, 2), hidden=(8, 8), seed=1)
    write_run(tmp_path / "c", (0, 1, 3), hidden=(4,), temperature=0.5)
    assert sorted({row.label for row in ranked(tmp_path).rows}) == [
        "sac temperature=0.5 hidden=4",
        "sac temperature=none hidden=8x8",
    ]


def test_steps_tell_apart_what_would_be_one_seed_twice(tmp_path):
    write_run(tmp_path / "a", (0, 1, 2))
    write_run(tmp_path / "b", (0, 1), (1000, 2000), length=2000)
    assert {row.label for row in ranked(tmp_path).rows} == {"sac steps=4000", "sac steps=2000"}


def test_several_environments_are_ranked_each_and_together(tmp_path):
    for env, scale in (("Pendulum-v1", 1), ("Hopper-v5", 1000)):
        for method, values in {"sobirl": (3, 4, 6), "drlhf": (1, 2, 5)}.items():
            for seed, value in enumerate(values):
                path = tmp_path / f"{env}-{method}-{seed}"
                write_run(path, (0, 0, scale * value), env=env, method=method, seed=seed)
    found = ranked(tmp_path)
    together = {row.label: row for row in found.rows if row.env == ALL}
    # Scaled by the worst, 1, and the best, 6.
    assert together["sobirl"].final.value == pytest.approx(scipy.stats.trim_mean([0.4, 0.6, 1] * 2, 0.25))
    assert together["sobirl"].runs == 6
    (both,) = (item for item in found.improvements if item.env == ALL)
    assert (both.best, both.other) == ("sobirl", "drlhf") and both.probability.value == pytest.approx(7 / 9)
    assert len(found.improvements) == 3


# ---- which runs ---------------------------------------------------------------------------------


def test_what_is_unfinished_or_failed_is_left_out_with_a_word(tmp_path):
    config = TrainConfig(env="Pendulum-v1", method="sac", steps=4000)
    names = ("done", "running", "failed", "waiting")
    Manifest(tuple(Trial(name, config) for name in names)).write(tmp_path)
    write_run(tmp_path / "done", (0, 1, 2))
    write_run(tmp_path / "running", (0, 1), (1000, 2000), seed=1)
    write_outcomes(
        tmp_path, {"done": Outcome("done", 1, 5.0), "failed": Outcome("failed", 1, 2.0, "no memory")}
    )
    runs, left = collect([tmp_path])
    assert [run.path.name for run in runs] == ["done"]
    assert {item.path.name: item.why for item in left} == {
        "running": "unfinished: at step 2,000 of 4,000",
        "failed": "failed: no memory",
        "waiting": "not started",
    }
    runs, left = collect([tmp_path], unfinished=True)
    assert [run.path.name for run in runs] == ["done", "running"]


def test_folders_of_folders_and_the_same_run_twice(tmp_path):
    for seed in range(2):
        write_run(tmp_path / "many" / f"seed-{seed}", (0, 1, 2), seed=seed)
        write_run(tmp_path / "tuned" / "trial-0000" / f"seed-{seed}", (0, 1, 2), seed=seed)
    RunFolder(tmp_path / "many").config_path.write_text("{}")
    runs, left = collect([tmp_path, tmp_path / "many" / "seed-0"])
    assert len(runs) == 4 and not left


def test_damage_is_told_and_not_left_out(tmp_path):
    write_run(tmp_path / "a", (0, 1, 2))
    (tmp_path / "a" / "metrics.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged"):
        collect([tmp_path])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "holds no run"),
        (lambda path: write_run(path / "a", (0, 1), (1000, 2000)), "no finished run to compare"),
        (lambda path: RunFolder.create(path / "a", {"problem": "tax"}), "was not written by train"),
    ],
)
def test_nothing_to_compare_is_one_line(make, says, tmp_path):
    make(tmp_path)
    with pytest.raises(InputError, match=says):
        compare_runs([tmp_path], None)


# ---- what is printed and written ----------------------------------------------------------------


def test_compare_prints_and_writes(tmp_path, capsys):
    write_runs(tmp_path / "runs", sobirl=(5.0, 6.0, 7.0), drlhf=(1.0, 2.0, 5.5))
    write_run(tmp_path / "runs" / "short", (0, 1), (1000, 2000), seed=9)
    out = tmp_path / "compared"
    main(["compare", str(tmp_path / "runs"), "--out", str(out)])
    told = capsys.readouterr().out
    assert "P(sobirl > drlhf) = 0.89 [" in told and "left out" in told and "unfinished: at step 2,000" in told
    page = (out / "comparison.md").read_text()
    assert "| runs of | runs | final return | along the curve | time |" in page
    assert "| sobirl | 3 | 6.0 [5.0, 7.0] |" in page and "P(sobirl > drlhf)" in page
    table = pl.read_parquet(out / "comparison.parquet")
    assert table["label"].to_list() == ["sobirl", "drlhf"] and table["runs"].to_list() == [3, 3]
    assert table["best_is_better"].to_list() == [None, pytest.approx(8 / 9)]
    assert (out / "comparison.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        ("tax --seeds 3", False),
        ("tax --methods amd here", False),
        ("--out here tax", False),
        ("--seeds=3 here", True),
        ("here tax", True),
        ("runs/none", True),
        ("--help", False),
    ],
)
def test_a_folder_is_no_problem_on_a_table(words, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert names_runs(words.split()) == runs
