"""The benchmark problems: worlds, gradients and what each is there to show."""

import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rewardsmith as rs
from rewardsmith.mdp import expect, probability
from rewardsmith.mdp.transition import under
from rewardsmith.problems import (
    TASKS,
    Task,
    inverse_rl,
    make,
    navigation,
    preference_from,
    random_mdp_from,
    shaping,
)
from rewardsmith.problems import four_rooms as rooms
from rewardsmith.problems._copies import Copies
from rewardsmith.problems._gridworld import GridMap, dense_table, slip_matrix, sparse_moves

REFERENCE = Path(__file__).parent / "reference"

# Name, options for a small one, shape of x.
SMALL = [
    ("random-mdp", {"states": 4, "actions": 3, "features": 6}, (6,)),
    ("four-rooms", {}, (105,)),
    ("four-rooms", {"sparse": True, "kernel": "uniform-move", "penalty": 3.0, "temperature": 0.02}, (105,)),
    ("tax", {"points": 21, "hours": 3, "levels": 2}, (4,)),
    ("shaping", {}, (2,)),
    ("shaping", {"kind": "useless", "weight": "per-state", "temperature": 0.3}, (51,)),
    ("stackelberg", {"states": 8}, (8, 4)),
    ("stackelberg", {"states": 8, "moves_world": True}, (8, 4)),
    ("contract", {"levels": 6}, (5,)),
    ("contract", {"levels": 6, "outcome_classes": 3, "per_state": True}, (6, 3)),
    ("inverse-rl", {"demonstrations": 5}, (4,)),
    ("navigation", {}, (165,)),
    ("navigation", {"norm": "l1"}, (165,)),
    ("preference", {}, (4,)),
]
NAMES = [f"{name}-{i}" for i, (name, _, _) in enumerate(SMALL)]


pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture(params=SMALL, ids=NAMES)
def case(request):
    name, options, shape = request.param
    return make(name, **options), shape


def best_response(task, x):
    problem = task.problem
    return rs.solve_follower(problem.world_at(x), problem.reward(x), problem.temperature)


def phi(task, x):
    return jax.jit(lambda x: rs.hypergradient(task.problem, x)[0])(x)


def solved(task, key=0, steps=None):
    method = rs.ImplicitGradient(task.step_size, optimiser=optax.adam(1.0))
    return rs.solve(task.problem, method, task.start(jax.random.key(key)), steps or task.steps)


def test_every_problem_is_tested_and_named_after_itself():
    assert {name for name, _, _ in SMALL} == set(TASKS)
    for name, builder in TASKS.items():
        assert builder.__doc__ and all(
            p.kind is p.KEYWORD_ONLY and p.default is not p.empty
            for p in inspect.signature(builder).parameters.values()
        ), name


def test_problem(case):
    """One test, not several, since it is the compiling that takes time."""
    task, shape = case
    world = task.problem.world
    S, A = world.num_states, world.num_actions
    x, other = task.start(jax.random.key(0)), task.start(jax.random.key(1))
    assert isinstance(task, Task) and task.name in TASKS and task.step_size > 0 and task.steps > 0
    assert x.shape == shape and x.dtype == jnp.float64 and not jnp.array_equal(x, other)
    assert jnp.array_equal(x, task.start(jax.random.key(0)))
    assert task.problem.reward(x).shape == (S, A) and world.initial.dtype == jnp.float64
    np.testing.assert_allclose(world.initial.sum(), 1, rtol=1e-12)
    rows = expect(task.problem.world_at(x).transition, jnp.ones(S))
    np.testing.assert_allclose(rows, jnp.broadcast_to(~world.terminal[:, None], (S, A)), atol=1e-12)
    for name, value in jax.jit(task.outcomes)(x, jnp.full((S, A), 1 / A)).items():
        assert value.shape == () and np.isfinite(value), name
    if task.grid is not None:
        assert len(task.grid.cells) * len(task.grid.contexts) == S
        assert set(task.grid.marks.values()) <= set(task.grid.cells)
        assert task.payment(x).shape == (S,)

    step, moves = 0.01 * task.step_size, np.array([0, -2, -1, 1, 2])
    directions = np.random.default_rng(0).normal(size=(2, *shape))
    directions /= np.sqrt((directions**2).sum(axis=tuple(range(1, directions.ndim)), keepdims=True))
    points = x + step * np.multiply.outer(moves, directions)
    phis, gradients = jax.lax.map(lambda x: rs.hypergradient(task.problem, x), points.reshape(-1, *shape))
    phis = phis.reshape(5, 2)
    slopes = (phis[1] - 8 * phis[2] + 8 * phis[3] - phis[4]) / (12 * step)
    told = np.tensordot(directions, gradients[0], axes=gradients[0].ndim)
    np.testing.assert_allclose(told, slopes, rtol=1e-6)


