"""Pictures and the page of a run, from synthetic metrics: what they show, and what they survive."""

import base64
import json
import math
import re
from html.parser import HTMLParser

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from matplotlib.image import imread

from rewardsmith._core import InputError
from rewardsmith.runs.figures import run_figures
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.metrics import Metrics
from rewardsmith.runs.plot import plot_runs
from rewardsmith.runs.report import write_report
from rewardsmith.runs.statistics import interquartile_mean, mean_interval, summarise

CONFIG = {
    "env": "HalfCheetah-v5",
    "method": "sobirl",
    "estimator": "suffix",
    "steps": 2000,
    "comparisons": 20,
}
TITLES = [
    "True return",
    "Preferences",
    "Hyper-gradient",
    "How far to trust it",
    "Has the policy answered?",
    "Policy",
    "Learner",
    "Time",
]
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "</style></table>&amp;",
    "$\\frac{$ ' \u2028",
]


def make_run(path, points=5, evaluations=True, columns=None, **config):
    """A run of `points` evaluations, each with rows of learner and leader; `columns` keeps only those."""
    config = CONFIG | {"seed": 0} | config
    rng = np.random.default_rng(config["seed"])
    folder = RunFolder.create(path, config)
    metrics = Metrics(folder.metrics_path)

    def record(**row):
        kept = columns is None or {name for name in row if name in ("step", "kind") or name in columns}
        metrics.record(**(row if kept is True else {name: row[name] for name in kept}))

    for index in range(points):
        common = {
            "step": 500 * index,
            "seconds": 30.0 * index,
            "comparisons": 0 if config["method"] == "sac" else 5 * index,
        }
        if evaluations:
            record(**common, kind="eval", true_return=100.0 * index + rng.normal(), true_return_std=3.0)
        record(
            **common, kind="learner", critic_loss=1.0, actor_loss=-2.0, temperature=0.2, entropy=1.0,
            q_mean=5.0, steps_per_second=400.0, share_env=0.2, share_learner=0.5, share_leader=0.2,
        )  # fmt: skip
        if config["method"] != "sac":
            record(
                **common, kind="leader", preference_accuracy=0.9, preference_loss=0.3, first_norm=1.0,
                second_norm=0.1 * index, cosine=-0.5, effective_share=0.9, bellman_residual=0.5,
                step_ratio=4.0,
            )  # fmt: skip
    metrics.flush()
    return folder.path


