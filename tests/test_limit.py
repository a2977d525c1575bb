"""τ → 0: the hyper-gradient tends to the limit where one action is best, and the gap says where not."""

import jax.numpy as jnp
import numpy as np
import pytest

import rewardsmith as rs

pytestmark = pytest.mark.usefixtures("double_precision")


def problem_at(tau, regulariser=None):
    rng = np.random.default_rng(0)
    world = rs.MDP(rng.dirichlet(np.ones(4), (4, 3)), rng.dirichlet(np.ones(4)), 0.8)
    table, goal = jnp.asarray(rng.normal(size=(4, 3))), jnp.asarray(rng.normal(size=(4, 3)))
    return rs.BilevelProblem(
        world,
        lambda x: table + x[0] * goal**2 + x[1],
        lambda x, policy: jnp.sum(goal * policy) * jnp.sin(x[0]) + x[1] ** 2,
        tau,
        regulariser=regulariser,
    )


X = (0.3, -0.2)


def regularisers():
    return {
        "entropy": None,
        "divergence": rs.KullbackLeibler(np.full((4, 3), 1 / 3)),
        "tsallis": rs.Tsallis(),
    }


@pytest.mark.parametrize("name", ["entropy", "divergence", "tsallis"])
def test_hypergradient_tends_to_it(name):
    x, regulariser = jnp.asarray(X), regularisers()[name]
    value, gradient, gap = rs.limit_hypergradient(problem_at(1.0, regulariser), x)
    assert gap > 1e-2
    errors = []
    for tau in (gap / 5, gap / 20, gap / 40):
        phi, slope = rs.hypergradient(problem_at(tau, regulariser), x)
        errors.append(float(max(abs(phi - value), jnp.linalg.norm(slope - gradient))))
    assert errors[2] < 1e-10
    if name != "tsallis":  # which is there as soon as τ is small enough
        assert errors[0] > 1e-4 > errors[1] > errors[2]


def test_ties_have_no_gap():
    tied = rs.BilevelProblem(
        problem_at(1.0).world, lambda x: x[0] * jnp.ones((4, 3)), lambda x, policy: policy[0, 0], 1.0
    )
    assert rs.limit_hypergradient(tied, jnp.asarray(X)).gap < 1e-12


def test_endings_and_forbidden_actions_do_not_count():
    world = rs.MDP(np.array([[[0.0, 1.0]] * 2, [[0.0, 0.0]] * 2]), [1.0, 0.0], 0.5)
    ending = rs.BilevelProblem(
        world, lambda x: jnp.array([[x, 0.0], [1.0, 1.0]]), lambda x, policy: policy[0, 0] * x, 1.0
    )
    value, gradient, gap = rs.limit_hypergradient(ending, jnp.asarray(0.25))
    np.testing.assert_allclose((value, gradient, gap), (0.25, 1.0, 0.25))
    masked = rs.BilevelProblem(
        world,
        lambda x: jnp.array([[x, 0.0], [1.0, 1.0]]),
        lambda x, policy: policy[0, 0] * x,
        1.0,
        regulariser=rs.KullbackLeibler([[0.0, 1.0], [0.5, 0.5]]),
    )
    value, gradient, gap = rs.limit_hypergradient(masked, jnp.asarray(0.25))
    np.testing.assert_allclose((value, gradient), (0.0, 0.0), atol=1e-12)
    assert gap == np.inf


def test_needs_a_table():
    simulated = rs.BilevelProblem(
        rs.SimulatedWorld("CartPole-v1", 0.9), lambda x: x, rs.PreferenceLoss(1), 1.0
    )
    with pytest.raises(rs.InputError, match="MDP"):
        rs.limit_hypergradient(simulated, jnp.asarray(1.0))