def test_single_precision_is_kept():
    with jax.enable_x64(False):
        for name, options, _ in SMALL[2:9:3] + SMALL[10:11]:
            task = make(name, **options)
            x = task.start(jax.random.key(0))
            assert x.dtype == task.problem.world.initial.dtype == jnp.float32
            assert jax.eval_shape(task.problem.reward, x).dtype == jnp.float32, name


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("mountain", {}, "give one of random-mdp, four-rooms"),
        ("tax", {"rate": 1}, "has no option 'rate'; it has points"),
        ("four-rooms", {"kernel": "other"}, "'other-move', 'uniform-move'"),
        ("four-rooms", {"noise": 1.5}, "noise is 1.5"),
        ("four-rooms", {"penalty": -1.0}, "penalty is -1"),
        ("shaping", {"kind": "good"}, "'misleading'"),
        ("shaping", {"weight": "x"}, "'per-state'"),
        ("tax", {"points": 1}, "points is 1; give a whole number >= 2"),
        ("random-mdp", {"states": 0}, "states is 0; give a whole number >= 1"),
        ("random-mdp", {"discount": 1.0}, "discount"),
        ("contract", {"levels": 3, "outcome_classes": 4}, "at most one a level: 3"),
        ("navigation", {"norm": "l3"}, "'l1'"),
        ("preference", {"horizon": 0}, "horizon"),
        ("stackelberg", {"temperature": 0.0}, "temperature"),
    ],
)
def test_bad_options(name, options, text):
    with pytest.raises(rs.InputError, match=text) as told:
        make(name, **options)
    assert "\n" not in str(told.value)


def test_bad_tables():
    P = np.full((2, 2, 2), 0.5)
    with pytest.raises(rs.InputError, match="coefficients"):
        random_mdp_from(P, np.ones((2, 3)), np.eye(4), 0.5, 1.0)
    with pytest.raises(rs.InputError, match="true_reward"):
        preference_from(P, np.full(2, 0.5), np.ones((2, 2, 3)), np.ones((2, 3)), 2, 0.5, 1.0)


def test_moves_on_a_map():
    grid = GridMap("ab\nxc")
    assert grid.cells == ((0, 0), (0, 1), (1, 1)) and grid.find("c") == (1, 1)
    # Up, right, down, left.
    assert grid.successors.tolist() == [[0, 1, 0, 0], [1, 1, 2, 0], [1, 2, 2, 2]]
    assert grid.distances((1, 1)).tolist() == [2, 1, 0]
    P = dense_table(*sparse_moves(grid, slip_matrix(0.3), ((1, 1),)))
    np.testing.assert_allclose(P[0], [[0.9, 0.1, 0], [0.3, 0.7, 0], [0.9, 0.1, 0], [0.9, 0.1, 0]])
    assert P[2].sum() == 0
    np.testing.assert_allclose(slip_matrix(0.4, "uniform-move")[0], [0.7, 0.1, 0.1, 0.1])
    for text, told in (("ab\nx", "equally long"), ("aa", "2 cells 'a'"), ("axb", "no way leads")):
        with pytest.raises(rs.InputError, match=told):
            bad = GridMap(text)
            bad.distances(bad.find("a"))


