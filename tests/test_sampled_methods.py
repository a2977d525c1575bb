"""HPGD, BCHG, AMD, ZerothOrder: what they follow is the hyper-gradient, and following it helps."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rewardsmith._core import InputError
from rewardsmith.bilevel import _trajectories as along
from rewardsmith.bilevel import hypergradient, solve
from rewardsmith.bilevel.amd import AMD
from rewardsmith.bilevel.bchg import BCHG
from rewardsmith.bilevel.hpgd import HPGD
from rewardsmith.bilevel.lower_level import FixedPointProblem
from rewardsmith.bilevel.zeroth_order import ZerothOrder
from rewardsmith.follower import solve_follower
from rewardsmith.mdp import (
    MDP,
    SharedTransition,
    SparseTransition,
    Tsallis,
    q_values,
    solve_policy,
)
from rewardsmith.mdp.rollouts import roll_out
from rewardsmith.problem import BilevelProblem, PreferenceLoss, SimulatedWorld
from rewardsmith.upper_losses import LeaderReturn

STATES, ACTIONS, DISCOUNT, TAU = 4, 3, 0.6, 0.8
METHODS = [
    HPGD(0.05, trajectories=50, horizon=20),
    BCHG(0.05, trajectories=50, horizon=20),
    AMD(0.05, sweeps=3),
    ZerothOrder(0.05, directions=4),
]


pytestmark = pytest.mark.usefixtures("double_precision")


def start():
    # An integer leaf is no direction to move in.
    return {"a": jnp.array([0.3, -0.2]), "b": jnp.asarray(0.4), "n": jnp.asarray(3)}


def make_problem(kind, *, form=lambda P: P, end=2, seed=0, **settings):
    """A leader that pays and is paid, or a loss that looks at all of π; it may move P too."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.ones(STATES), (STATES, ACTIONS))
    logits, push = np.log(P), rng.normal(size=P.shape)
    P[:, 2] = P[:, 0]
    if end is not None:
        P[end] = 0
    world = MDP(form(P), rng.dirichlet(np.ones(STATES)), DISCOUNT)
    base, leads, wanted = (jnp.asarray(rng.normal(size=(STATES, ACTIONS))) for _ in range(3))
    features = jnp.asarray(rng.normal(size=(STATES, ACTIONS, 3)))

    def moved(x):
        return jnp.where(world.terminal[:, None, None], 0, jax.nn.softmax(logits + x["a"][0] * push))

    def reward(x):
        return base + features @ jnp.append(x["a"], x["b"])

    def loss(x, policy):
        return jnp.sum(wanted * policy**2) + x["b"] ** 2 + x["a"][0] * policy[0, 0]

    transition = moved if "moving" in kind else None
    if "leader" in kind:
        loss = LeaderReturn(
            world, lambda x: leads - 0.1 * jnp.sum(x["a"] ** 2) + 0.2 * x["b"] * base, 0.7, transition
        )
    return BilevelProblem(world, reward, loss, TAU, transition=transition, **settings)


def flat(gradient):
    return jnp.append(gradient["a"], gradient["b"])


def truth(problem, x):
    phi, gradient = hypergradient(problem, x)
    return phi, flat(gradient)


def leader_q(problem, x):
    """Q_L of the follower's best answer, by a linear solve."""
    world, reward = problem.upper_loss.leader_world(x), problem.upper_loss.reward(x)
    policy = solve_follower(problem.world_at(x), problem.reward(x), problem.temperature).policy
    values, _ = solve_policy(world, policy, jnp.sum(policy * reward, axis=1))
    return q_values(world, reward, values)


@pytest.mark.parametrize("kind", ["leader moving", "generic moving"])
@pytest.mark.parametrize("method", [HPGD, BCHG])
def test_sampled_estimates_agree_with_the_hypergradient(method, kind):
    # HPGD's means are ratios, wrong by O(1/N); the cut costs γ_L^40. Both are far below the interval here.
    problem, x, runs = make_problem(kind, end=2 if "leader" in kind else None), start(), 60
    phi, exact = truth(problem, x)
    rule = method(0.0, trajectories=300, horizon=40)
    state = rule.init(problem, x, jax.random.key(0))
    if method is BCHG and "leader" in kind:
        state = eqx.tree_at(lambda s: s.memory.leader_q, state, leader_q(problem, x))

    @jax.jit
    @jax.vmap
    def estimate(key):
        after, stats = rule.step(problem, eqx.tree_at(lambda s: s.key, state, key))
        return flat(after.gradient), stats

    gradients, stats = estimate(jax.random.split(jax.random.key(1), runs))
    error = np.asarray(gradients.mean(axis=0) - exact)
    interval = 4 * np.asarray(gradients).std(axis=0) / np.sqrt(runs)
    assert np.all(abs(error) < interval)
    # Narrow enough that a wrong factor would show.
    assert np.linalg.norm(interval) < 0.2 * np.linalg.norm(exact)
    np.testing.assert_allclose(stats.loss, phi, rtol=1e-10)
    assert stats.residual.max() < 1e-11
    if "leader" in kind:
        assert np.all((300 < stats.samples) & (stats.samples < 300 * 40))
    else:
        assert np.all(stats.samples == 300 * 40)


