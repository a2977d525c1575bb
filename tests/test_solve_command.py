"""`solve` and `compare`: what they measure is so, what they write is whole, what they draw is there."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl
import pytest
from matplotlib.image import imread

import rewardsmith as rs
from rewardsmith._core import InputError
from rewardsmith._core.serialise import load_tree
from rewardsmith.problems import Grid, Task, make
from rewardsmith.runs.exact import build, run
from rewardsmith.runs.exact.build import build_method, build_task, check_methods
from rewardsmith.runs.exact.config import EXACT_METHODS, KNOBS, SolveConfig
from rewardsmith.runs.exact.measure import Measurer
from rewardsmith.runs.exact.picture import _directions, draw_grid
from rewardsmith.runs.exact.plot import plot_methods
from rewardsmith.runs.exact.records import SCHEMA, Records
from tests.commands import command

TINY = (
    "random-mdp --option states=4 --option actions=2 --option features=3 --steps 12 --evaluations 4".split()
)


def tiny_config(**settings):
    options = ("states=4", "actions=2", "features=3")
    return SolveConfig("random-mdp", options, steps=12, evaluations=4, **settings)


# ---- what they write ----------------------------------------------------------------------------


def test_solve_from_end_to_end(tmp_path, capsys):
    out = tmp_path / "run"
    assert command("solve", *TINY, "--seeds", 3, "--out", out) == 0
    told = capsys.readouterr().out
    assert "φ " in told and "95 % interval" in told and "‖∇φ‖" in told and "cosine 1.0000" in told
    assert all(str(out / name) in told for name in ("curves.png", "report.html"))
    assert {path.name for path in out.iterdir()} >= {"config.json", "metrics.parquet", "results.parquet"}
    assert not jax.config.read("jax_enable_x64"), "float64 is for the command alone"

    metrics = pl.read_parquet(out / "metrics.parquet")
    assert metrics.columns[: len(SCHEMA)] == list(SCHEMA) and metrics.columns[-1].startswith("outcome_")
    assert metrics["step"].to_list() == [0, 3, 6, 9, 12] * 3
    np.testing.assert_allclose(metrics["cosine"].to_numpy(), 1, atol=1e-12)
    np.testing.assert_allclose(metrics["relative_error"].to_numpy(), 0, atol=1e-7)
    for rows in metrics.partition_by("seed"):
        assert rows["phi"][-1] < rows["phi"][0]
        assert all(np.all(np.diff(rows[name].to_numpy()) > 0) for name in ("seconds", "oracle_calls"))
    config = json.loads((out / "config.json").read_text())
    assert config["methods"] == ["implicit-gradient"] and config["used"]["steps"] == 12
    assert config["versions"]["jax"]
    page = (out / "report.html").read_text()
    assert "data:image/png;base64," in page and "implicit-gradient" in page and "://" not in page
    assert imread(out / "curves.png")[..., :3].std() > 0.05

    with jax.enable_x64(True):
        task = build_task(tiny_config())
        x = load_tree(out / "solutions" / "implicit-gradient-1.safetensors", task.start(jax.random.key(0)))
        phi, gradient = rs.hypergradient(task.problem, x)
        last = metrics.filter((pl.col("seed") == 1) & (pl.col("step") == 12))
        np.testing.assert_allclose(last["phi"][0], phi, rtol=1e-12)
        np.testing.assert_allclose(last["gradient_norm"][0], optax.tree.norm(gradient), rtol=1e-9)

    assert command("solve", *TINY, "--out", out) == 2
    assert f"already holds a run: go on with --resume {out}" in capsys.readouterr().err


def test_compare_keeps_a_method_that_fails(tmp_path, monkeypatch, capsys):
    whole = run.build_method

    def broken(name, config, step_size):
        if name == "unrolled-gradient":
            raise InputError("not for this problem")
        return whole(name, config, step_size)

    monkeypatch.setattr(run, "build_method", broken)
    out = tmp_path / "run"
    methods = ["m-sobirl", "unrolled-gradient", "implicit-gradient"]
    assert command("compare", *TINY, "--methods", *methods, "--out", out) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in methods) and "not for this problem" in told
    table = pl.read_parquet(out / "compare.parquet")
    assert table["method"].to_list() == methods
    assert table["runs"].to_list() == [1, 0, 1] and table["failed"].to_list() == [0, 1, 0]
    assert table["reason"].to_list() == [None, "not for this problem", None]
    assert table["phi"].is_null().to_list() == [False, True, False] and table["phi_low"].is_null().all()
    assert table["sweeps"][0] > 0 and table["samples"][0] == 0
    metrics = pl.read_parquet(out / "metrics.parquet")
    first = metrics.filter(pl.col("step") == 0)["phi"]
    assert len(first) == 2 and first[0] == first[1], "the same starts"
    assert "not for this problem" in (out / "report.html").read_text()


def test_a_run_that_diverges_ends_in_one_line(tmp_path, capsys):
    out = tmp_path / "run"
    assert command("solve", *TINY, "--step-size", 1e200, "--out", out) == 2
    told = capsys.readouterr().err
    assert "give a smaller --step-size" in told and told.count("\n") == 1
    assert len(Records(out).failed()) == 1 and (out / "report.html").exists()


def test_resume_does_what_is_missing_and_only_that(tmp_path, monkeypatch, capsys):
    whole, done = Measurer.run, []

    def stopped(self, method, seed, seen):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(seed)
        return whole(self, method, seed, seen)

    monkeypatch.setattr(Measurer, "run", stopped)
    out, uncut = tmp_path / "run", tmp_path / "uncut"
    arguments = [*TINY, "--method", "m-sobirl", "--seeds", 2]
    assert command("solve", *arguments, "--out", out) == 130
    assert done == [0] and not (out / "report.html").exists()

    def counted(self, method, seed, seen):
        done.append(seed)
        return whole(self, method, seed, seen)

    monkeypatch.setattr(Measurer, "run", counted)
    assert command("solve", "--resume", out) == 0
    assert done == [0, 1]
    assert command("solve", "--resume", out) == 0 and done == [0, 1], "a finished run is finished again"
    assert command("solve", *arguments, "--out", uncut) == 0
    both = [pl.read_parquet(path / "metrics.parquet").drop("seconds") for path in (out, uncut)]
    assert both[0].equals(both[1])
    capsys.readouterr()
    assert command("compare", "--resume", out) == 2
    assert f"go on with rewardsmith solve --resume {out}" in capsys.readouterr().err


# ---- what they measure --------------------------------------------------------------------------


def test_measuring_and_annealing_leave_a_run_as_solve_makes_it():
    with jax.enable_x64(True):
        config = tiny_config(anneal_from=3.0)
        task = build_task(config)
        method = build_method("m-sobirl", config, 0.05)
        measured = Measurer(task, config, 12).run(method, 4, lambda row: None)
        taus = [row["temperature"] for row in measured.rows]
        np.testing.assert_allclose(taus, [3 * 3 ** -min(k / 7.2, 1) for k in (0, 3, 6, 9, 12)], rtol=1e-12)
        start_key, method_key = jax.random.split(jax.random.key(4))
        x0 = task.start(start_key)
        schedule = lambda step: 3.0 * (1 / 3) ** jnp.minimum(step / 7.2, 1.0)  # noqa: E731
        uncut = rs.solve(task.problem, method, x0, 12, key=method_key, temperature=schedule)
        np.testing.assert_allclose(measured.x, uncut.value, rtol=1e-12)
        assert measured.rows[-1]["sweeps"] == uncut.stats.sweeps.sum()
        np.testing.assert_allclose(measured.rows[-1]["residual"], uncut.stats.residual[-1], rtol=1e-9)


def test_cosine_and_error_are_those_of_the_estimate_at_the_same_x():
    with jax.enable_x64(True):
        config = tiny_config()
        task = build_task(config)
        method = build_method("unrolled-gradient", SolveConfig(sweeps=1), 0.05)
        row = Measurer(task, config, 12).run(method, 0, lambda row: None).rows[0]
        start_key, key = jax.random.split(jax.random.key(0))
        x0 = task.start(start_key)
        g = method.step(task.problem, method.init(task.problem, x0, key))[0].gradient
        phi, exact = rs.hypergradient(task.problem, x0)
        assert row["phi"] == float(phi)
        np.testing.assert_allclose(row["cosine"], g @ exact / jnp.linalg.norm(g) / jnp.linalg.norm(exact))
        np.testing.assert_allclose(row["relative_error"], jnp.linalg.norm(g - exact) / jnp.linalg.norm(exact))
        assert row["cosine"] < 1 - 1e-6


def test_a_tolerance_ends_a_run():
    with jax.enable_x64(True):
        config = tiny_config(tolerance=1e9)
        method = build_method("implicit-gradient", config, 0.05)
        rows = Measurer(build_task(config), config, 12).run(method, 0, lambda row: None).rows
        assert [row["step"] for row in rows] == [0, 1]


# ---- settings -----------------------------------------------------------------------------------


def test_options_are_parsed():
    config = SolveConfig(option=("a=3", "b=0.5", "c=mixed", "d=true", "e-f=none", "g=x=y"))
    assert config.options == {"a": 3, "b": 0.5, "c": "mixed", "d": True, "e_f": None, "g": "x=y"}
    assert type(config.options["a"]) is int


def test_temperature_and_options_reach_the_problem():
    task = build_task(SolveConfig("random-mdp", ("states=3",), temperature=0.25))
    assert float(task.problem.temperature) == 0.25 and task.problem.world.num_states == 3


def test_settings_reach_the_methods():
    config = SolveConfig(sweeps=3, adjoint="neumann", adjoint_steps=7, adjoint_step_size=0.25)
    m_sobirl = build_method("m-sobirl", config, 0.01)
    assert m_sobirl.sweeps == 3 and m_sobirl.adjoint_step_size == 0.25
    implicit = build_method("implicit-gradient", config, 0.01)
    assert implicit.sweeps == 3 and implicit.adjoint.terms == 7
    assert m_sobirl.adjoint_update == "gradient" and m_sobirl.adjoint_steps == 1
    check_methods(["m-sobirl", "implicit-gradient"], config)
    swept = build_method("m-sobirl", SolveConfig(adjoint_update="sweep", adjoint_steps=9), 0.01)
    assert swept.adjoint_update == "sweep" and swept.adjoint_steps == 9


@pytest.mark.parametrize("name", EXACT_METHODS)
def test_each_method_takes_the_settings_said_to_be_its_own(name):
    method, fixed, knobs = build._NOUNS[name]
    fields = set(method.__dataclass_fields__)
    assert set(knobs) <= set(KNOBS) and fields >= {*fixed, *knobs} - {"adjoint_steps"}
    assert build_method(name, SolveConfig(), 0.1).step_size == 0.1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("solve", "no problem given: choose one of random-mdp, "),
        ("solve nowhere", "unknown problem 'nowhere': choose one of random-mdp, "),
        ("solve random-mdp --method foo", "unknown method 'foo': choose one of implicit-gradient, "),
        ("compare random-mdp --methods m-sobirl foo", "unknown method 'foo': choose one of"),
        ("compare random-mdp --methods m-sobirl m-sobirl", "a method is named twice"),
        ("solve random-mdp --option rooms=3", "has no option 'rooms': its options are states, "),
        ("solve random-mdp --option states", "give KEY=VALUE"),
        ("solve random-mdp --option states=0", "states"),
        ("solve random-mdp --steps 0", "--steps is 0: give a whole number of at least 1"),
        ("solve random-mdp --seeds 0", "--seeds is 0"),
        ("solve random-mdp --seed -1", "--seed is -1"),
        ("solve random-mdp --step-size nan", "--step-size is nan: give a positive number"),
        ("solve random-mdp --temperature 0", "--temperature is 0.0"),
        ("solve random-mdp --tolerance -1", "--tolerance is -1.0"),
        ("solve random-mdp --optimiser lion", "choose one of adam, sgd"),
        ("solve random-mdp --adjoint lu", "choose one of exact, neumann, cg"),
        ("solve random-mdp --adjoint-steps 5", "give one of them too"),
        ("solve random-mdp --method m-sobirl --adjoint-update newton", "choose one of gradient, sweep"),
        ("solve random-mdp --perturbation 0.1", "--perturbation means nothing to implicit-gradient"),
        ("solve --resume nowhere", "no run at nowhere"),
        ("solve random-mdp --resume nowhere", "give no other option with it"),
        ("compare --methods m-sobirl --resume nowhere", "give no other option with it"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(*arguments.split()) == 2
    told = capsys.readouterr()
    assert told.out == "" and says in told.err
    assert told.err.startswith("rewardsmith: ") and told.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_and_list(capsys):
    assert command("compare", "--help") == 0
    told = capsys.readouterr().out
    assert "PROBLEM" in told and "--anneal-from" in told and "--resume" in told
    assert command("list") == 0
    told = capsys.readouterr().out
    assert "four-rooms" in told and "implicit-gradient" in told and "sobirl" in told


# ---- pictures -----------------------------------------------------------------------------------


def grid_task():
    """A corridor of five cells above a wall; actions right, left, stay; the right end is the goal."""
    cells = tuple((0, column) for column in range(5))
    moves = np.zeros((5, 3, 5))
    for s in range(4):
        moves[s, [0, 1, 2], [s + 1, max(s - 1, 0), s]] = 1
    world = rs.MDP(np.asarray(moves, np.float32), np.eye(5)[0], 0.9)
    goal = jnp.zeros((5, 3)).at[4].set(1.0)
    problem = rs.BilevelProblem(
        world, lambda x: goal + x[:, None], rs.PolicyDivergence(np.full((5, 3), 1 / 3)), 0.1
    )
    return Task(
        "corridor", "walk", problem, lambda key: jnp.zeros(5), 0.1, 3, lambda x, policy: {},
        Grid((2, 5), cells, marks={"start": (0, 0), "goal": (0, 4)}), lambda x: x,
    )  # fmt: skip


def test_directions_are_read_off_the_world():
    task = grid_task()
    np.testing.assert_allclose(_directions(task.problem.world, task.grid), [[0, 1], [0, -1], [0, 0]])


def test_a_grid_is_drawn(tmp_path):
    task = grid_task()
    plain = draw_grid(task, jnp.zeros(5), "before", tmp_path / "plain.png")
    paid = draw_grid(task, jnp.asarray([0.0, 0.5, 0.0, 0.0, -0.5]), "after", tmp_path / "paid.png")
    pictures = [imread(path)[..., :3] for path in (plain, paid)]
    assert all(len(np.unique(p.reshape(-1, 3).round(2), axis=0)) > 50 for p in pictures)
    wall = np.array([0x3A, 0x40, 0x48]) / 255
    assert all(np.mean(np.all(abs(p - wall) < 0.01, axis=-1)) > 0.1 for p in pictures)
    # The maps of the payment: the left third, above the colour bar.
    left = [p[: p.shape[0] // 2, : p.shape[1] // 3] for p in pictures]
    blue, red = ([np.mean(sign * (p[..., 2] - p[..., 0]) > 0.25) for p in left] for sign in (1, -1))
    assert blue[0] == 0 and red[0] == 0, "nothing is paid"
    assert blue[1] > 0.02 and red[1] > 0.02, "what is paid is blue, what is charged red"


def test_four_rooms_has_both_followers_in_its_picture(tmp_path):
    task = make("four-rooms")
    x = jax.tree.map(jnp.zeros_like, eqx.filter(task.start(jax.random.key(0)), eqx.is_array))
    wide = imread(draw_grid(task, x, "zero", tmp_path / "picture.png"))
    assert wide.shape[0] > 800 and wide.shape[1] > 1200


def test_curves_of_many_methods_and_of_failed_runs(tmp_path):
    rows = []
    for index in range(9):
        for seed in range(3):
            for step in range(0, 50, 10):
                phi = (1 + index) * np.exp(-step / 20) + 0.1 * seed
                rows.append({"method": f"method {index}", "seed": seed, "step": step, "phi": phi})
                rows[-1] |= {"seconds": step * 10.0 ** (index - 6), "gradient_norm": phi, "cosine": 0.5}
    metrics = pl.DataFrame(rows)
    sizes = []
    for failed in ([], [("method 0", seed) for seed in range(3)]):
        picture = imread(plot_methods(metrics, "many", tmp_path / "curves.png", failed))
        assert picture[..., :3].std() > 0.05
        sizes.append(picture)
    assert not np.array_equal(*sizes)


def test_a_search_gives_the_start_and_its_cost_is_counted(tmp_path):
    options = [
        "--option=states=4",
        "--option=actions=2",
        "--option=features=3",
        "--evaluations=2",
        "--steps=4",
    ]
    for name, more in (("plain", []), ("searched", ["--rungs=2"])):
        command("solve", "random-mdp", *options, *more, "--out", tmp_path / name)
    plain, searched = (
        pl.read_parquet(tmp_path / name / "metrics.parquet").sort("step") for name in ("plain", "searched")
    )
    assert searched["phi"][0] < plain["phi"][0]
    assert searched["oracle_calls"][0] > 0 == plain["oracle_calls"][0]
    with pytest.raises(InputError, match="--rungs cools by itself"):
        SolveConfig(rungs=2, anneal_from=1.0)