def test_copies_are_a_block_diagonal_world():
    rng = np.random.default_rng(0)
    P, policy = jnp.asarray(rng.dirichlet(np.ones(3), (3, 2))), jnp.asarray(rng.dirichlet(np.ones(2), 6))
    copies, whole = Copies(P, 2), jnp.zeros((6, 2, 6)).at[:3, :, :3].set(P).at[3:, :, 3:].set(P)
    values, index = jnp.asarray(rng.normal(size=6)), np.indices((6, 2, 6))
    assert (copies.num_states, copies.num_actions) == (6, 2)
    np.testing.assert_allclose(expect(copies, values), expect(whole, values), rtol=1e-12)
    np.testing.assert_allclose(under(copies, policy), under(whole, policy), rtol=1e-12)
    np.testing.assert_array_equal(probability(copies, *jnp.asarray(index)), whole)


def test_random_mdp_is_that_of_the_reference():
    case = np.load(REFERENCE / "random_mdp.npz")
    task = random_mdp_from(*(case[k] for k in ("P", "rewards_coef", "mat", "gamma", "tau")))
    value, gradient = rs.hypergradient(task.problem, jnp.asarray(case["x0"][:, 0]))
    np.testing.assert_allclose(value, case["exact_phi_x0"], rtol=1e-9)
    np.testing.assert_allclose(gradient, case["exact_grad_x0"], rtol=1e-9, atol=1e-9)


def test_preference_is_that_of_the_reference():
    case = np.load(REFERENCE / "preference_clip.npz")
    tables = (case[k] for k in ("P", "rho", "B", "rtrue"))
    task = preference_from(*tables, int(case["H"]), case["gamma"], case["tau"])
    value, gradient = rs.hypergradient(task.problem, jnp.asarray(case["x"]))
    np.testing.assert_allclose(value, case["phi"], atol=1e-12)
    np.testing.assert_allclose(gradient, case["hypergradient"], atol=1e-8, rtol=0)


def test_four_rooms_map_and_goal_values():
    task = make("four-rooms", temperature=0.003)
    cells, world = rooms.MAP.index, task.problem.world
    assert len(cells) == 104 and world.num_states == 208
    assert {(3, 6), (6, 2), (7, 9), (10, 6)} <= set(cells)
    for corridor in ((3, 6), (6, 2), (7, 9), (10, 6)):
        assert np.sum(rooms.MAP.successors[cells[corridor]] != cells[corridor]) == 2
    starts = [cells[4, 1], 104 + cells[4, 1]]
    np.testing.assert_array_equal(np.flatnonzero(world.initial), starts)
    goals = [cells[1, 9], 104 + cells[11, 11]]
    np.testing.assert_array_equal(np.flatnonzero(world.terminal), goals)
    values = best_response(task, task.start(jax.random.key(0))).values
    np.testing.assert_allclose(values[jnp.asarray(goals)], 1 + 0.003 * np.log(4), rtol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "meant", "slip"), [("other-move", 0.56, 0.44 / 3), ("uniform-move", 0.67, 0.11)]
)
def test_four_rooms_kernels(kernel, meant, slip):
    table = make("four-rooms", kernel=kernel).problem.world.transition
    middle, near = rooms.MAP.index[3, 3], [rooms.MAP.index[c] for c in ((2, 3), (3, 4), (4, 3), (3, 2))]
    for action in range(4):
        wanted = [meant if move == action else slip for move in range(4)]
        np.testing.assert_allclose(table[middle, action, jnp.asarray(near)], wanted, rtol=1e-12)
    sparse = make("four-rooms", kernel=kernel, sparse=True).problem.world.transition
    np.testing.assert_allclose(probability(sparse, *jnp.indices(table.shape)), table, atol=1e-15)