def test_sarsa_learns_the_leader_and_starts_from_nothing():
    problem, x = make_problem("leader"), start()
    rule = BCHG(0.0, trajectories=200, horizon=30, sarsa_step_size=0.05, sarsa_sweeps=1)
    state = rule.init(problem, x, jax.random.key(0))
    assert not np.any(state.memory.leader_q)
    solution = solve(problem, rule, x, 250)
    np.testing.assert_allclose(solution.state.memory.leader_q, leader_q(problem, x), atol=0.15)


def test_coefficients_are_the_transpose_of_suffix_sums():
    problem = make_problem("leader")
    policy = jnp.full((STATES, ACTIONS), 1 / ACTIONS)
    drawn = roll_out(problem.world, policy, jax.random.key(0), 6, 9)
    rng = np.random.default_rng(0)
    c, table = jnp.asarray(rng.normal(size=(6, 9))), jnp.asarray(rng.normal(size=(STATES, ACTIONS)))
    gamma = jnp.asarray(0.7)
    visited = np.asarray(along.at_steps(table, drawn))
    suffixes = [[sum(0.7 ** (m - t) * row[m] for m in range(t, 9)) for t in range(9)] for row in visited]
    np.testing.assert_allclose(along.suffix_sums(jnp.asarray(visited), gamma), suffixes, rtol=1e-12)
    lives = jnp.where(drawn.alive, c, 0)
    C = along.suffix_coefficients(drawn, c, gamma, table)
    np.testing.assert_allclose(jnp.sum(C * table), jnp.sum(lives * np.array(suffixes)), rtol=1e-12)


def one_step(rule, problem, x, seed=0):
    state = rule.init(problem, x, jax.random.key(seed))
    return eqx.filter_jit(rule.step)(problem, state)


@pytest.mark.parametrize("kind", ["leader moving", "generic moving"])
def test_amd_tends_to_the_hypergradient(kind):
    problem, x = make_problem(kind), start()
    phi, exact = truth(problem, x)
    after, stats = one_step(AMD(0.0, sweeps=90), problem, x)
    np.testing.assert_allclose(flat(after.gradient), exact, atol=1e-8)
    np.testing.assert_allclose(stats.loss, phi, atol=1e-8)


def test_amd_carries_on_and_its_error_falls_like_the_discount():
    # No end, whose states are exact at once; γ_L = 0.7 is the slower of the two.
    problem, x = make_problem("leader", end=None), start()
    rule, (_, exact) = AMD(0.0, sweeps=1), truth(problem, x)
    state = rule.init(problem, x, jax.random.key(0))

    def again(memory, _):
        after, _ = rule.step(problem, eqx.tree_at(lambda s: s.memory, state, memory))
        return after.memory, flat(after.gradient)

    _, gradients = jax.jit(lambda memory: jax.lax.scan(again, memory, None, length=50))(state.memory)
    errors = np.linalg.norm(gradients - exact, axis=1)
    assert abs(np.polyfit(np.arange(20, 50), np.log(errors[20:]), 1)[0] - np.log(0.7)) < 0.03
    after, _ = one_step(AMD(0.0, sweeps=30), problem, x)
    np.testing.assert_allclose(flat(after.gradient), gradients[29], rtol=1e-10)


def test_amd_with_another_regulariser():
    problem, x = make_problem("leader", regulariser=Tsallis()), start()
    after, _ = one_step(AMD(0.0, sweeps=90), problem, x)
    np.testing.assert_allclose(flat(after.gradient), truth(problem, x)[1], atol=1e-8)


def test_zeroth_order_agrees_with_the_hypergradient():
    problem, x, count = make_problem("leader moving"), start(), 2000
    phi, exact = truth(problem, x)
    after, stats = one_step(ZerothOrder(0.0, perturbation=1e-4, directions=count), problem, x)
    # u uᵀ∇φ has covariance |∇φ|² I + ∇φ ∇φᵀ.
    interval = 4 * np.sqrt((jnp.sum(exact**2) + exact**2) / count)
    assert np.all(abs(flat(after.gradient) - exact) < interval)
    np.testing.assert_allclose(stats.loss, phi, rtol=1e-10)
    assert stats.oracle_calls == 2 * (1 + 2 * count) and stats.sweeps > 2 * count