class Page(HTMLParser):
    """What a browser would find in the page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.rows, self.text = [], [], [], ""
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self.in_cell = False

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data


def page_of(path, *arguments):
    return Page(write_report(path, *arguments).read_text(encoding="utf-8"))


# --- statistics


def test_mean_and_interval_against_the_normal_one():
    samples = np.random.default_rng(1).normal(5.0, 2.0, size=(200, 3))
    mean, low, high = mean_interval(samples)
    assert low is not None and high is not None
    np.testing.assert_allclose(mean, samples.mean(0))
    half = 1.96 * samples.std(0) / math.sqrt(200)
    np.testing.assert_allclose(mean - low, half, rtol=0.15)
    np.testing.assert_allclose(high - mean, half, rtol=0.15)


def test_an_interval_is_repeatable_and_closes_on_equal_seeds():
    curves = np.random.default_rng(2).normal(size=(4, 6))
    np.testing.assert_array_equal(mean_interval(curves)[1], mean_interval(curves)[1])
    mean, low, high = mean_interval(np.ones((3, 6)))
    np.testing.assert_array_equal([low, high], [mean, mean])


@pytest.mark.parametrize(("seeds", "banded"), [(1, False), (2, False), (3, True), (4, True)])
def test_no_interval_below_three_seeds(seeds, banded):
    mean, low, high = mean_interval(np.arange(5.0 * seeds).reshape(seeds, 5))
    assert mean.shape == (5,)
    assert (low is not None) == (high is not None) == banded


@settings(max_examples=50, deadline=None)
@given(
    slopes=st.lists(st.floats(-10, 10), min_size=1, max_size=4),
    data=st.data(),
)
def test_straight_curves_measured_anywhere_have_a_straight_mean(slopes, data):
    steps = st.lists(st.integers(1, 99), max_size=6).map(lambda inner: np.array(sorted({0, 100, *inner})))
    curves = [(x := data.draw(steps), slope * x) for slope in slopes]
    summary = summarise(curves)
    assert set(summary.steps) == set(np.concatenate([x for x, _ in curves]))
    np.testing.assert_allclose(summary.mean, np.mean(slopes) * summary.steps, atol=1e-9)


def test_the_mean_covers_what_all_seeds_cover():
    long, short = np.arange(0, 11), np.arange(2, 6)
    summary = summarise([(long, long), (short, short + 2.0)])
    np.testing.assert_array_equal(summary.steps, [2, 3, 4, 5])
    np.testing.assert_allclose(summary.mean, [3, 4, 5, 6])
    assert len(summarise([(np.array([0, 1]), np.ones(2)), (np.array([5, 6]), np.ones(2))]).steps) == 0
    assert len(summarise([]).steps) == 0


def test_of_two_values_at_a_step_the_last_counts_and_holes_are_bridged():
    summary = summarise([(np.array([0, 2, 2, 1, 4]), np.array([0.0, 9.0, 20.0, math.nan, 40.0]))])
    np.testing.assert_array_equal(summary.steps, [0, 2, 4])
    np.testing.assert_array_equal(summary.mean, [0, 20, 40])


def test_interquartile_mean_forgets_the_outer_quarters():
    assert interquartile_mean(np.array([-1e9, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1e9])) == 3.5


# --- curves of several runs


def test_groups_seeds_and_lengths(tmp_path):
    runs = [make_run(tmp_path / f"s{seed}", points=5 + seed, seed=seed) for seed in range(4)]
    runs += [make_run(tmp_path / f"d{s}", 4, method="drlhf", estimator=None, seed=s) for s in range(2)]
    runs += [make_run(tmp_path / "o", 1, estimator="one_step")]
    runs += [make_run(tmp_path / "c", 3, method="sac", estimator=None)]
    text = plot_runs(runs, tmp_path / "curves.svg").read_text()
    for label in (
        "SoBiRL (suffix), 4 seeds, 95 % interval",
        "DRLHF, 2 seeds<",
        "SoBiRL (one_step), 1 seed<",
        "SAC on the true reward, 1 seed<",
        "SAC on the true reward, at its end",
        "environment steps",
        "comparisons used",
    ):
        assert text.count(label) == 1, label
    out = plot_runs(runs, tmp_path / "curves.png")
    assert out == tmp_path / "curves.png"
    picture = imread(out)
    assert picture.shape[1] > picture.shape[0] > 400 and picture.std() > 0.02


@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
def test_any_number_of_seeds_and_runs_of_one_point(tmp_path, seeds):
    runs = [make_run(tmp_path / str(s), points=1 if s == seeds - 1 else 4, seed=s) for s in range(seeds)]
    assert plot_runs(runs, tmp_path / "curves.png").stat().st_size > 1000


def test_environments_stand_apart_and_a_run_given_twice_counts_once(tmp_path):
    runs = [make_run(tmp_path / str(i), env=env) for i, env in enumerate(("A-v1", "B$\\frac{-v1"))]
    text = plot_runs([*runs, runs[0], str(runs[0] / "..") + "/0"], tmp_path / "c.svg").read_text()
    assert "A-v1" in text and "B$\\frac{-v1" in text
    assert text.count("SoBiRL (suffix), 1 seed") == 2
    assert text.count("environment steps") == 2


def test_the_ceiling_alone_has_no_axis_of_comparisons(tmp_path):
    text = plot_runs([make_run(tmp_path / "c", method="sac", estimator=None)], tmp_path / "c.svg").read_text()
    assert "environment steps" in text and "comparisons used" not in text


def test_what_cannot_be_plotted_is_one_line_and_the_old_picture_stays(tmp_path):
    out = plot_runs([make_run(tmp_path / "good")], tmp_path / "c.png")
    before = out.read_bytes()
    empty = RunFolder.create(tmp_path / "empty", CONFIG).path
    unevaluated = make_run(tmp_path / "unevaluated", evaluations=False)
    for runs, target, says in [
        ([], out, "nothing to plot"),
        ([tmp_path / "nowhere"], out, "no run at"),
        ([empty], out, "no metrics"),
        ([unevaluated], out, "no evaluation yet"),
        ([tmp_path / "good"], tmp_path / "c.doc", "ends in .png"),
    ]:
        with pytest.raises(InputError, match=says) as caught:
            plot_runs(runs, target)
        assert "\n" not in str(caught.value)
    assert out.read_bytes() == before


# --- the figures of one run


def test_every_figure_is_there_in_the_colours_of_the_page(tmp_path):
    figures = run_figures(make_run(tmp_path / "run"))
    assert list(figures) == TITLES
    for svg in figures.values():
        assert svg.startswith("<svg") and "currentColor" in svg and "--curve-0" in svg
        assert "#010203" not in svg and "mathdefault" not in svg
        assert not re.search(r"<svg[^>]*\b(width|height)=", svg)


@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        ([], []),
        (["true_return"], ["True return"]),
        (["true_return_std"], []),
        (["cosine"], ["Hyper-gradient"]),
        (["second_norm", "q_mean"], ["Hyper-gradient", "Learner"]),
        (["step_ratio", "bellman_residual"], ["How far to trust it", "Has the policy answered?"]),
        (["share_leader"], ["Time"]),
    ],
)
def test_figures_without_data_are_left_out(tmp_path, columns, titles):
    path = make_run(tmp_path / "run", columns=columns)
    assert list(run_figures(path)) == titles
    assert page_of(path).tags.count("svg") == len(titles)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 1e300])
def test_figures_survive_odd_numbers(tmp_path, value):
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    metrics = Metrics(folder.metrics_path)
    floats = [name for name, dtype in metrics.frame().schema.items() if dtype == pl.Float64]
    for step in (0, 1):
        metrics.record(step=step, kind="leader", **dict.fromkeys(floats, value))
    metrics.flush()
    page = page_of(folder.path)
    assert ("Learning has diverged" in page.text) == (not math.isfinite(value))


# --- the report


def test_the_page_holds_every_setting_the_numbers_and_the_film(tmp_path):
    nested = {
        "reward": {"hidden": [64, 64], "rate": 3e-4},
        "resume": None,
        "fixed": True,
        "budget": 1_000_000,
    }
    path = make_run(tmp_path / "cheetah", seed=3, **nested)
    film = bytes(range(256))
    (path / "film.mp4").write_bytes(film)
    (path / "eval.json").write_text(json.dumps({"episodes": 20, "mean": -1.5}))
    page = page_of(path, ["Episodes end early."])
    rows = {row[0]: row[1] for row in page.rows}
    flat = {"reward.hidden": "[64, 64]", "reward.rate": "0.0003", "resume": "null", "fixed": "true"}
    expected = {name: str(value) for name, value in (CONFIG | {"seed": 3}).items()} | flat
    assert expected.items() <= rows.items()
    assert rows["budget"] == "1,000,000" and rows["episodes"] == "20" and rows["mean"] == "-1.5"
    assert "rewardsmith" in rows and "jax" in rows
    for part in (
        "cheetah",
        "SoBiRL (suffix)",
        "± 3 over episodes",
        "90.0%",
        "2,000",
        "2 min",
        "Episodes end early.",
    ):
        assert part in page.text, part
    (source,) = (value for tag, name, value in page.attributes if (tag, name) == ("video", "src"))
    assert base64.b64decode(source.removeprefix("data:video/mp4;base64,"), validate=True) == film
    assert "no film" not in page.text


def test_the_page_needs_nothing_beside_itself(tmp_path):
    path = make_run(tmp_path / "run")
    (path / "film.mp4").write_bytes(b"film")
    text = write_report(path).read_text()
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    for _, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "poster", "srcset", "action"):
            assert value.startswith(("#", "data:video/mp4;base64,")), value
        assert not name.startswith("on")
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_no_two_elements_share_an_id_and_every_reference_has_its_own(tmp_path):
    page = page_of(make_run(tmp_path / "run"))
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 50
    texts = " ".join(str(value) for _, _, value in page.attributes)
    wanted = set(re.findall(r"url\(#([^)]+)\)", texts))
    wanted |= {value[1:] for _, name, value in page.attributes if name == "xlink:href"}
    assert wanted and wanted <= set(ids)


def test_hostile_words_are_shown_and_not_obeyed(tmp_path):
    plain = page_of(make_run(tmp_path / "plain"), ["a warning"])
    everything = " ".join(HOSTILE)
    name = everything.replace("/", "")
    path = make_run(
        tmp_path / name,
        env=everything,
        method=everything,
        warnings=[everything],
        nested={text: text for text in HOSTILE},
    )
    (path / "eval.json").write_text(json.dumps({text: text for text in HOSTILE}))
    page = page_of(path, HOSTILE)
    for text in HOSTILE:
        assert [f"nested.{text}", text] in page.rows and [text, text] in page.rows
    assert page.text.count(name) == 2
    assert page.text.count(everything) >= 4
    assert set(page.tags) == set(plain.tags)
    plot_runs([path], tmp_path / "c.png")


def test_the_page_says_what_is_missing_or_went_wrong(tmp_path):
    empty = page_of(RunFolder.create(tmp_path / "empty", {}).path)
    assert "Nothing has been measured yet." in empty.text and "svg" not in empty.tags
    stopped = page_of(make_run(tmp_path / "stopped", points=3))
    assert "stopped at 1,000 of 2,000 steps" in stopped.text and "no film" in stopped.text
    assert "never evaluated" in page_of(make_run(tmp_path / "blind", evaluations=False)).text
    guessing = RunFolder.create(tmp_path / "guessing", CONFIG | {"warnings": ["Clips were cut."]})
    metrics = Metrics(guessing.metrics_path)
    metrics.record(step=2000, kind="leader", preference_accuracy=0.5)
    metrics.flush()
    text = page_of(guessing.path).text
    assert "The reward model guesses: accuracy 50%" in text and "Clips were cut." in text
    assert "stopped" not in text


def test_a_report_of_no_run_or_of_a_damaged_one_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no run at"):
        write_report(tmp_path / "nowhere")
    path = make_run(tmp_path / "run")
    page = write_report(path).read_bytes()
    (path / "eval.json").write_text("{")
    with pytest.raises(InputError, match="evaluate again"):
        write_report(path)
    (path / "metrics.parquet").write_bytes(b"x")
    with pytest.raises(InputError, match="damaged"):
        write_report(path)
    assert (path / "report.html").read_bytes() == page