def test_four_rooms_leader_pays_at_the_goal():
    x = jnp.zeros(105)
    outcomes = []
    for penalty in (0.0, 1.0):
        task = make("four-rooms", penalty=penalty)
        policy = best_response(task, x).policy
        outcomes.append(task.outcomes(x, policy)["leader return"])
    goals = np.flatnonzero(task.problem.world.terminal)
    reached = rs.mdp.state_occupancy(task.problem.world, policy)[goals].sum()
    # 105 equal shares of 0.2: neither the spare's nor the goal's is charged.
    np.testing.assert_allclose(outcomes[0] - outcomes[1], reached * 0.2 * 103 / 105, rtol=1e-9)
    charges = task.payment(x).reshape(2, 104)
    assert (charges == 0).sum() == 2 and (charges <= 0).all()


def test_no_constant_weight_serves_mixed_shaping():
    constant, by_room = make("shaping", weight="constant"), make("shaping")
    best = -jnp.min(jax.vmap(lambda z: phi(constant, z[None]))(jnp.linspace(-10, 10, 81)))
    assert solved(by_room).stats.loss[-1] < -0.4
    assert best < 0.01
    # One weight does for helpful and, by its sign, for misleading shaping; none makes noise helpful.
    for kind, z, enough in (("helpful", 3.0, True), ("misleading", -3.0, True), ("useless", 3.0, False)):
        value = -phi(make("shaping", kind=kind, weight="constant"), jnp.asarray([z]))
        assert (value > 0.4) == enough, kind


def test_shaping_points_to_the_goal():
    helpful, misleading, mixed = (
        shaping.shaping_function(kind) for kind in ("helpful", "misleading", "mixed")
    )
    start, beside = shaping.MAP.index[shaping.MAP.find("s")], shaping.MAP.index[3, 10]
    assert helpful[start].tolist() == [-1, 1, -1, 0]
    np.testing.assert_array_equal(helpful, -misleading)
    assert mixed[start, 1] == 1 and mixed[beside, 1] == -1
    assert -phi(make("shaping"), jnp.zeros(2)) < 1e-3


def test_tax_rows_move_with_the_income_tax():
    task = make("tax", points=21, hours=3, levels=2)
    S, A = task.problem.world.num_states, task.problem.world.num_actions
    assert (S, A) == (42, 24)
    low, high = (task.problem.transition(jnp.full(4, level)) for level in (-1.0, 1.0))
    for form in (low, high):
        table = probability(form, *jnp.indices((S, A, S)))
        np.testing.assert_allclose(table.sum(axis=-1), 1, rtol=1e-12)
        assert (table[:21, :, 21:] == 0).all()
    assets = jnp.tile(jnp.linspace(-100, 100, 21), 2)
    gain = expect(low, assets) - expect(high, assets)
    # Two hours' work (the last eight actions), from the middle: the wage that is left differs by the tax.
    rate = 2 * (jax.nn.sigmoid(1.0) - jax.nn.sigmoid(-1.0))
    np.testing.assert_allclose(gain[10, -8:], rate * 2 * 0.89, rtol=0.2)
    np.testing.assert_allclose(gain[10, :8], 0, atol=1e-12)
    only_goods = task.problem.transition(jnp.asarray([-1.0, 2.0, 2.0, 2.0]))
    np.testing.assert_array_equal(expect(only_goods, assets), expect(low, assets))


def test_tax_mean_of_assets_on_a_fine_grid():
    task = make("tax", points=201, hours=2, levels=2)
    x, S = jnp.full(4, np.log(0.15 / 0.85)), 402
    table = task.problem.transition(x)
    after = expect(table, jnp.tile(jnp.linspace(-100, 100, 201), 2))
    # Working one unit at 30 % tax and buying one of a good, far from the ends of the range.
    sums = np.array([0, 1, 1, 2, 1, 2, 2, 3])
    moved = np.concatenate([0.7 * 0.89 * hours - 1.25 * sums for hours in (0, 1)])
    np.testing.assert_allclose(after[100], moved, atol=1e-9)
    reward = task.problem.reward(x)
    assert reward.shape == (S, 16)
    # Nothing worked, one of each good at 30 % tax: 1.25/1.3 whatever the preferences.
    np.testing.assert_allclose(reward[jnp.asarray([150, 351]), 7], 50 + 1.25 / 1.3, rtol=1e-12)