def test_zeroth_order_takes_any_fixed_point():
    # y = y/2 + x, so y = 2x, and φ = Σ (y − 1)² is least at x = 1/2.
    problem = FixedPointProblem(
        lambda x, y: y / 2 + x, lambda x, y: jnp.sum((y - 1) ** 2), initial=jnp.zeros(2)
    )
    solution = solve(problem, ZerothOrder(0.02, directions=4), jnp.zeros(2), 200)
    np.testing.assert_allclose(solution.value, 0.5, atol=1e-3)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_all_lower_the_loss_under_vmap(method):
    problem, x, steps = make_problem("leader moving"), start(), 40
    method = dataclasses.replace(method, optimiser=optax.adam(1.0))

    def run(key, step_size):
        rule = eqx.tree_at(lambda m: m.step_size, method, step_size)
        return solve(problem, rule, x, steps, key=key)

    keys, sizes = jax.random.split(jax.random.key(0), 3), jnp.array([0.02, 0.05, 0.05])
    together = eqx.filter_vmap(run)(keys, sizes)
    before = truth(problem, x)[0]
    for i in range(3):
        value = jax.tree.map(lambda leaf, i=i: leaf[i], together.value)
        assert truth(problem, value)[0] < before - 0.02
        assert value["n"] == 3


@pytest.mark.parametrize("form", ["sparse", "shared"])
def test_forms_of_the_world_agree(form):
    def other(P):
        if form == "shared":
            return SharedTransition(P[:, :2], [0, 1, 0])
        return SparseTransition(np.broadcast_to(np.arange(STATES), P.shape), P)

    problem, x = make_problem("leader", form=other), start()
    after, _ = one_step(AMD(0.0, sweeps=90), problem, x)
    np.testing.assert_allclose(flat(after.gradient), truth(make_problem("leader"), x)[1], atol=1e-8)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_single_precision_stays_single(method):
    with jax.enable_x64(False):
        world = MDP(np.full((2, 2, 2), 0.5, np.float32), [0.5, 0.5], 0.5)
        leader = LeaderReturn(world, lambda x: x * jnp.eye(2))
        problem = BilevelProblem(world, lambda x: x * jnp.ones((2, 2)), leader, 0.5)
        state = method.init(problem, jnp.float32(1.0), jax.random.key(0))
        after = eqx.filter_eval_shape(lambda s: method.step(problem, s)[0], state)
    types = [[leaf.dtype for leaf in jax.tree.leaves(tree)] for tree in (state, after)]
    assert types[0] == types[1]


def test_a_follower_of_few_sweeps():
    problem, x = make_problem("leader"), start()
    residuals = {}
    for reset in (False, True):
        rule = BCHG(0.0, trajectories=2, horizon=2, sweeps=2, reset=reset)
        step, state = eqx.filter_jit(rule.step), rule.init(problem, x, jax.random.key(0))
        for _ in range(8):
            state, stats = step(problem, state)
            residuals.setdefault(reset, []).append(float(stats.residual))
        assert stats.sweeps == 3 and stats.linear_iterations == 0
    carried, reset = residuals[False], residuals[True]
    assert reset[0] == carried[0] > 1e-2 and len(set(reset)) == 1
    assert carried[-1] < 1e-3


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: HPGD(0.1, trajectories=0), "trajectories is 0"),
        (lambda: HPGD(0.1, horizon=0), "horizon is 0"),
        (lambda: BCHG(0.1, trajectories=0), "trajectories is 0"),
        (lambda: BCHG(0.1, horizon=1), "horizon is 1"),
        (lambda: BCHG(0.1, sweeps=0), "sweeps is 0"),
        (lambda: BCHG(0.1, sarsa_sweeps=0), "sarsa_sweeps is 0"),
        (lambda: BCHG(0.1, sarsa_step_size=0.0), "sarsa_step_size is 0"),
        (lambda: AMD(0.1, sweeps=0), "sweeps is 0"),
        (lambda: ZerothOrder(0.1, directions=0), "directions is 0"),
        (lambda: ZerothOrder(0.1, perturbation=0.0), "perturbation is 0"),
    ],
)
def test_bad_settings(make, text):
    with pytest.raises(InputError, match=text):
        make()


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_problems_that_do_not_fit(method):
    key, x = jax.random.key(0), start()
    world = SimulatedWorld("Hopper-v5", 0.9)
    simulated = BilevelProblem(world, lambda x, observation, action: x, PreferenceLoss(2), 1.0)
    with pytest.raises(InputError, match="MDP"):
        method.init(simulated, x, key)
    if not isinstance(method, ZerothOrder):
        still, moving = make_problem("leader"), make_problem("leader moving")
        mixed = eqx.tree_at(lambda p: p.upper_loss, moving, still.upper_loss)
        with pytest.raises(InputError, match="give both the same"):
            method.init(mixed, x, key)
    if isinstance(method, HPGD | BCHG):
        with pytest.raises(InputError, match="softmax policy, not Tsallis"):
            method.init(make_problem("leader", regulariser=Tsallis()), x, key)
