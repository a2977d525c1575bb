"""Worlds, rewards and leaders of any kind: each is refused by one line, or is what it says it is."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import rewardsmith as rs
from tests.fuzzing import examples, refused

TABLE = [[[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [0.25, 0.75]]]
WORLD = {"transition": TABLE, "initial": [1.0, 0.0], "discount": 0.9, "terminal": None, "contexts": 1}
SPARSE = {"successors": [[[0, 1], [1, 1]], [[0, 0], [1, 0]]], "weights": [[[0.5, 0.5]] * 2] * 2}
SHARED = {"kernel": TABLE, "group": [0, 1, 1]}
TRIPLETS = {
    "rows": [0, 1, 2, 3],
    "successors": [0, 1, 1, 0],
    "weights": [1.0] * 4,
    "num_states": 2,
    "num_actions": 2,
}
FOLLOWER = {
    "reward_table": [[1.0, 0.0], [0.0, 2.0]],
    "temperature": 0.5,
    "regulariser": None,
    "initial_values": None,
    "tolerance": 1e-9,
    "max_steps": 50,
}


@pytest.fixture(autouse=True, scope="module")
def as_users_have_it():
    """The tests' own checks of types would refuse much of this before the package sees it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


class Odd:
    """An object that is nothing."""

    __hash__ = None  # pyright: ignore


SCALARS = st.sampled_from(
    [None, True, "", "0.9", "nan", "é", b"x", 0, 1, -1, 2, 10**12, 2**63, 10**400, 0.0, -0.0, 0.5, 1.0, 1.5]
    + [1 - 1e-12, -1e-9, 1e-320, 1e300, -1e300, np.nan, np.inf, -np.inf, 1j, np.float16(0.9), np.int64(2**40)]
    + [
        np.uint64(2**63),
        np.bool_(True),
        np.datetime64("2020"),
        np.str_("a"),
        Odd(),
        object(),
        len,
        ...,
        range(2),
    ]
)
DTYPES = st.sampled_from("float64 float32 float16 int64 int8 uint8 bool complex64 U1 O M8[s]".split())
NUMBERS = st.sampled_from([0, 1, 2, -1, 0.5, 0.25, 0.9, np.nan, np.inf, -np.inf, 1e30, 1e300, 2**40, 1e-9])
ARRAYS = st.builds(
    lambda shape, fill, dtype: _as(np.full(shape, fill), dtype),
    arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
    NUMBERS,
    DTYPES,
)
LISTS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
OTHERS = st.sampled_from(
    [{}, {"a": 1.0}, {1, 2}, (1.0, [2.0]), np.zeros((2, 2), [("a", "f4")]), np.ones((1,) * 30)]
    + [np.ma.masked_array([1, 2], [0, 1]), scipy.sparse.eye(4, 2).tocsr(), scipy.sparse.eye(2)]
    + [(x for x in [1]), memoryview(b"ab"), np.longdouble(1), np.full((2, 2), 2**40)]
)
ODD = st.one_of(SCALARS, ARRAYS, LISTS, OTHERS)


def _as(array, dtype):
    with np.errstate(all="ignore"):
        try:
            return array.astype(dtype)
        except (TypeError, ValueError):
            return array


@st.composite
def spoilt(draw, parts):
    """`parts` with one to three exchanged, or a single number within one of them."""
    parts = dict(parts)
    for name in draw(st.permutations(sorted(parts)))[: draw(st.sampled_from([1, 1, 1, 2, 3]))]:
        array = np.array(parts[name], object)
        if draw(st.booleans()) or not array.size:
            parts[name] = draw(ODD)
            continue
        at = tuple(draw(st.integers(0, side - 1)) for side in array.shape)
        array[at] = draw(NUMBERS | SCALARS)
        parts[name] = array.tolist()
    return parts


def made(call):
    """What `call` returns, or None where it is refused as it should be."""
    found = []
    refused(lambda: found.append(call()))
    return found[0] if found else None


def rows_of(transition):
    if isinstance(transition, rs.SparseTransition | rs.SharedTransition):
        states = np.eye(transition.num_states, dtype=np.float32)
        return np.stack([np.asarray(transition.expect(jnp.asarray(one))) for one in states], axis=-1)
    return np.asarray(transition)


def check_world(world):
    P, ends = rows_of(world.transition).astype(float), np.asarray(world.terminal)
    assert np.isfinite(P).all() and (P >= 0).all()
    assert np.allclose(P.sum(axis=-1), ~ends[:, None], atol=1e-4)
    assert 0 <= float(world.discount) < 1 and abs(float(world.initial.sum()) - 1) < 1e-4
    assert P.shape == (world.num_states, world.num_actions, world.num_states)


@examples(250, 10_000)
@given(spoilt(WORLD))
def test_a_world_of_any_parts_is_refused_or_sound(parts):
    world = made(lambda: rs.MDP(**parts))
    if world is not None:
        check_world(world)


FORMS = {
    "sparse": (rs.SparseTransition, SPARSE),
    "shared": (rs.SharedTransition, SHARED),
    "triplets": (rs.SparseTransition.from_triplets, TRIPLETS),
    "scipy": (rs.SparseTransition.from_scipy, {"matrix": scipy.sparse.eye(4, 2), "num_actions": 2}),
}


