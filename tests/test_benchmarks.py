"""The pure parts of the benchmarks: what is compared is the same, and the page says what was measured."""

import dataclasses
import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as imageio
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

import rewardsmith as rs
from benchmarks import (
    atari_batch,
    atari_learner,
    end_to_end,
    environments,
    exact_world,
    four_rooms,
    kept,
    page,
    picture_reward,
    random_world,
    reward_model,
    rounds,
    sac_learner,
    scale,
)
from benchmarks.rounds import Row
from benchmarks.subject import OURS, PEERS, Side, Subject
from benchmarks.worker import WorkerError

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


def test_a_session_of_the_leader_is_timed_for_any_ensemble():
    measure = reward_model.build()
    assert measure(2, "compiled", members=2, steps=1) > 0 and measure(1, "loop") > 0


@pytest.mark.usefixtures("double_precision")
def test_m_sobirl_takes_the_steps_that_its_peers_are_held_against():
    task, method = exact_world.random_task(10), exact_world.m_sobirl(10)
    exact_world.check_iterates(task, method, 10)
    other = dataclasses.replace(random_world.make(10), step_size=7e-3)
    x, loss = random_world.iterate(other, random_world.CHECKED)
    with pytest.raises(AssertionError):
        random_world.check_same(random_world.make(10), x, loss)


def test_the_atari_learner_takes_the_updates_that_its_peers_are_held_against():
    found = atari_learner.first_updates()
    atari_batch.check_same(found)
    for name in found:
        with pytest.raises(AssertionError, match=name):
            atari_batch.check_same(found | {name: np.multiply(found[name], 1.01)})


def test_an_update_of_the_reward_on_pictures_learns():
    assert picture_reward.compared(3)["observations"].shape == (3, 2, 3 + 25, 84, 84, 1)
    update = picture_reward.make_update(1)
    assert 0.1 < update() != update()


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(
    "module", [sac_learner, atari_learner, end_to_end, reward_model, exact_world, environments]
)
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
        self.versions, self.core, self.asked = {program[0]: "1"}, core, []

    def start(self, **options):
        self.asked.append(options)

    def finish(self):
        return self.measure(**self.asked.pop(0))

    def measure(self, count, each):
        if each is None:
            raise WorkerError("not here")
        CALLS.append((count, each))
        CORES.append(self.core)
        return count * each

    def move(self, core):
        self.core = core

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def close(self):
        pass


CALLS: list[tuple[int, float]] = []
CORES: list[int | None] = []


def test_a_program_that_keeps_freed_memory_is_the_same_program(monkeypatch):
    told = []
    setting = {"keep_freed_memory": lambda: told.append("memory")}
    monkeypatch.setattr(kept.runpy, "run_path", lambda path: setting)

    def started(name):
        told.append(name)
        return SimpleNamespace(PACKAGES=("a",), build=lambda *arguments: arguments)

    monkeypatch.setattr(kept.importlib, "import_module", started)
    monkeypatch.setattr(kept, "PACKAGES", ())
    assert kept.build("program", "b") == ("b",)
    assert told == ["memory", "program"] and kept.PACKAGES == ("a",)


def test_sides_take_turns_of_the_wanted_length(monkeypatch):
    monkeypatch.setattr(rounds, "Worker", Clock)
    CALLS.clear()
    sides = (
        Side("fast", ("ours",), {"each": 0.001}, multiple=8),
        Side("slow", ("peers",), {"each": 0.004}, home=PEERS),
    )
    subject = dataclasses.replace(SUBJECT, sides=sides)
    pythons = {OURS: Path("a"), PEERS: Path("b")}
    measured = rounds.measure(subject, pythons, [4, 5], lambda text: None)
    assert CALLS[-6:] == [(1000, 0.001), (250, 0.004)] * 3
    assert CORES[:2] == [4, 5] and set(CORES[2:]) == {4}
    assert measured.rows(subject)[0].ratios == pytest.approx([4.0] * 3)
    assert measured.versions == {OURS: {"ours": "1"}, PEERS: {"peers": "1"}}
    absent = rounds.measure(subject, pythons | {PEERS: None}, [4, 5], lambda text: None)
    row = absent.rows(subject)[0]
    assert row.our_rates == pytest.approx([1000.0] * 3) and row.peer_rates == ()
    assert PEERS not in absent.versions


def test_copies_run_at_once_a_core_each_until_the_last_is_done(monkeypatch):
    class Uneven(Clock):
        def measure(self, count, each):
            return super().measure(count, each * (1 + self.core))

    monkeypatch.setattr(rounds, "Worker", Uneven)
    CORES.clear()
    side = Side("two", ("ours",), {"each": 0.001}, copies=2)
    subject = dataclasses.replace(SUBJECT, sides=(side,), ratios=())
    rates = rounds.measure(subject, {OURS: Path("a")}, [0, 1], lambda text: None).rates["two"]
    # 500 of each in a second, for core 1 takes twice as long as core 0.
    assert rates == pytest.approx([1000.0] * 3) and CORES[-4:] == [0, 1, 0, 1]
    told: list[str] = []
    assert rounds.measure(subject, {OURS: Path("a")}, [0], told.append).rates == {"two": ()}
    assert "needs 2 cores" in told[0]


