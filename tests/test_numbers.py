"""Numbers of many orders of magnitude: six digits stay in float64, and nothing overflows in float32."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import rewardsmith as rs
from rewardsmith.preferences.loss import bradley_terry

STATES, ACTIONS = 4, 3
TEMPERATURES, SCALES, DISCOUNTS = (1e-4, 1e-2, 1.0, 1e3), (1e-6, 1.0, 1e6), (0.9, 0.9999)
WEIGHTS = [[1.0, -2.0, 0.5], [0.0, 1.0, 3.0], [-1.0, 0.25, 0.0], [2.0, 1.0, -1.0]]
mp = mpmath.MPContext()
mp.dps = 60


def table(seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(STATES), (STATES, ACTIONS)), rng.normal(size=(STATES, ACTIONS))


def table_itself(x):
    return x


def weighted_policy(x, policy):
    return jnp.sum(policy * jnp.asarray(WEIGHTS))


@jax.grad
def values_gradient(reward, world, tau):
    return jnp.sum(rs.solve_follower(world, reward, tau).values)


def exact(transition, reward, discount, tau):
    """V, π, ∇_r Σ V and ∇_r Σ π g, by soft policy iteration with sixty digits."""
    P, r, discount, tau = (
        [[[mp.mpf(float(p)) for p in row] for row in rows] for rows in transition],
        [[mp.mpf(float(value)) for value in row] for row in reward],
        mp.mpf(discount),
        mp.mpf(tau),
    )
    states, actions = range(STATES), range(ACTIONS)
    values = mp.zeros(STATES, 1)

    def backed_up(values):
        q = [
            [r[s][a] + discount * sum(P[s][a][t] * values[t] for t in states) for a in actions]
            for s in states
        ]
        best = [max(row) for row in q]
        sums = [sum(mp.exp((value - top) / tau) for value in row) for row, top in zip(q, best, strict=True)]
        new = [top + tau * mp.log(total) for top, total in zip(best, sums, strict=True)]
        policy = [[mp.exp((q[s][a] - new[s]) / tau) for a in actions] for s in states]
        return q, mp.matrix(new), policy

    for _ in range(60):
        _, new, policy = backed_up(values)
        matrix = mp.matrix(STATES, STATES)
        for s in states:
            for t in states:
                matrix[s, t] = (s == t) - discount * sum(policy[s][a] * P[s][a][t] for a in actions)
        move = mp.lu_solve(matrix, new - values)
        values += move
        if max(abs(m) for m in move) <= mp.mpf(10) ** -45 * (1 + max(abs(v) for v in values)):
            break
    q, values, policy = backed_up(values)
    # d Σ_s V(s) / d r(s, a) = d(s) π(a|s), with d the discounted visits from every state once.
    visits = mp.lu_solve(matrix.T, mp.ones(STATES, 1))
    values_moved = [[visits[s] * policy[s][a] for a in actions] for s in states]
    # ∇ Σ π g = (1/τ) (π (g − ḡ) + π φᵀ): the direct part, and what the next states' values carry on.
    means = [sum(policy[s][a] * WEIGHTS[s][a] for a in actions) for s in states]
    direct = [[policy[s][a] * (WEIGHTS[s][a] - means[s]) / tau for a in actions] for s in states]
    carried = mp.matrix(
        [discount * sum(direct[s][a] * P[s][a][t] for s in states for a in actions) for t in states]
    )
    adjoint = mp.lu_solve(matrix.T, carried)
    policy_moved = [[direct[s][a] + adjoint[s] * policy[s][a] for a in actions] for s in states]
    found = (values.tolist(), policy, values_moved, policy_moved)
    return (np.array([[float(value) for value in row] for row in rows]) for rows in found)


CASES = [(tau, scale, discount) for tau in TEMPERATURES for scale in SCALES for discount in DISCOUNTS]


@pytest.mark.parametrize(("tau", "scale", "discount"), CASES)
def test_six_digits_in_float64(tau, scale, discount):
    transition, reward = table()
    reward = reward * scale
    values, policy, values_moved, policy_moved = exact(transition, reward, discount, tau)
    with jax.enable_x64(True):
        x = jnp.asarray(reward)
        world = rs.MDP(transition, np.full(STATES, 1 / STATES), discount)
        answer = rs.solve_follower(world, x, tau)
        by_value = values_gradient(x, world, tau)
        problem = rs.BilevelProblem(world, reward=table_itself, upper_loss=weighted_policy, temperature=tau)
        phi, by_policy = rs.hypergradient(problem, x)
        answer, by_value, by_policy = jax.tree.map(np.asarray, (answer, by_value, by_policy))
    np.testing.assert_allclose(answer.values, values[:, 0], rtol=1e-6)
    np.testing.assert_allclose(answer.policy, policy, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(float(phi), np.sum(policy * np.asarray(WEIGHTS)), rtol=1e-6)
    np.testing.assert_allclose(by_value, values_moved, rtol=1e-6, atol=1e-6 * np.abs(values_moved).max())
    # Where one action is all but certain the gradient is below what a probability of 1 can tell: 1e-16/τ.
    floor = 1e-12 / tau
    np.testing.assert_allclose(
        by_policy, policy_moved, rtol=1e-6, atol=1e-6 * np.abs(policy_moved).max() + floor
    )


@pytest.mark.parametrize(("tau", "scale", "discount"), CASES)
def test_nothing_overflows_in_float32(tau, scale, discount):
    transition, reward = table()
    world = rs.MDP(
        transition.astype(np.float32), np.full(STATES, 1 / STATES, np.float32), np.float32(discount)
    )
    x = jnp.asarray(reward * scale, jnp.float32)
    answer = rs.solve_follower(world, x, tau)
    gradient = values_gradient(x, world, tau)
    problem = rs.BilevelProblem(world, reward=table_itself, upper_loss=weighted_policy, temperature=tau)
    phi, hypergradient = rs.hypergradient(problem, x)
    for array in (answer.values, answer.q_values, answer.policy, gradient, phi, hypergradient):
        assert array.dtype == jnp.float32 and np.isfinite(array).all()
    np.testing.assert_allclose(jnp.sum(answer.policy, 1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("regulariser", ["Shannon", "Tsallis", "KullbackLeibler"])
def test_every_regulariser_stands_the_range(regulariser):
    transition, reward = table(1)
    uniform = [np.full((STATES, ACTIONS), 1 / ACTIONS)] if regulariser == "KullbackLeibler" else []
    for tau, scale, discount in CASES:
        with jax.enable_x64(True):
            world = rs.MDP(transition, np.full(STATES, 1 / STATES), discount)
            kind = getattr(rs, regulariser)(*uniform)
            answer = rs.solve_follower(world, jnp.asarray(reward * scale), tau, regulariser=kind)
            policy = np.asarray(answer.policy)
        assert np.isfinite(policy).all() and np.allclose(policy.sum(1), 1.0, rtol=1e-9), (
            tau,
            scale,
            discount,
        )


@pytest.mark.parametrize("difference", [0.0, 1e-6, 1.0, 1e3, 1e6, -1e6])
def test_the_preference_loss_stays_finite(difference):
    loss_and_slope = jax.value_and_grad(bradley_terry)
    for label in (0.0, 0.5, 1.0):
        loss, slope = loss_and_slope(jnp.float32(difference), jnp.float32(0.0), jnp.float32(label))
        assert np.isfinite(loss) and np.isfinite(slope) and abs(slope) <= 1.0
