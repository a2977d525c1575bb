"""Tabular worlds: checks at birth, soft Bellman kernels, occupancies."""

import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith._core import InputError
from rewardsmith.mdp import (
    MDP,
    policy_transition,
    q_values,
    soft_bellman,
    soft_policy,
    soft_value,
    state_action_occupancy,
    state_occupancy,
)

pytestmark = pytest.mark.usefixtures("double_precision")


def random_world(seed=0, states=4, actions=3, discount=0.9, end=None):
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(states), (states, actions))
    if end is not None:
        transition[end] = 0
    return MDP(transition, rng.dirichlet(np.ones(states)), discount)


def random_policy(seed, world):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.dirichlet(np.ones(world.num_actions), world.num_states))


def test_terminal_states_are_those_with_empty_rows():
    world = random_world(end=2)
    assert world.terminal.tolist() == [False, False, True, False]
    assert (world.num_states, world.num_actions) == (4, 3)
    again = MDP(world.transition, world.initial, world.discount, terminal=world.terminal)
    assert bool(eqx.tree_equal(world, again))


def test_integers_and_float32_are_welcome():
    assert MDP([[[1]]], [1], 0).transition.dtype == jnp.float64
    single = np.random.default_rng(0).dirichlet(np.ones(300), (300, 2)).astype(np.float32)
    world = MDP(single, np.full(300, 1 / 300), 0.9)
    assert world.transition.dtype == world.initial.dtype == world.discount.dtype == jnp.float32


def changed(transition, index, value):
    transition = np.array(transition)
    transition[index] = value
    return transition


BAD = {
    "flat": ({"transition": np.eye(4)}, "shape"),
    "no states": ({"transition": np.zeros((0, 3, 0)), "initial": np.zeros(0)}, "shape"),
    "not square": ({"transition": np.full((4, 3, 5), 0.2)}, "shape"),
    "row sum": ({"transition": lambda P: 0.9 * P}, r"sums to 0\.9, not 1"),
    "negative": ({"transition": lambda P: changed(P, (1, 2, 3), -0.1)}, r"transition\[1,2,3\] is -0\.1"),
    "nan": ({"transition": lambda P: changed(P, (0, 0, 0), np.nan)}, "is nan"),
    "one empty row": ({"transition": lambda P: changed(P, (1, 2), 0)}, r"transition\[1,2\] is empty"),
    "terminal goes on": ({"terminal": np.array([True, False, False, False])}, "terminal state 0 continues"),
    "ends unannounced": (
        {"transition": lambda P: changed(P, 1, 0), "terminal": np.zeros(4, bool)},
        "is empty",
    ),
    "terminal as numbers": ({"terminal": np.zeros(4)}, "bool"),
    "terminal too short": ({"terminal": np.zeros(3, bool)}, "shape"),
    "initial too short": ({"initial": np.full(3, 1 / 3)}, "initial has shape"),
    "initial sum": ({"initial": np.full(4, 0.2)}, "initial sums to 0.8"),
    "initial negative": ({"initial": np.array([1.5, -0.5, 0, 0])}, "initial has negative"),
    "discount one": ({"discount": 1.0}, "discount is 1.0"),
    "discount negative": ({"discount": -0.1}, "discount is -0.1"),
    "discount nan": ({"discount": np.nan}, "discount is nan"),
    "discount rounds to one": (
        {"discount": 1 - 1e-9, "transition": lambda P: P.astype(np.float32)},
        "discount is 1.0 .in float32.",
    ),
    "discounts": ({"discount": np.array([0.9, 0.8])}, "discount has shape"),
}


@pytest.mark.parametrize(("change", "text"), BAD.values(), ids=BAD.keys())
def test_bad_worlds_are_refused_with_one_line(change, text):
    good = random_world()
    parts = {"transition": np.asarray(good.transition), "initial": good.initial, "discount": 0.9}
    for name, value in change.items():
        parts[name] = value(parts[name]) if callable(value) else value
    with pytest.raises(InputError, match=text) as caught:
        MDP(**parts)
    assert "\n" not in str(caught.value)


def test_worlds_can_be_made_and_batched_under_tracing():
    good = random_world()

    @jax.jit
    @jax.vmap
    def states_seen(mix):
        world = MDP(mix * good.transition + (1 - mix) / 4, good.initial, 0.5 * mix)
        return state_occupancy(world, jnp.full((4, 3), 1 / 3))

    mixes = jnp.array([0.1, 0.9])
    np.testing.assert_allclose(states_seen(mixes).sum(axis=1), 1 / (1 - 0.5 * mixes), rtol=1e-12)