def test_a_peer_that_fails_is_absent_and_ours_is_an_error(monkeypatch):
    monkeypatch.setattr(rounds, "Worker", Clock)
    sides = (Side("fast", ("ours",), {"each": 0.001}), Side("slow", ("peers",), {"each": None}, home=PEERS))
    subject, pythons = dataclasses.replace(SUBJECT, sides=sides), {OURS: Path("a"), PEERS: Path("b")}
    told: list[str] = []
    measured = rounds.measure(subject, pythons, [0], told.append)
    assert measured.rates["slow"] == () and len(measured.rates["fast"]) == 3
    assert "speed: slow is absent: not here" in told
    sides = (dataclasses.replace(sides[0], options={"each": None}), sides[1])
    with pytest.raises(WorkerError, match="not here"):
        rounds.measure(dataclasses.replace(subject, sides=sides), pythons, [0], told.append)


# --- what is written


def test_the_page_gives_median_spread_and_circumstances():
    text = page.render([SUBJECT], [a_row()], [], WHERE)
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
    assert "busy" in page.render([SUBJECT], [a_row()], [], dataclasses.replace(WHERE, load=3.0))


def test_an_absent_peer_is_said_to_be_absent():
    text = page.render([SUBJECT], [a_row(peer_rates=())], [], WHERE)
    assert f"| fast | slow | 300 | {rounds.ABSENT} | | |" in text
    text = page.render([SUBJECT], [a_row(our_rates=(), peer_rates=())], [], WHERE)
    assert f"| fast | slow | {rounds.ABSENT} | {rounds.ABSENT} | | |" in text


def test_page_and_table_are_written_and_hold_every_round(tmp_path):
    point = Row("curve", "updates/s", "batch of 8", None, (7.0,), series="one", x=8)
    frame = page.table([a_row(), a_row(peer="gone", peer_rates=()), point], WHERE)
    path = page.write(tmp_path, "found", page.render([SUBJECT], [a_row()], ["", "more"], WHERE), frame)
    assert path.read_text(encoding="utf-8").endswith("\nmore\n")
    frame = pl.read_parquet(tmp_path / "found.parquet")
    ratio, absent, alone = frame.rows(named=True)
    assert (ratio["ratio"], ratio["ratio_min"], ratio["ratio_max"]) == (2.0, 1.25, 3.0)
    assert ratio["our_rates"] == [200.0, 300.0, 500.0] and ratio["peer_rates"] == [100.0, 100.0, 400.0]
    assert json.loads(ratio["versions"]) == WHERE.versions
    assert absent["ratio"] is None and absent["peer_rates"] == []
    assert (alone["series"], alone["x"], alone["our_rates"], alone["peer"]) == ("one", 8, [7.0], None)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["found.md", "found.parquet"]


# --- scale


def a_point(**changes):
    point = scale.Point("grid", 100, 2.0, 0.01, 3.0, 0.02, 1e-7, 12, 2**30, 2e-9, "dense table")
    return dataclasses.replace(point, **changes)


def test_sparse_worlds_are_of_the_size_asked_for_and_the_grid_is_a_grid():
    for name in ("grid", "random"):
        to, weights = scale.sparse_table(name, 1000)
        assert to.shape == weights.shape == (1000, 4, 4)
        assert to.min() == 0 and to.max() == 999
        np.testing.assert_allclose(weights.sum(axis=2), 1.0)
    to, weights = scale.sparse_table("grid", 1000)  # 25 rows of 40
    assert to[0, 0].tolist() == [0, 1, 40, 0] and to[999, 2].tolist() == [959, 999, 999, 998]
    assert weights[5, 1].argmax() == 1 and weights[5, 1, 1] == pytest.approx(0.9)


@pytest.mark.usefixtures("double_precision")
def test_both_checks_of_the_gradient_can_fail():
    to, weights = scale.sparse_table("random", 20)
    problem, x = scale.make_problem(rs.SparseTransition(to, weights)), jnp.zeros(20)
    gradient = rs.hypergradient(problem, x)[1]
    wrong = gradient.at[3].mul(1.1)
    for check in (
        lambda g: scale._against_dense(to, weights, x, g),
        lambda g: scale._against_differences(problem, g),
    ):
        assert check(gradient) < 1e-5 < 1e-4 < check(wrong)


def test_a_child_measures_one_size():
    point, versions = scale.measure_point(None, "random", 100)
    assert {"Python", "rewardsmith", "jax"} <= set(versions)
    assert point.states == 100 and 0 < point.residual <= 1e-6 and point.error < 1e-5
    assert point.solve_first > point.solve > 0 and point.gradient_first > point.gradient > 0
    assert 0.1 < point.memory / 2**30 < 4