def test_stackelberg_commitment():
    task = make("stackelberg", states=6, moves_world=True)
    pure = jnp.full((6, 4), -50.0).at[:, 2].set(50.0)
    other = jnp.full((6, 4), -50.0).at[:, 1].set(50.0)
    assert not jnp.allclose(task.problem.reward(pure), task.problem.reward(other))
    assert not jnp.allclose(task.problem.world_at(pure).transition, task.problem.world_at(other).transition)
    mixed = jnp.full((6, 4), -50.0).at[:, 1:3].set(50.0)
    halves = (task.problem.reward(pure) + task.problem.reward(other)) / 2
    np.testing.assert_allclose(task.problem.reward(mixed), halves, rtol=1e-12)
    assert make("stackelberg", states=6).problem.transition is None


def test_contract_effort_is_bought():
    task = make("contract")
    efforts = []
    for level in (-40.0, 2.0):
        # Paid for the best outcome only.
        x = jnp.full(5, -40.0).at[-1].set(level)
        outcomes = task.outcomes(x, best_response(task, x).policy)
        efforts.append(outcomes["effort"])
        assert (outcomes["pay"] > 1e-9) == (level > 0)
    # Without pay an agent at τ = 0.05 works as exp(−½e²/τ) says; with it, hard.
    weights = np.exp(-10 * np.linspace(0, 1, 5) ** 2)
    np.testing.assert_allclose(efforts[0], weights @ np.linspace(0, 1, 5) / weights.sum(), rtol=1e-9)
    assert efforts[1] > 0.5
    # The same for all outcomes is a gift: it changes nothing.
    gift = task.outcomes(jnp.full(5, 1.0), best_response(task, jnp.full(5, 1.0)).policy)
    np.testing.assert_allclose(gift["effort"], efforts[0], rtol=1e-9)


def test_inverse_rl_finds_the_expert():
    task = make("inverse-rl")
    truth = jnp.asarray(list(inverse_rl.TERRAINS.values()))
    at_truth = task.outcomes(truth, best_response(task, truth).policy)
    np.testing.assert_allclose(at_truth["divergence from expert"], 0, atol=1e-12)
    found = solved(task)
    outcomes = task.outcomes(found.value, best_response(task, found.value).policy)
    assert outcomes["divergence from expert"] < 0.01
    assert outcomes["log-likelihood"] > outcomes["expert's log-likelihood"] - 0.01


def test_navigation_moves_the_robot_to_the_lane():
    task = make("navigation")
    hazard = navigation.MAP.letters == "!"
    assert hazard.sum() == 8
    plain = jnp.zeros(task.problem.world.num_states)
    before, found = best_response(task, plain).policy, solved(task)
    before = task.outcomes(plain, before)
    after = task.outcomes(found.value, best_response(task, found.value).policy)
    assert before["visits of hazards"] > 1 > 0.2 > after["visits of hazards"]
    assert after["visits of the lane"] > 5 * before["visits of the lane"]
    assert after["visits of the goal"] > 0.3 and before["visits of the goal"] > 0.3


# φ must fall by at least this much in the task's own number of steps.
IMPROVEMENT = {"four-rooms": 0.5, "stackelberg": 1.0, "contract": 1.0}


@pytest.mark.parametrize("name", IMPROVEMENT)
def test_settings_improve(name):
    task = make(name)
    losses = solved(task).stats.loss
    assert losses[0] - losses[-1] > IMPROVEMENT[name]


def test_tax_improves():
    losses = solved(make("tax", points=21, hours=3, levels=2), steps=60).stats.loss
    assert losses[0] - losses[-1] > 2.0
