"""Entropy, divergence from a reference, Tsallis: closed forms, derivatives, and the limit τ → 0."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rewardsmith as rs
from rewardsmith.mdp import q_values, soft_bellman, soft_policy, soft_value

TAU = 0.4
REFERENCE = np.array([[0.5, 0.2, 0.3], [0.1, 0.9, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.6, 0.0, 0.4]])


pytestmark = pytest.mark.usefixtures("double_precision")


def regularisers():
    return {"entropy": rs.Shannon(), "divergence": rs.KullbackLeibler(REFERENCE), "tsallis": rs.Tsallis()}


NAMES = ["entropy", "divergence", "tsallis"]


def random_case(seed=0):
    rng = np.random.default_rng(seed)
    world = rs.MDP(rng.dirichlet(np.ones(4), (4, 3)), rng.dirichlet(np.ones(4)), 0.8)
    return world, jnp.asarray(rng.normal(size=(4, 3)))


# One state that leads to itself: Q differs from r by the same number for all actions, so π is that of r alone
# and V = (value of one step)/(1 − γ).
def one_state(reward, regulariser, discount=0.9):
    world = rs.MDP(np.ones((1, reward.shape[1], 1)), [1.0], discount)
    return rs.solve_follower(world, reward, TAU, regulariser=regulariser)


def test_one_state_entropy():
    reward = jnp.array([[0.3, -1.0, 2.0]])
    weights = np.exp(np.asarray(reward[0]) / TAU)
    answer = one_state(reward, rs.Shannon())
    np.testing.assert_allclose(answer.policy[0], weights / weights.sum(), rtol=1e-11)
    np.testing.assert_allclose(answer.values[0], TAU * np.log(weights.sum()) / 0.1, rtol=1e-11)


def test_one_state_divergence():
    reward, mu = jnp.array([[0.3, -1.0, 2.0]]), np.array([[0.7, 0.3, 0.0]])
    weights = mu[0] * np.exp(np.asarray(reward[0]) / TAU)
    answer = one_state(reward, rs.KullbackLeibler(mu))
    np.testing.assert_allclose(answer.policy[0], weights / weights.sum(), rtol=1e-11)
    np.testing.assert_allclose(answer.values[0], TAU * np.log(weights.sum()) / 0.1, rtol=1e-11)
    assert answer.policy[0, 2] == 0


def test_one_state_tsallis():
    # Two actions inside: π₁ − π₂ = (r₁ − r₂)/τ and π₁ + π₂ = 1; the third is too bad by more than π allows.
    reward = jnp.array([[0.5, 0.3, -0.4]])
    policy = np.array([0.5 + 0.1 / TAU, 0.5 - 0.1 / TAU, 0.0])
    value = policy @ np.asarray(reward[0]) - TAU / 2 * ((policy**2).sum() - 1)
    answer = one_state(reward, rs.Tsallis())
    np.testing.assert_allclose(answer.policy[0], policy, atol=1e-12)
    np.testing.assert_allclose(answer.values[0], value / 0.1, rtol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_value_is_the_maximum(name):
    regulariser, rng = regularisers()[name], np.random.default_rng(1)
    q = jnp.asarray(rng.normal(size=(4, 3)))
    policy, value = soft_policy(q, TAU, regulariser), soft_value(q, TAU, regulariser)
    np.testing.assert_allclose(policy.sum(axis=1), 1.0, rtol=1e-13)

    def worth(policy):
        return jnp.sum(policy * q, axis=1) - TAU * regulariser.penalty(policy)

    np.testing.assert_allclose(worth(policy), value, rtol=1e-12)
    for _ in range(200):
        other = np.where(policy > 0, rng.dirichlet(np.ones(3), 4), 0)
        if name != "divergence":
            other = rng.dirichlet(np.full(3, 0.5), 4)
        other = jnp.asarray(other / other.sum(axis=1, keepdims=True))
        assert jnp.all(worth(other) <= value + 1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_envelope_and_sensitivity(name):
    regulariser, rng = regularisers()[name], np.random.default_rng(2)
    q = jnp.asarray(rng.normal(size=(4, 3)) / 3)
    policy = soft_policy(q, TAU, regulariser)
    slope = jax.grad(lambda q: jnp.sum(soft_value(q, TAU, regulariser)))(q)
    np.testing.assert_allclose(slope, policy, atol=1e-13)
    cooler = jax.grad(lambda tau: jnp.sum(soft_value(q, tau, regulariser)))(jnp.asarray(TAU))
    np.testing.assert_allclose(cooler, -jnp.sum(regulariser.penalty(policy)), rtol=1e-12)
    g = jnp.asarray(rng.normal(size=(4, 3)))
    _, pull = jax.vjp(lambda q: soft_policy(q, TAU, regulariser), q)
    np.testing.assert_allclose(regulariser.sensitivity(policy, g), TAU * pull(g)[0], atol=1e-13)
    # Second derivatives, in which a value that hides its policy behind a stopped gradient is wrong.
    move, step = jnp.asarray(rng.normal(size=(4, 3))), 1e-5
    hessian = jax.jvp(jax.grad(lambda q: jnp.sum(soft_value(q, TAU, regulariser))), (q,), (move,))[1]
    ends = [soft_policy(q + sign * step * move, TAU, regulariser) for sign in (1, -1)]
    np.testing.assert_allclose(hessian, (ends[0] - ends[1]) / (2 * step), atol=1e-8)


def swept(world, reward, tau, regulariser, sweeps=150):
    def sweep(values, _):
        return soft_bellman(world, reward, tau, values, regulariser), None

    return jax.lax.scan(sweep, jnp.zeros(world.num_states), None, length=sweeps)[0]


@pytest.mark.parametrize("name", NAMES)
def test_three_witnesses(name):
    """Implicit, unrolled, finite differences: of the reward, the temperature and, where there is one, μ."""
    regulariser, (world, reward) = regularisers()[name], random_case(3)
    goal = jnp.asarray(np.random.default_rng(4).normal(size=(4, 3)))

    def implicit(reward, tau):
        return jnp.sum(goal * rs.solve_follower(world, reward, tau, regulariser=regulariser).policy)

    def unrolled(reward, tau):
        values = swept(world, reward, tau, regulariser)
        return jnp.sum(goal * soft_policy(q_values(world, reward, values), tau, regulariser))

    point = (reward, jnp.asarray(TAU))
    ours, theirs = (jax.jit(jax.grad(f, argnums=(0, 1)))(*point) for f in (implicit, unrolled))
    value, step = jax.jit(implicit), 1e-6
    for argument in (0, 1):
        np.testing.assert_allclose(ours[argument], theirs[argument], rtol=1e-8, atol=1e-11)
        move = jnp.asarray(np.random.default_rng(5).normal(size=point[argument].shape))
        ends = [
            value(*(p + sign * step * move if i == argument else p for i, p in enumerate(point)))
            for sign in (1, -1)
        ]
        np.testing.assert_allclose(
            jnp.sum(ours[argument] * move), (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-9
        )


def test_reference_can_be_learned():
    world, reward = random_case(6)

    def first(mu):
        answer = rs.solve_follower(world, reward, TAU, regulariser=rs.KullbackLeibler(mu))
        return jnp.sum(answer.policy[:, 0])

    mu = jnp.asarray(np.random.default_rng(7).dirichlet(np.ones(3), 4))
    move, step = jnp.asarray(np.random.default_rng(8).normal(size=(4, 3))), 1e-6
    slope = jax.jit(jax.grad(first))(mu)
    # Rows that are traced are not checked, and need not sum to 1 for the derivative to exist.
    ends = [jax.jit(first)(mu + sign * step * move) for sign in (1, -1)]
    np.testing.assert_allclose(jnp.sum(slope * move), (ends[0] - ends[1]) / (2 * step), rtol=1e-7)


def test_uniform_reference_is_entropy_shifted():
    world, reward = random_case(9)
    plain = rs.solve_follower(world, reward, TAU)
    other = rs.solve_follower(world, reward, TAU, regulariser=rs.KullbackLeibler(np.full((4, 3), 1 / 3)))
    np.testing.assert_allclose(other.policy, plain.policy, atol=1e-12)
    np.testing.assert_allclose(plain.values - other.values, TAU * np.log(3) / 0.2, rtol=1e-10)


def greedy_value(world, reward):
    """V of the best deterministic policy, by trying all of them."""
    P, r = np.asarray(world.transition), np.asarray(reward)
    best = np.full(4, -np.inf)
    for actions in itertools.product(range(3), repeat=4):
        chosen = np.arange(4), np.array(actions)
        best = np.maximum(best, np.linalg.solve(np.eye(4) - 0.8 * P[chosen], r[chosen]))
    return best


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tau", [1e-2, 1e-5, 1e-9])
def test_small_temperatures(name, tau):
    # |V_τ − V_0| ≤ τ max|Ω| / (1 − γ), and nothing overflows on the way, in values or derivatives.
    world, reward = random_case(10)
    regulariser = regularisers()[name]
    if name == "divergence":
        regulariser = rs.KullbackLeibler(np.full((4, 3), 1 / 3))
    answer = rs.solve_follower(world, reward, tau, regulariser=regulariser)
    assert abs(answer.values - greedy_value(world, reward)).max() <= tau * np.log(3) / 0.2 + 1e-12

    def spread(r):
        return jnp.sum(rs.solve_follower(world, r, tau, regulariser=regulariser).policy ** 2)

    assert jnp.all(jnp.isfinite(jax.grad(spread)(reward)))


def test_forbidden_actions_may_be_worth_anything():
    world, reward = random_case(11)
    mu = np.array([[0.5, 0.5, 0.0]] * 4)

    def policy(reward):
        return rs.solve_follower(world, reward, 1e-4, regulariser=rs.KullbackLeibler(mu)).policy

    tempting = reward.at[:, 2].set(1e6)
    np.testing.assert_array_equal(policy(tempting), policy(reward))
    assert jnp.all(jnp.isfinite(jax.grad(lambda r: jnp.sum(policy(r)[:, 0]))(tempting)))


def test_bad_references():
    world, reward = random_case(12)
    for bad, text in (
        (np.ones(3) / 3, "give .states, actions."),
        (np.full((4, 3), 0.5), r"reference\[0\] is no distribution \(sum 1.5\)"),
        (np.full((4, 3), np.nan), r"reference\[0\]"),
        (np.array([[1.5, -0.5, 0.0]] * 4), r"reference\[0\]"),
    ):
        with pytest.raises(rs.InputError, match=text):
            rs.KullbackLeibler(bad)
    with pytest.raises(rs.InputError, match=r"reference has shape \(2, 2\); give \(4, 3\)"):
        rs.solve_follower(world, reward, TAU, regulariser=rs.KullbackLeibler(np.full((2, 2), 0.5)))