@pytest.mark.parametrize("form", FORMS)
@examples(80, 3_000)
@given(st.data())
def test_a_transition_of_any_parts_is_refused_or_sound(form, data):
    build, good = FORMS[form]
    parts = data.draw(spoilt(good))
    transition = made(lambda: build(**parts))
    if transition is None:
        return
    states = transition.num_states
    world = made(lambda: rs.MDP(transition, np.full(states, 1 / states), 0.9))
    if world is not None:
        check_world(world)


def test_indices_are_not_cut_down_to_others():
    """2³² as an int32 is 0: such an index is refused, and so is half of one."""
    for wrong in (np.array([[[2**32, 0]]]), [[[0.5, 0]]], [[[2**40, 0]]], np.array([[[np.nan, 0]]])):
        with pytest.raises(rs.InputError, match="successors holds"):
            rs.SparseTransition(wrong, [[[1.0, 0.0]]])
    with pytest.raises(rs.InputError, match="group holds"):
        rs.SharedTransition([[[1.0]]], np.array([2**32]))


@examples(60, 2_000)
@given(spoilt(FOLLOWER), st.sampled_from([None, "x", 1.0, TABLE]))
def test_a_follower_of_any_reward_is_refused_or_finite(parts, other):
    world = rs.MDP(TABLE, [1.0, 0.0], 0.9)
    answer = made(lambda: rs.solve_follower(world, **parts))
    if answer is not None:
        policy = np.asarray(answer.policy)
        assert np.isfinite(np.asarray(answer.values)).all()
        assert np.allclose(policy.sum(axis=1), 1, atol=1e-4) and (policy >= 0).all()
    assert refused(lambda: rs.solve_follower(other, FOLLOWER["reward_table"], 0.5))


@examples(150, 5_000)
@given(spoilt({"reference": [[0.5, 0.5], [1.0, 0.0]]}), ODD, ODD)
def test_regularisers_and_simulated_worlds_of_any_kind(parts, discount, horizon):
    found = made(lambda: rs.KullbackLeibler(**parts))
    if found is not None:
        assert np.allclose(np.asarray(found.reference, float).sum(axis=1), 1, atol=1e-4)
    world = made(lambda: rs.SimulatedWorld("HalfCheetah-v5", discount, horizon))
    if world is not None:
        assert 0 <= world.discount < 1 and (world.horizon is None or world.horizon >= 1)


def pay(x):
    return jnp.broadcast_to(x["pay"], (2, 2)) * jnp.array([[1.0, 0.0], [0.0, 1.0]])


def cost(x, policy):
    return 0.1 * jnp.sum(x["pay"] ** 2) - policy[0, 1]


WORLD_2 = {"world": None, "reward": pay, "upper_loss": cost, "temperature": 0.5}
X = {"pay": np.array([1.0, 2.0])}


@st.composite
def leaders(draw):
    """A problem's parts and x, of which one is odd: a part, what a function returns, or a leaf of x."""
    parts, x = {**WORLD_2, "world": rs.MDP(TABLE, [1.0, 0.0], 0.9)}, dict(X)
    odd = draw(ODD)
    match draw(st.sampled_from(["part", "returned", "returned", "leaf", "leaf", "x"])):
        case "part":
            parts[draw(st.sampled_from([*sorted(parts), "regulariser", "transition"]))] = odd
        case "returned":
            name = draw(st.sampled_from(["reward", "upper_loss", "transition"]))
            parts[name] = lambda *_: odd
        case "leaf":
            x[draw(st.sampled_from(["pay", "more"]))] = odd
        case _:
            x = odd
    return parts, x


@examples(25, 400)
@given(leaders())
def test_a_leader_of_any_kind_is_refused_or_has_a_finite_gradient(leader):
    parts, x = leader
    problem = made(lambda: rs.BilevelProblem(**parts))
    if problem is None:
        return
    try:
        found = made(lambda: rs.hypergradient(problem, x))
    except Exception as error:
        # What the reader's own function makes of an odd x is the reader's own mistake, and says so.
        if not _is_from(error, (pay, cost)):
            raise
        return
    if found is not None:
        assert np.isfinite(float(found[0]))
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(found[1]))


@examples(12, 200)
@given(leaders(), spoilt({"max_steps": 2, "tolerance": 0.0}))
def test_solve_of_any_kind_is_refused_or_finite(leader, options):
    parts, x = leader
    problem = made(lambda: rs.BilevelProblem(**parts))
    if problem is None:
        return
    steps = options["max_steps"]
    if isinstance(steps, int) and steps > 100:
        options["max_steps"] = 2
    try:
        found = made(lambda: rs.solve(problem, rs.ImplicitGradient(0.1), x, **options))
    except Exception as error:
        if not _is_from(error, (pay, cost)):
            raise
        return
    if found is not None:
        assert np.isfinite(np.asarray(found.stats.loss)).all()
    for other in (None, "x", problem):
        assert refused(lambda: rs.solve(problem, other, X, 2))  # noqa: B023
        assert other is problem or refused(lambda: rs.hypergradient(other, X))  # noqa: B023


def _is_from(error, functions):
    codes, trace = {function.__code__ for function in functions}, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False
