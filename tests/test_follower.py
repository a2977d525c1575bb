"""The tabular follower: right answers, right derivatives, at home in vmap and scan."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith._core import RESULTS, InputError
from rewardsmith.follower import solve_follower
from rewardsmith.mdp import MDP, q_values, soft_bellman, soft_policy, state_action_occupancy

STATES, ACTIONS, TAU = 4, 3, 0.4


pytestmark = pytest.mark.usefixtures("double_precision")


def random_case(seed=0, states=STATES, actions=ACTIONS, discount=0.8, end=None):
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(states), (states, actions))
    if end is not None:
        transition[end] = 0
    world = MDP(transition, rng.dirichlet(np.ones(states)), discount)
    return world, jnp.asarray(rng.normal(size=(states, actions)))


def swept(world, reward, tau, sweeps=250):
    """Soft value iteration, differentiable by unrolling."""

    def sweep(values, _):
        return soft_bellman(world, reward, tau, values), None

    return jax.lax.scan(sweep, jnp.zeros(world.num_states), None, length=sweeps)[0]


def test_one_state_is_a_softmax():
    # One state that leads to itself: V = (τ log Σ exp(r/τ)) / (1−γ), and π ∝ exp(r/τ) whatever γ.
    reward = jnp.array([[0.3, -1.0, 2.0]])
    answer = solve_follower(MDP(np.ones((1, 3, 1)), [1.0], 0.9), reward, TAU)
    weights = np.exp(np.asarray(reward) / TAU)
    np.testing.assert_allclose(answer.policy, weights / weights.sum(), rtol=1e-10)
    np.testing.assert_allclose(answer.values, TAU * np.log(weights.sum(1)) / (1 - 0.9), rtol=1e-12)


def test_terminal_state_pays_once():
    world = MDP(np.array([[[0.0, 1.0]] * 2, [[0.0, 0.0]] * 2]), [1.0, 0.0], 0.5)
    answer = solve_follower(world, jnp.array([[0.0, 0.0], [1.0, 1.0]]), 1.0)
    end = 1 + np.log(2)
    np.testing.assert_allclose(answer.values, [np.log(2) + 0.5 * end, end], rtol=1e-12)


@pytest.mark.parametrize("end", [None, 1])
def test_solves_the_soft_bellman_equations(end):
    world, reward = random_case(1, end=end)
    answer = solve_follower(world, reward, TAU)
    np.testing.assert_allclose(answer.values, swept(world, reward, TAU), rtol=1e-11)
    np.testing.assert_allclose(answer.q_values, q_values(world, reward, answer.values), rtol=1e-14)
    np.testing.assert_allclose(answer.policy, soft_policy(answer.q_values, TAU), rtol=1e-14)
    assert answer.residual <= 1e-12 and 1 <= answer.steps <= 10


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("discount", "tau"), [(0.0, 1.0), (0.999, 1e-3), (0.99, 100.0), (0.95, 1e-8)])
def test_hard_settings_settle(discount, tau, dtype):
    rng = np.random.default_rng(7)
    world = MDP(rng.dirichlet(np.full(60, 0.1), (60, 5)).astype(dtype), np.full(60, 1 / 60), discount)
    answer = solve_follower(world, jnp.asarray(rng.normal(size=(60, 5)), dtype), tau)
    assert answer.values.dtype == dtype and answer.steps < 40
    assert answer.residual <= 50 * np.finfo(dtype).eps * max(1.0, float(abs(answer.values).max()))


def test_too_few_steps_are_seen_in_the_residual():
    world, reward = random_case(2, discount=0.99)
    answer = solve_follower(world, reward, 0.05, max_steps=1, throw=False)
    assert answer.steps == 1 and answer.residual > 1e-3
    assert answer.result == RESULTS.max_steps_reached
    with pytest.raises(InputError, match="tolerance was not reached in max_steps; give more steps"):
        solve_follower(world, reward, 0.05, max_steps=1)
    assert solve_follower(world, reward, 0.05, tolerance=0.0).result == RESULTS.successful


def test_a_start_close_by_saves_steps():
    world, reward = random_case(2, discount=0.99)
    cold = solve_follower(world, reward, 0.05)
    warm = solve_follower(world, reward + 1e-6, 0.05, initial_values=cold.values)
    assert warm.steps < cold.steps
    np.testing.assert_allclose(warm.values, cold.values + 1e-6 / (1 - 0.99), rtol=1e-9)
    with pytest.raises(InputError, match="initial_values"):
        solve_follower(world, reward, 0.05, initial_values=cold.values[:2])


def test_newton_converges_quadratically():
    world, reward = random_case(3, discount=0.95)
    gaps = [
        float(solve_follower(world, reward, TAU, max_steps=k, throw=False).residual) for k in (1, 2, 3, 4)
    ]
    worth = [(a, b) for a, b in zip(gaps, gaps[1:], strict=False) if b > 1e-13]
    assert len(worth) >= 2
    assert all(b < 2 * a**2 for a, b in worth[-2:])


def test_shaping_leaves_the_policy_alone():
    # r + γ Σ P Φ(t) − Φ(s) moves V by −Φ and nothing else (Ng, Harada and Russell, 1999).
    world, reward = random_case(4, end=2)
    potential = jnp.asarray(np.random.default_rng(4).normal(size=STATES))
    shaped = q_values(world, reward, potential) - potential[:, None]
    plain, other = solve_follower(world, reward, TAU), solve_follower(world, shaped, TAU)
    np.testing.assert_allclose(other.policy, plain.policy, rtol=1e-10)
    np.testing.assert_allclose(other.values, plain.values - potential, rtol=1e-10)


def along(part, base, direction):
    """world, reward, temperature as functions of one number, moving only `part`."""
    world, reward, tau = base

    def move(t):
        if part == "reward":
            return world, reward + t * direction[part], tau
        if part == "temperature":
            return world, reward, tau + t
        moved = getattr(world, part) + t * direction[part]
        return eqx.tree_at(lambda w: getattr(w, part), world, moved), reward, tau

    return move


@pytest.mark.parametrize("part", ["reward", "transition", "discount", "temperature"])
def test_derivatives_against_three_witnesses(part):
    world, reward = random_case(5, end=1)
    rng = np.random.default_rng(55)
    other = rng.dirichlet(np.ones(STATES), (STATES, ACTIONS)) * ~np.asarray(world.terminal)[:, None, None]
    direction = {
        "reward": rng.normal(size=reward.shape),
        "transition": other - np.asarray(world.transition),
        "discount": 1.0,
    }
    g_values, g_policy = rng.normal(size=STATES), rng.normal(size=(STATES, ACTIONS))
    move = along(part, (world, reward, jnp.asarray(TAU)), direction)

    def implicit(t):
        answer = solve_follower(*move(t))
        return g_values @ answer.values + (g_policy * answer.policy).sum()

    def unrolled(t):
        moved_world, moved_reward, tau = move(t)
        values = swept(moved_world, moved_reward, tau)
        policy = soft_policy(q_values(moved_world, moved_reward, values), tau)
        return g_values @ values + (g_policy * policy).sum()

    step = 1e-5

    @jax.jit
    def everything(ts):
        return jax.vmap(jax.value_and_grad(implicit))(ts), [
            derivative(ts[1])
            for derivative in (jax.jacfwd(implicit), jax.jacfwd(unrolled), jax.grad(jax.grad(implicit)))
        ]

    (values, slopes), (forward, witness, second) = everything(jnp.array([-step, 0.0, step]))
    np.testing.assert_allclose(slopes[1], forward, rtol=1e-11)
    np.testing.assert_allclose(slopes[1], witness, rtol=1e-9)
    np.testing.assert_allclose(slopes[1], (values[2] - values[0]) / (2 * step), rtol=1e-7)
    np.testing.assert_allclose(second, (slopes[2] - slopes[0]) / (2 * step), rtol=1e-6, atol=1e-8)


def test_full_gradients_forward_and_reverse_agree_with_unrolling():
    world, reward = random_case(6)

    def moved(transition, discount):
        return eqx.tree_at(lambda w: (w.transition, w.discount), world, (transition, discount))

    def policy(table, *parts):
        return solve_follower(moved(*parts), table, TAU).policy

    def unrolled(table, *parts):
        other = moved(*parts)
        return soft_policy(q_values(other, table, swept(other, table, TAU)), TAU)

    parts = (reward, world.transition, world.discount)
    reverse = jax.jit(jax.jacrev(policy, argnums=(0, 1, 2)))(*parts)
    forward = jax.jit(jax.jacfwd(policy, argnums=(0, 1, 2)))(*parts)
    witness = jax.jit(jax.jacrev(unrolled, argnums=(0, 1, 2)))(*parts)
    for mine, other, truth in zip(reverse, forward, witness, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-11)
        np.testing.assert_allclose(mine, truth, atol=1e-9)


def test_value_gradient_is_the_occupancy():
    # ∇V = (I − γP^π)⁻¹ Σ_a π ∇r, so ρᵀV moves with r(s,a) by the discounted visits of (s,a).
    world, reward = random_case(8)
    gradient = jax.grad(lambda r: world.initial @ solve_follower(world, r, TAU).values)(reward)
    policy = solve_follower(world, reward, TAU).policy
    np.testing.assert_allclose(gradient, state_action_occupancy(world, policy), rtol=1e-10)


def test_the_backward_pass_does_not_unroll():
    world, reward = random_case(9)

    def loss(r):
        return solve_follower(world, r, TAU).policy[0, 0]

    graph = str(jax.make_jaxpr(jax.grad(loss))(reward))
    assert graph.count(" while[") == 1 and " scan[" not in graph


def test_vmap_over_rewards_temperatures_and_worlds():
    worlds, rewards = zip(*[random_case(seed) for seed in range(4)], strict=True)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *worlds)
    taus = jnp.array([0.1, 0.2, 1.0, 5.0])
    together = jax.vmap(solve_follower)(batch, jnp.stack(rewards), taus)
    for i, (world, reward) in enumerate(zip(worlds, rewards, strict=True)):
        alone = solve_follower(world, reward, taus[i])
        np.testing.assert_allclose(together.policy[i], alone.policy, rtol=1e-10)
        assert together.steps[i] == alone.steps


@pytest.mark.parametrize("states", [3, 40])
def test_vmap_and_gradient_inside_scan(states):
    world, reward = random_case(10, states=states)

    def ascend(tables, _):
        gain = jax.vmap(lambda r: world.initial @ solve_follower(world, r, TAU).values)
        gradient = jax.grad(lambda r: gain(r).sum())(tables)
        return tables - 0.1 * gradient, gain(tables)

    tables = jnp.stack([reward * scale for scale in (0.5, 1.0, 2.0, 4.0)])
    _, gains = jax.jit(lambda t: jax.lax.scan(ascend, t, None, length=20))(tables)
    assert np.isfinite(gains).all() and (np.diff(gains, axis=0) < 0).all()


def test_one_trace_for_all_temperatures_of_a_type():
    world, reward = random_case(11)
    traces = []

    @jax.jit
    def policy(r, tau):
        traces.append(0)
        return solve_follower(world, r, tau).policy

    for tau in (0.1, 0.2, 0.3):
        policy(reward, tau)
    assert len(traces) == 1


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_temperature_must_be_positive(tau):
    world, reward = random_case()
    with pytest.raises(InputError, match="temperature is"):
        solve_follower(world, reward, tau)


def test_other_bad_input():
    world, reward = random_case()
    with pytest.raises(InputError, match=r"reward_table has shape \(3, 4\).*\(4, 3\)"):
        solve_follower(world, reward.T, TAU)
    with pytest.raises(InputError, match="vmap"):
        solve_follower(world, reward, jnp.array([0.1, 0.2]))
    with pytest.raises(InputError, match="NaN"):
        solve_follower(world, reward.at[0, 0].set(jnp.nan), TAU)
    with pytest.raises(InputError, match="max_steps"):
        solve_follower(world, reward, TAU, max_steps=0)
    with pytest.raises(InputError, match="reward_table has shape"):
        jax.jit(lambda r: solve_follower(world, r, TAU).values)(reward.T)


def test_nan_under_jit_stops_at_once_and_shows():
    world, reward = random_case()
    answer = jax.jit(lambda r: solve_follower(world, r, TAU))(reward.at[0, 0].set(jnp.nan))
    assert np.isnan(answer.residual) and answer.steps == 0
