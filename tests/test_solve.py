"""`solve`, and the methods that differentiate a contraction: right numbers, rates, costs, codes."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rewardsmith as rs
from rewardsmith.bilevel.m_sobirl import Iterates
from rewardsmith.problems import random_mdp_from

REFERENCE = Path(__file__).parent / "reference"


pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture
def synthetic():
    case = np.load(REFERENCE / "random_mdp.npz")
    parts = (case[name] for name in ("P", "rewards_coef", "mat", "gamma", "tau"))
    problem = random_mdp_from(*parts).problem
    return problem, case


def small_problem(temperature=0.5, discount=0.7, regulariser=None):
    rng = np.random.default_rng(0)
    world = rs.MDP(rng.dirichlet(np.ones(4), (4, 3)), rng.dirichlet(np.ones(4)), discount)
    features, goal = jnp.asarray(0.3 * rng.normal(size=(4, 3, 5))), jnp.asarray(rng.dirichlet(np.ones(3), 4))

    def upper_loss(x, policy):
        return jnp.sum((policy - goal) ** 2) + 0.01 * jnp.sum(x**2)

    return rs.BilevelProblem(world, lambda x: features @ x, upper_loss, temperature, regulariser=regulariser)


START = np.array([0.4, -0.3, 0.2, 0.1, -0.5])


def test_m_sobirl_reproduces_every_checkpoint(synthetic):
    problem, case = synthetic
    method = rs.MSoBiRL(
        float(case["beta"]),
        adjoint_step_size=float(case["zeta"]),
        sweeps=int(case["N_vi"]),
        sweep_tolerance=float(case["vi_eps"]),
        normalise=False,
    )
    state = method.init(problem, jnp.asarray(case["x0"][:, 0]), jax.random.key(0))
    first = Iterates(jnp.zeros(10), jnp.asarray(case["w0"][:, 0]), jnp.asarray(case["pi0"]))
    state, done, norms = eqx.tree_at(lambda s: s.memory, state, first), 0, []
    for i, step in enumerate(case["ck"]):
        solution = rs.solve(problem, method, state.x, int(step) - done, state=state)
        state, done = solution.state, int(step)
        norms.append(solution.stats.gradient_norm)
        for ours, theirs in (
            (state.x, case["x_ck"]),
            (state.gradient, case["g_ck"]),
            (state.memory.values, case["V_ck"]),
            (state.memory.adjoint, case["w_ck"]),
        ):
            np.testing.assert_allclose(ours, theirs[i][:, 0], atol=1e-9, rtol=0)
        np.testing.assert_allclose(state.memory.policy, case["pi_ck"][i], atol=1e-9, rtol=0)
    np.testing.assert_allclose(np.concatenate(norms), case["grad_norm"], atol=1e-9)


def test_implicit_gradient_is_the_hypergradient():
    problem, x = small_problem(), jnp.asarray(START)
    _, exact = rs.hypergradient(problem, x)
    for adjoint in (rs.Exact(), rs.ConjugateGradient(tolerance=1e-13), rs.Neumann(120)):
        method = rs.ImplicitGradient(0.1, adjoint=adjoint)
        state, stats = method.step(problem, method.init(problem, x, jax.random.key(0)))
        np.testing.assert_allclose(state.gradient, exact, atol=1e-11)
        np.testing.assert_allclose(state.x, x - 0.1 * exact, atol=1e-11)
        assert stats.residual < 1e-11 and stats.sweeps > 1 and stats.linear_iterations > 1


def slope_of_error(method_of, counts, problem, x):
    _, exact = rs.hypergradient(problem, x)
    errors = []
    for count in counts:
        method = method_of(count)
        state, _ = method.step(problem, method.init(problem, x, jax.random.key(0)))
        errors.append(float(jnp.linalg.norm(state.gradient - exact)))
    return np.polyfit(counts, np.log(errors), 1)[0]


@pytest.mark.parametrize("discount", [0.5, 0.8])
def test_unrolled_bias_falls_like_gamma_to_the_k(discount):
    # A deterministic ring: all of γ^K is seen, where mixing would forget faster than γ.
    ring = np.zeros((4, 2, 4))
    ring[np.arange(4), 0, (np.arange(4) + 1) % 4] = ring[np.arange(4), 1, (np.arange(4) + 2) % 4] = 1
    table = jnp.asarray(np.random.default_rng(1).normal(size=(4, 2, 3)))
    goal = jnp.asarray(np.random.default_rng(2).normal(size=(4, 2)))
    problem = rs.BilevelProblem(
        rs.MDP(ring, np.full(4, 0.25), discount),
        lambda x: table @ x + 2.0 * x[0],
        lambda x, policy: jnp.sum(goal * policy),
        1.0,
    )
    x = jnp.array([0.5, -0.2, 0.3])
    counts = np.arange(6, 31, 6)
    slope = slope_of_error(lambda k: rs.UnrolledGradient(0.1, sweeps=int(k)), counts, problem, x)
    # K factors γ of the error of V and K of its derivative: up to a factor K, γ^K; never slower.
    assert slope <= np.log(discount) * 0.9
    assert slope >= np.log(discount) * 2.6


def test_unrolled_bias_on_a_contraction_that_is_exactly_gamma():
    # y ← γ y + x: dy_K/dx = Σ_{k<K} γ^k, so the bias is γ^K/(1−γ), to the digit.
    problem = rs.FixedPointProblem(lambda x, y: 0.6 * y + x, lambda x, y: y, 0.0)
    slope = slope_of_error(
        lambda k: rs.UnrolledGradient(0.1, sweeps=int(k)), np.arange(4, 24, 4), problem, jnp.asarray(1.0)
    )
    np.testing.assert_allclose(slope, np.log(0.6), rtol=1e-6)


def test_neumann_bias_falls_like_gamma_to_the_terms():
    problem = rs.FixedPointProblem(lambda x, y: 0.6 * y + x, lambda x, y: y, 0.0)
    slope = slope_of_error(
        lambda k: rs.ImplicitGradient(0.1, adjoint=rs.Neumann(int(k))),
        np.arange(4, 24, 4),
        problem,
        jnp.asarray(1.0),
    )
    np.testing.assert_allclose(slope, np.log(0.6), rtol=1e-5)


def ridge_problem():
    """Choose the weight of a ridge penalty on held-out data: no decision process anywhere."""
    rng = np.random.default_rng(3)
    inputs, noise = rng.normal(size=(30, 6)), rng.normal(size=30)
    targets = inputs @ rng.normal(size=6) + noise
    train, held = slice(0, 15), slice(15, 30)
    A, b = jnp.asarray(inputs[train]), jnp.asarray(targets[train])
    C, d = jnp.asarray(inputs[held]), jnp.asarray(targets[held])

    def descend(x, w):
        return w - 0.3 * (A.T @ (A @ w - b) / 15 + jnp.exp(x) * w)

    def weights(x):
        return jnp.linalg.solve(A.T @ A / 15 + jnp.exp(x) * jnp.eye(6), A.T @ b / 15)

    problem = rs.FixedPointProblem(descend, lambda x, w: jnp.mean((C @ w - d) ** 2), jnp.zeros(6))
    return problem, lambda x: jnp.mean((C @ weights(x) - d) ** 2)


@pytest.mark.parametrize(
    "method",
    [
        rs.ImplicitGradient(0.5),
        rs.ImplicitGradient(0.5, adjoint=rs.ConjugateGradient(tolerance=1e-12)),
        rs.UnrolledGradient(0.5, sweeps=400),
    ],
    ids=["exact", "conjugate gradients", "unrolled"],
)
def test_lower_levels_that_are_no_decision_process(method):
    problem, direct = ridge_problem()
    x = jnp.asarray(-3.0)
    state, _ = method.step(problem, method.init(problem, x, jax.random.key(0)))
    np.testing.assert_allclose(state.gradient, jax.grad(direct)(x), rtol=1e-7)
    solution = rs.solve(problem, method, x, 200)
    assert abs(jax.grad(direct)(solution.value)) < 1e-3 and direct(solution.value) < direct(x)


METHODS = {
    "implicit": lambda size: rs.ImplicitGradient(size),
    "few sweeps": lambda size: rs.ImplicitGradient(size, sweeps=5, adjoint=rs.Neumann(5)),
    "unrolled": lambda size: rs.UnrolledGradient(size, sweeps=10),
    "m-sobirl": lambda size: rs.MSoBiRL(size, adjoint_step_size=0.3),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("regulariser", "size"), [(None, 0.2), (rs.Tsallis(), 0.05)], ids=["entropy", "tsallis"]
)
def test_all_come_to_a_stationary_point(name, regulariser, size):
    problem = small_problem(regulariser=regulariser)
    solution = rs.solve(problem, METHODS[name](size), jnp.asarray(START), 400)
    phi, gradient = rs.hypergradient(problem, solution.value)
    assert phi < rs.hypergradient(problem, jnp.asarray(START))[0]
    assert jnp.linalg.norm(gradient) < 2e-3
    assert solution.stats.loss.shape == (400,) and solution.seconds.shape == (400,)
    assert np.all(np.diff(solution.seconds) > 0)


def test_warm_starts_cost_less():
    problem = small_problem(discount=0.95)
    solution = rs.solve(problem, rs.ImplicitGradient(0.05), jnp.asarray(START), 30)
    assert solution.stats.sweeps[-1] < solution.stats.sweeps[0]


@pytest.mark.parametrize("name", METHODS)
def test_vmap_over_starts_and_step_sizes(name):
    problem = small_problem()
    starts = jnp.asarray(np.random.default_rng(4).normal(size=(3, 5)))
    sizes = jnp.asarray([0.02, 0.05, 0.1])

    def final(x0, size):
        return rs.solve(problem, METHODS[name](size), x0, 20).value

    together = jax.jit(jax.vmap(final))(starts, sizes)
    for x, x0, size in zip(together, starts, sizes, strict=True):
        np.testing.assert_allclose(x, final(x0, size), atol=1e-10)


def test_any_optimiser_and_any_pytree():
    problem = small_problem()
    tree = rs.BilevelProblem(
        problem.world,
        lambda x: problem.reward(x["weights"]) * x["name"][1],
        lambda x, policy: problem.upper_loss(x["weights"], policy),
        problem.temperature,
    )
    x0 = {"weights": jnp.asarray(START), "name": ("kept", 1)}
    chained = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1.0))
    solution = rs.solve(tree, rs.ImplicitGradient(0.05, optimiser=chained), x0, 60)
    plain = rs.solve(problem, rs.ImplicitGradient(0.05, optimiser=chained), jnp.asarray(START), 60)
    np.testing.assert_allclose(solution.value["weights"], plain.value, atol=1e-12)
    assert solution.value["name"] == ("kept", 1)


def test_going_on_is_the_same_as_going_through():
    problem, method = small_problem(), rs.MSoBiRL(0.3)
    through = rs.solve(problem, method, jnp.asarray(START), 70)
    first = rs.solve(problem, method, jnp.asarray(START), 33)
    rest = rs.solve(problem, method, first.value, 37, state=first.state)
    np.testing.assert_array_equal(rest.value, through.value)


def test_tolerance_stops_and_codes_say_how():
    problem, seen = small_problem(), []
    solution = rs.solve(
        problem,
        rs.ImplicitGradient(0.05),
        jnp.asarray(START),
        2000,
        tolerance=1e-4,
        progress=lambda step, stats: seen.append((step, float(stats.gradient_norm))),
    )
    assert solution.result == rs.RESULTS.successful and solution.num_steps < 2000
    norms = solution.stats.gradient_norm
    assert norms[-1] <= 1e-4 < norms[:-1].min() and len(norms) == solution.num_steps
    assert seen[-1] == (int(solution.num_steps), float(norms[-1])) and seen[0][0] == 50
    short = rs.solve(problem, rs.ImplicitGradient(0.05), jnp.asarray(START), 3, tolerance=1e-4, throw=False)
    assert short.result == rs.RESULTS.max_steps_reached and short.num_steps == 3
    with pytest.raises(rs.InputError, match="step 3 .* more steps"):
        rs.solve(problem, rs.ImplicitGradient(0.05), jnp.asarray(START), 3, tolerance=1e-4)


def test_divergence_is_caught():
    problem = rs.FixedPointProblem(lambda x, y: 0.5 * y + x, lambda x, y: jnp.exp(y**2), 0.0)
    method = rs.ImplicitGradient(10.0)
    with pytest.raises(rs.InputError, match="smaller step size"):
        rs.solve(problem, method, jnp.asarray(1.0), 50)
    solution = rs.solve(problem, method, jnp.asarray(1.0), 50, throw=False)
    assert solution.result == rs.RESULTS.not_finite and solution.num_steps < 50
    inside = jax.jit(lambda x: rs.solve(problem, method, x, 50).result == rs.RESULTS.not_finite)
    assert inside(jnp.asarray(1.0))


def test_annealing_ends_at_the_problem_at_the_last_temperature():
    cold, warm = small_problem(temperature=0.4), small_problem(temperature=4.0)
    schedule = optax.exponential_decay(4.0, 50, 0.1, end_value=0.4)
    solution = rs.solve(warm, rs.ImplicitGradient(0.05), jnp.asarray(START), 800, temperature=schedule)
    assert jnp.linalg.norm(rs.hypergradient(cold, solution.value)[1]) < 1e-2
    assert jnp.linalg.norm(rs.hypergradient(warm, solution.value)[1]) > 1e-2


def test_no_second_compile():
    problem, method, traces = small_problem(), rs.ImplicitGradient(0.1), []

    def reward(x):
        traces.append(0)
        return problem.reward(x)

    counted = rs.BilevelProblem(problem.world, reward, problem.upper_loss, problem.temperature)
    rs.solve(counted, method, jnp.asarray(START), 60)
    before = len(traces)
    # The first trace is that of `_advance`; 120 steps in chunks, other starts and other step sizes need none.
    rs.solve(counted, rs.ImplicitGradient(0.2), jnp.asarray(START) + 1, 120)
    assert len(traces) == before


def test_bad_calls():
    problem, x = small_problem(), jnp.asarray(START)
    method = rs.ImplicitGradient(0.1)
    for arguments, text in (
        (dict(max_steps=0), "max_steps"),
        (dict(max_steps=5, tolerance=-1.0), "tolerance"),
    ):
        with pytest.raises(rs.InputError, match=text):
            rs.solve(problem, method, x, **arguments)
    with pytest.raises(rs.InputError, match="floating-point"):
        rs.solve(problem, method, jnp.arange(5), 5)
    simulated = rs.BilevelProblem(
        rs.SimulatedWorld("CartPole-v1", 0.9), lambda x: x, rs.PreferenceLoss(1), 1.0
    )
    for other in (method, rs.MSoBiRL(0.1), rs.UnrolledGradient(0.1)):
        with pytest.raises(rs.InputError, match="needs a BilevelProblem on an MDP"):
            rs.solve(simulated, other, x, 5)
    fixed = rs.FixedPointProblem(lambda x, y: y[:1], lambda x, y: y, jnp.zeros(2))
    with pytest.raises(rs.InputError, match="fixed_point returned shapes"):
        rs.solve(fixed, method, jnp.asarray(1.0), 5)
    with pytest.raises(rs.InputError, match="no"):
        rs.solve(fixed, method, jnp.asarray(1.0), 5, temperature=lambda step: 1.0)
    with pytest.raises(rs.InputError, match="MDP"):
        rs.solve(fixed, rs.MSoBiRL(0.1), jnp.asarray(1.0), 5)
    vector = rs.FixedPointProblem(lambda x, y: 0.5 * y + x, lambda x, y: y, jnp.zeros(2))
    with pytest.raises(rs.InputError, match="return one number"):
        rs.solve(vector, method, jnp.asarray(1.0), 5)
    with pytest.raises(rs.InputError, match="normalise"):
        rs.solve(small_problem(regulariser=rs.Tsallis()), rs.MSoBiRL(0.1, normalise=False), x, 5)
    for wrong in (
        lambda: rs.UnrolledGradient(0.1, sweeps=0),
        lambda: rs.ImplicitGradient(0.1, sweeps=0),
        lambda: rs.MSoBiRL(0.1, sweeps=0),
        lambda: rs.Neumann(0),
        lambda: rs.ConjugateGradient(max_steps=0),
    ):
        with pytest.raises(rs.InputError, match="at least 1"):
            wrong()