def test_the_page_of_scale_gives_every_size(tmp_path):
    points = [a_point(), a_point(world="random", states=10_000, check="finite difference")]
    text = scale.render(points, {10: 3.2e-5, 1000: 0.02}, WHERE)
    assert "| grid | 100 | 2 | 0.01 | 3 | 0.02 | 1.0e-07 | 12 | 1.00 GiB | 2e-09 | dense table |" in text
    assert "| random | 10,000 |" in text
    assert "| 10 | 0.032 |" in text and "| 1,000 | 20 |" in text
    for told in ("a machine, 2 cores", "pinned to core 1", "2000-01-01", "rewardsmith 0.1.0"):
        assert told in text
    assert "## M-SoBiRL" not in scale.render(points, {}, WHERE)
    scale.draw(points, {10: 3.2e-5}, tmp_path / "scale.png")
    assert imageio.imread(tmp_path / "scale.png").std() > 0


# --- Four-Rooms


def a_run(seed, leader_return, cell=(0.003, 5), steps=2320, seconds=6.0):
    return four_rooms.Run(cell[0], cell[1], seed, leader_return, steps, seconds, [0.0] * 105)


def test_the_table_of_four_rooms_counts_seeds_against_the_best_published():
    runs = [a_run(0, 0.32), a_run(1, 0.319), a_run(2, 0.4, seconds=9.0), a_run(0, 1.2, (0.005, 1))]
    text = four_rooms.render(runs, [0, 1], WHERE)
    assert (
        "| 0.003 | 5 | 0.29 ± 0.003 | **0.32 ± 0.000** | **0.32 ± 0.002** | 0.346 | 0.319 | 0.400 "
        "| 2 of 3 | 2,320 | 6.0 (6.0 – 9.0) |"
    ) in text
    assert "| **1.28 ± 0.003** | 1.15 ± 0.026 | 1.200 | 1.200 | 1.200 | 0 of 1 |" in text
    for told in (
        "seeds 0 to 2",
        "processes: 2, each pinned",
        "2000-01-01",
        "rewardsmith 0.1.0",
        "polish=200",
    ):
        assert told in text
    assert "not pinned" in four_rooms.render(runs, [None], WHERE)
    assert [run.leader_return for run in four_rooms.best_at(runs, 5)] == [0.4]


def test_every_seed_of_every_cell_is_run_once(monkeypatch):
    class Searcher(Clock):
        def measure(self, *, temperature, penalty, seed):  # pyright: ignore
            return dataclasses.asdict(a_run(seed, 0.1 * seed, (temperature, penalty)))

    monkeypatch.setattr(four_rooms, "Worker", Searcher)
    told, cells = [], list(four_rooms.PUBLISHED)
    runs, versions = four_rooms.measure(cells, 2, [0, 1], told.append)
    assert [(run.cell, run.seed) for run in runs] == [(cell, seed) for cell in cells for seed in (0, 1)]
    assert len(told) == 18 and versions == {"benchmarks.four_rooms": "1"}


@pytest.mark.usefixtures("double_precision")
def test_a_search_is_scored_exactly(monkeypatch):
    cell = (0.005, 3)
    task, method = four_rooms.make_task(cell), rs.ImplicitGradient(0.2)
    x, signature, asked = task.start(jax.random.key(7)), inspect.signature(rs.search), {}

    def searched(*positional, **named):
        asked.update(signature.bind(*positional, **named).arguments)
        return SimpleNamespace(value=x, seconds=np.array([0.1, 0.3]), num_steps=jnp.asarray(2))

    monkeypatch.setattr(rs, "search", searched)
    found = four_rooms.run(task, method, cell, 4, four_rooms.SETTINGS)
    assert asked["ease"] is task.ease is not None and asked["key"] == jax.random.key(4)
    assert (found.cell, found.seed, found.steps, found.seconds) == (cell, 4, 2, 0.3)
    np.testing.assert_array_equal(found.x, x)
    answer = rs.solve_follower(task.problem.world, task.problem.reward(x), 0.005)
    returns = task.outcomes(x, answer.policy)["leader return"]
    assert found.leader_return == pytest.approx(float(returns), rel=1e-9)


def test_solutions_are_drawn_one_below_the_other(monkeypatch, tmp_path):
    def blank(task, x, title, out):
        shade, width = (50, 40) if "0.001" in title else (150, 60)
        assert task.name == "four-rooms" and x.shape == (105,) and "leader return 0.400" in title
        imageio.imwrite(out, np.full((20, width, 3), shade, np.uint8))
        return out

    monkeypatch.setattr(four_rooms, "draw_grid", blank)
    runs = [a_run(0, 0.4, (tau, 3)) for tau in (0.001, 0.005)]
    four_rooms.draw(runs, tmp_path / "both.png")
    picture = imageio.imread(tmp_path / "both.png")
    assert picture.shape == (20, 30, 3)
    assert (picture[:10, :20] == 50).all() and (picture[:10, 20:] == 255).all()
    assert (picture[10:] == 150).all()
