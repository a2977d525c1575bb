"""Upper losses: against sums and samples done another way, and their derivatives by finite differences."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rewardsmith as rs
from rewardsmith.bilevel.enumeration import exact_upper_loss

REFERENCE = Path(__file__).parent / "reference"


pytestmark = pytest.mark.usefixtures("double_precision")


def random_world(seed=0, end=None):
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(4), (4, 3))
    if end is not None:
        transition[end] = 0
    return rs.MDP(transition, rng.dirichlet(np.ones(4)), 0.8), jnp.asarray(rng.dirichlet(np.ones(3), 4))


@pytest.mark.parametrize("end", [None, 2])
@pytest.mark.parametrize("discount", [None, 0.5])
def test_leader_return_by_summing_over_time(end, discount):
    world, policy = random_world(1, end)
    own = jnp.asarray(np.random.default_rng(2).normal(size=(4, 3)))
    found = rs.LeaderReturn(world, lambda x: x * own, discount)(2.0, policy)
    gamma, state, total = discount or 0.8, np.asarray(world.initial), 0.0
    for step in range(200):
        total += gamma**step * np.sum(state[:, None] * np.asarray(policy * own))
        state = np.einsum("s,sa,sat->t", state, policy, world.transition)
    np.testing.assert_allclose(found, -2.0 * total, rtol=1e-10)


def test_leader_return_where_the_leader_moves_the_world():
    world, policy = random_world(3)
    other = jnp.asarray(np.random.default_rng(4).dirichlet(np.ones(4), (4, 3)))
    own = jnp.asarray(np.random.default_rng(5).normal(size=(4, 3)))

    def moved(x):
        return (1 - x) * world.transition + x * other

    loss = rs.LeaderReturn(world, lambda x: own, transition=moved)
    still = rs.LeaderReturn(rs.MDP(moved(0.3), world.initial, 0.8), lambda x: own)
    np.testing.assert_allclose(loss(0.3, policy), still(0.3, policy), rtol=1e-12)
    problem = rs.BilevelProblem(world, lambda x: x * own, loss, 0.3, transition=moved)
    _, slope = rs.hypergradient(problem, 0.3)
    ends = [rs.hypergradient(problem, 0.3 + sign * 1e-6)[0] for sign in (1, -1)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-7)
    with pytest.raises(rs.InputError, match="give the form of world.transition"):
        rs.hypergradient(
            rs.BilevelProblem(
                world, lambda x: x * own, loss, 0.3, transition=lambda x: x * jnp.ones((2, 3, 2))
            ),
            0.3,
        )


def test_demonstrations():
    _, expert = random_world(6)
    counts = 1000 * np.asarray(expert) * np.array([[4.0], [3.0], [2.0], [1.0]])
    loss = rs.DemonstrationLoss(counts)
    np.testing.assert_allclose(
        loss(None, expert), -(counts * np.log(expert)).sum() / counts.sum(), rtol=1e-12
    )
    assert loss(None, expert) < loss(None, jnp.full((4, 3), 1 / 3))
    unseen = counts.copy()
    unseen[0, 0] = 0
    silent = expert.at[0, 0].set(0.0)
    assert jnp.isfinite(rs.DemonstrationLoss(unseen)(None, silent))
    gradient = jax.grad(lambda p: rs.DemonstrationLoss(unseen)(None, p))(silent)
    assert jnp.all(jnp.isfinite(gradient)) and gradient[0, 0] == 0


def test_divergence_is_zero_at_its_target_alone():
    _, target = random_world(8)
    loss = rs.PolicyDivergence(target, [1.0, 0.0, 2.0, 1.0])
    np.testing.assert_allclose(loss(None, target), 0.0, atol=1e-14)
    rng = np.random.default_rng(9)
    for _ in range(20):
        other = jnp.asarray(rng.dirichlet(np.ones(3), 4))
        expected = np.array([1, 0, 2, 1]) @ (np.asarray(target) * np.log(target / other)).sum(axis=1)
        np.testing.assert_allclose(loss(None, other), expected, rtol=1e-12)
        assert loss(None, other) > 0
    assert rs.PolicyDivergence(np.eye(3)[[0, 1, 2, 0]])(None, target) < np.inf


@pytest.fixture
def preference():
    case = np.load(REFERENCE / "preference_clip.npz")
    true_reward, features = jnp.asarray(case["rtrue"]), jnp.asarray(case["B"])

    def target(states, actions):
        returns = true_reward[states, actions].sum(axis=1)
        return jax.nn.sigmoid(returns[0] - returns[1])

    world = rs.MDP(case["P"], case["rho"], case["gamma"])
    loss = rs.PreferenceLoss(horizon=int(case["H"]), target=target)
    return world, (lambda x: features @ x), loss, float(case["tau"]), case


def test_sampled_clips_have_the_right_mean_and_hypergradient(preference):
    world, reward, loss, tau, case = preference
    x = jnp.asarray(case["x"])

    def one(key):
        sampled = rs.SampledClipLoss(loss, world, reward, 200, key)
        return rs.hypergradient(rs.BilevelProblem(world, reward, sampled, tau), x)

    values, gradients = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 200))
    for draws, truth in ((values, case["phi"]), (gradients, case["hypergradient"])):
        error = np.std(draws, axis=0) / np.sqrt(len(draws))
        assert np.all(abs(draws.mean(axis=0) - truth) < 4 * error)
    # The first term alone is told apart by the same test.
    assert np.any(abs(case["first"] - gradients.mean(axis=0)) > 4 * error)


def test_sampled_value_is_the_mean_of_the_draw(preference):
    world, reward, loss, tau, case = preference
    x = jnp.asarray(case["x"])
    policy = rs.solve_follower(world, reward(x), tau).policy
    sampled = rs.SampledClipLoss(loss, world, reward, 20_000, jax.random.key(1))
    exact = exact_upper_loss(rs.BilevelProblem(world, reward, loss, tau), x, policy)
    assert abs(sampled(x, policy) - exact) < 0.01
    assert sampled(x, policy) == sampled(x, policy)


def test_bad_losses(preference):
    world, reward, loss, *_ = preference
    with pytest.raises(rs.InputError, match="discount"):
        rs.LeaderReturn(world, reward, discount=1.0)
    for counts in (np.zeros((4, 3)), -np.ones((4, 3)), np.ones(3), np.full((4, 3), np.nan)):
        with pytest.raises(rs.InputError, match="counts"):
            rs.DemonstrationLoss(counts)
    with pytest.raises(rs.InputError, match="rows must be distributions"):
        rs.PolicyDivergence(np.ones((4, 3)))
    with pytest.raises(rs.InputError, match="weights has shape"):
        rs.PolicyDivergence(np.full((4, 3), 1 / 3), [1.0])
    with pytest.raises(rs.InputError, match="num_samples"):
        rs.SampledClipLoss(loss, world, reward, 1, jax.random.key(0))
    with pytest.raises(rs.InputError, match="clips cannot cross an end"):
        rs.SampledClipLoss(loss, random_world(0, end=1)[0], reward, 10, jax.random.key(0))
