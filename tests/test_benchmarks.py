"""The pure parts of the benchmarks: what is compared is the same, and the page says what was measured."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest

from benchmarks import end_to_end, environments, page, reward_model, rounds, sac_learner
from benchmarks.rounds import Row
from benchmarks.subject import OURS, PEERS, Side, Subject

SUBJECT = Subject("speed", "Speed", "How fast.", "updates/s", (), (("fast", "slow"),), 3, 1.0)
WHERE = page.Circumstances(
    "a machine", 2, 1, 0.1, "2000-01-01 00:00 UTC", "python -m benchmarks", {OURS: {"rewardsmith": "0.1.0"}}
)


def a_row(**changes):
    row = Row("speed", "updates/s", "fast", "slow", (200.0, 300.0, 500.0), (100.0, 100.0, 400.0))
    return dataclasses.replace(row, **changes)


# --- equal work


def test_the_loop_over_pairs_has_the_gradient_of_the_compiled_call():
    problem = reward_model.make_problem()
    clips = reward_model.make_clips(5, np.random.default_rng(0))
    x = reward_model.make_reward(jax.random.key(0))
    pairs = np.array([4, 1, 1])
    ours = reward_model.batch_gradient(problem, x, clips, pairs)
    loop = reward_model.PairLoop(problem)
    reward_model.check_equal(loop.gradient(x, clips, pairs), ours)
    with pytest.raises(AssertionError):
        reward_model.check_equal(loop.gradient(x, clips, np.array([4, 1, 2])), ours)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("module", [sac_learner, end_to_end, reward_model, environments])
def test_a_ratio_is_of_two_sides_that_are_measured(module, quick):
    subject = module.subject(quick)
    labels = [side.label for side in subject.sides]
    assert len(set(labels)) == len(labels)
    assert {label for ratio in subject.ratios for label in ratio} == set(labels)
    assert subject.rounds >= 5


# --- ratios


def test_a_ratio_is_of_the_same_round():
    row = a_row()
    assert row.ratios == [2.0, 3.0, 1.25]
    assert rounds.summary(row.ratios) == (2.0, 1.25, 3.0)


class Clock:
    """In place of a process: every unit takes as long as its options say."""

    def __init__(self, python, core, program):
        self.versions = {program[0]: "1"}

    def measure(self, count, each):
        CALLS.append((count, each))
        return count * each

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


CALLS: list[tuple[int, float]] = []


def test_sides_take_turns_of_the_wanted_length(monkeypatch):
    monkeypatch.setattr(rounds, "Worker", Clock)
    CALLS.clear()
    sides = (
        Side("fast", ("ours",), {"each": 0.001}, multiple=8),
        Side("slow", ("peers",), {"each": 0.004}, home=PEERS),
    )
    subject = dataclasses.replace(SUBJECT, sides=sides)
    rows, versions = rounds.measure(subject, {OURS: Path("a"), PEERS: Path("b")}, 0, lambda text: None)
    assert CALLS[-6:] == [(1000, 0.001), (250, 0.004)] * 3
    assert rows[0].ratios == pytest.approx([4.0] * 3)
    assert versions == {OURS: {"ours": "1"}, PEERS: {"peers": "1"}}
    absent, versions = rounds.measure(subject, {OURS: Path("a"), PEERS: None}, 0, lambda text: None)
    assert absent[0].our_rates == pytest.approx([1000.0] * 3) and absent[0].peer_rates == ()
    assert PEERS not in versions


# --- what is written


def test_the_page_gives_median_spread_and_circumstances():
    text = page.render([SUBJECT], [a_row()], {}, WHERE)
    assert "| fast | slow | 300 | 100 | 2.00 | 1.25 – 3.00 |" in text
    for told in (
        "## Speed",
        "a machine, 2 cores",
        "core 1 for both sides",
        "2000-01-01",
        "rewardsmith 0.1.0",
    ):
        assert told in text
    assert "busy" not in text
    assert "busy" in page.render([SUBJECT], [a_row()], {}, dataclasses.replace(WHERE, load=3.0))


def test_an_absent_peer_is_said_to_be_absent():
    text = page.render([SUBJECT], [a_row(peer_rates=())], {}, WHERE)
    assert f"| fast | slow | 300 | {rounds.ABSENT} | | |" in text


def test_page_and_table_are_written_and_hold_every_round(tmp_path):
    shares = {"env": 0.1, "learner": 0.6, "leader": 0.2, "rest": 0.1, "steps_per_second": 200.0}
    subject = dataclasses.replace(SUBJECT, name="end-to-end")
    rows = [a_row(subject="end-to-end"), a_row(subject="end-to-end", peer="gone", peer_rates=())]
    path = page.write(tmp_path, [subject], rows, shares, WHERE)
    assert "learner 60.0%" in path.read_text(encoding="utf-8")
    frame = pl.read_parquet(tmp_path / "benchmarks.parquet")
    ratio, absent = frame.filter(pl.col("subject") == "end-to-end").rows(named=True)
    assert (ratio["ratio"], ratio["ratio_min"], ratio["ratio_max"]) == (2.0, 1.25, 3.0)
    assert ratio["our_rates"] == [200.0, 300.0, 500.0] and ratio["peer_rates"] == [100.0, 100.0, 400.0]
    assert json.loads(ratio["versions"]) == WHERE.versions
    assert absent["ratio"] is None and absent["peer_rates"] == []
    assert frame.filter(pl.col("ours") == "learner")["our_rates"].to_list() == [[0.6]]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["benchmarks.md", "benchmarks.parquet"]