def test_kernels_against_loops():
    world = random_world(1, end=3)
    rng = np.random.default_rng(1)
    reward, values, tau = rng.normal(size=(4, 3)), rng.normal(size=4), 0.3
    P = np.asarray(world.transition)
    q = np.zeros((4, 3))
    for s in range(4):
        for a in range(3):
            q[s, a] = reward[s, a] + 0.9 * sum(P[s, a, t] * values[t] for t in range(4))
    v = np.array([tau * np.log(sum(np.exp(q[s, a] / tau) for a in range(3))) for s in range(4)])
    policy = np.exp((q - v[:, None]) / tau)
    onward = np.array(
        [[sum(policy[s, a] * P[s, a, t] for a in range(3)) for t in range(4)] for s in range(4)]
    )

    reward, values = jnp.asarray(reward), jnp.asarray(values)
    np.testing.assert_allclose(q_values(world, reward, values), q, rtol=1e-12)
    np.testing.assert_allclose(soft_value(jnp.asarray(q), tau), v, rtol=1e-12)
    np.testing.assert_allclose(soft_bellman(world, reward, tau, values), v, rtol=1e-12)
    np.testing.assert_allclose(soft_policy(jnp.asarray(q), tau), policy, rtol=1e-12)
    np.testing.assert_allclose(policy_transition(world, jnp.asarray(policy)), onward, rtol=1e-12)


@pytest.mark.parametrize("tau", [1e-3, 1e-30, 1e-150])
def test_small_temperatures_reach_the_greedy_limit(tau):
    q = jnp.array([[1e3, 1e3 - 1, -1e3], [5.0, 5.0, -2.0], [-1e4, -2e4, -3e4]])
    np.testing.assert_allclose(soft_policy(q, tau), [[1, 0, 0], [0.5, 0.5, 0], [1, 0, 0]], atol=1e-15)
    np.testing.assert_allclose(soft_value(q, tau), q.max(axis=1), atol=2 * tau)
    slope, in_temperature = jax.jit(jax.jacobian(soft_value, argnums=(0, 1)))(q, tau)
    np.testing.assert_allclose(slope[1, 1], [0.5, 0.5, 0], atol=1e-15)
    assert np.isfinite(in_temperature).all()
    assert np.isfinite(jax.jit(jax.jacobian(soft_policy))(q, tau)[0]).all()


def test_soft_value_slope_is_the_policy():
    q = jnp.asarray(np.random.default_rng(2).normal(size=(1, 5)))
    np.testing.assert_allclose(jax.jacobian(soft_value)(q, 0.7)[0], soft_policy(q, 0.7), rtol=1e-12)


def test_occupancy_sums_and_counts():
    world = random_world(3)
    policy = random_policy(3, world)
    visits = state_occupancy(world, policy)
    np.testing.assert_allclose(visits.sum(), 1 / (1 - 0.9), rtol=1e-12)

    stepped, now = np.zeros(4), np.asarray(world.initial)
    onward = np.asarray(policy_transition(world, policy))
    for step in range(400):
        stepped += 0.9**step * now
        now = now @ onward
    np.testing.assert_allclose(visits, stepped, rtol=1e-12)
    np.testing.assert_allclose(state_action_occupancy(world, policy), stepped[:, None] * policy, rtol=1e-12)


def test_occupancy_with_an_end():
    # 0 -> 1 for sure, 1 is terminal: one visit now, one discounted visit, then nothing.
    world = MDP(np.array([[[0.0, 1.0]], [[0.0, 0.0]]]), [1.0, 0.0], 0.8)
    np.testing.assert_allclose(state_occupancy(world, jnp.ones((2, 1))), [1, 0.8], rtol=1e-12)


def test_occupancy_times_reward_is_the_return():
    world = random_world(5, end=0)
    policy, reward = random_policy(5, world), np.random.default_rng(5).normal(size=(4, 3))
    onward = np.asarray(policy_transition(world, policy))
    values = np.linalg.solve(np.eye(4) - 0.9 * onward, (np.asarray(policy) * reward).sum(axis=1))
    np.testing.assert_allclose(
        (state_action_occupancy(world, policy) * reward).sum(), world.initial @ values, rtol=1e-12
    )


def test_needs_no_simulator():
    script = (
        "import sys, rewardsmith.bilevel, rewardsmith.problem, rewardsmith.mdp\n"
        "assert not {'gymnasium', 'mujoco', 'pygame', 'imageio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_contexts_are_solved_apart_and_alike():
    rng = np.random.default_rng(3)
    table = np.zeros((6, 2, 6))
    for c in range(2):
        table[3 * c : 3 * c + 3, :, 3 * c : 3 * c + 3] = rng.dirichlet(np.ones(3), (3, 2))
    initial, policy = rng.dirichlet(np.ones(6)), jnp.asarray(rng.dirichlet(np.ones(2), 6))
    whole, apart = MDP(table, initial, 0.9), MDP(table, initial, 0.9, contexts=2)
    np.testing.assert_allclose(state_occupancy(apart, policy), state_occupancy(whole, policy), rtol=1e-12)
    with pytest.raises(InputError, match="divides 6 states"):
        MDP(table, initial, 0.9, contexts=4)
    with pytest.raises(InputError, match="state 2 leads out of its context"):
        table[2, 1] = [0, 0, 0.5, 0.5, 0, 0]
        MDP(table, initial, 0.9, contexts=2)
