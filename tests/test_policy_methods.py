"""PARL and PBRL, which vary a policy beside x, against the exact hyper-gradient and dense algebra."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from rewardsmith._core import InputError
from rewardsmith.bilevel import hypergradient, solve
from rewardsmith.bilevel.parl import PARL
from rewardsmith.bilevel.pbrl import PBRL
from rewardsmith.follower import solve_follower
from rewardsmith.mdp import MDP, KullbackLeibler, SparseTransition, Tsallis, policy_system, policy_transition
from rewardsmith.problem import BilevelProblem, PreferenceLoss, SimulatedWorld
from rewardsmith.upper_losses import LeaderReturn

STATES, ACTIONS, TAU = 5, 3, 0.5
CASES = ["any loss", "moving world", "forbidden actions"]


pytestmark = pytest.mark.usefixtures("double_precision")


def problem_and_start(name, temperature=TAU):
    rng = np.random.default_rng(0)
    P, other = rng.dirichlet(np.ones(STATES), (2, STATES, ACTIONS))
    regulariser = transition = None
    if name == "forbidden actions":
        P[2] = 0
        reference = rng.dirichlet(np.ones(ACTIONS), STATES)
        reference[1] = [0.3, 0.7, 0.0]
        regulariser = KullbackLeibler(reference)
    world = MDP(P, rng.dirichlet(np.ones(STATES)), 0.8)
    x0 = {"pay": jnp.asarray(rng.normal(size=(STATES, ACTIONS))), "scale": jnp.asarray(0.3), "id": 7}
    if name == "moving world":

        def transition(x):
            mix = jax.nn.sigmoid(x["scale"])
            return mix * jnp.asarray(P) + (1 - mix) * jnp.asarray(other)

    own, wanted = rng.normal(size=(2, STATES, ACTIONS))

    def reward(x):
        return jnp.tanh(x["pay"]) + x["scale"] * own

    if name == "any loss":

        def loss(x, policy):
            cost = 0.1 * jnp.sum(x["pay"] ** 2) + 0.2 * x["scale"] ** 2
            return jnp.mean((policy - wanted) ** 2) + policy[0, 0] * x["scale"] + cost

    else:
        loss = LeaderReturn(world, lambda x: wanted - 0.3 * x["pay"], transition=transition)
    return BilevelProblem(
        world, reward, loss, temperature, regulariser=regulariser, transition=transition
    ), x0


def estimate(problem, method, x, steps=1):
    """The gradient that the method follows at x, after `steps` of the rest with x held still."""
    state = method.init(problem, x, jax.random.key(0))
    for _ in range(steps):
        state, stats = one_step(method, problem, state)
    return flat(state.gradient), stats


@eqx.filter_jit
def one_step(method, problem, state):
    return method.step(problem, state)


def flat(tree):
    return ravel_pytree(tree)[0]


def exact(problem, x):
    return flat(hypergradient(problem, x)[1])


@pytest.mark.parametrize("name", CASES)
def test_parl_is_the_hypergradient_when_the_follower_is_solved(name):
    problem, x = problem_and_start(name)
    gradient, stats = estimate(problem, PARL(0.0), x)
    np.testing.assert_allclose(gradient, exact(problem, x), rtol=1e-6, atol=1e-9)
    assert stats.residual < 1e-11
    np.testing.assert_allclose(stats.loss, hypergradient(problem, x)[0], rtol=1e-9)


def test_parl_against_a_dense_pseudo_inverse():
    # V from ρ alone, its Hessian of rank S(A−1) and the pseudo-inverse written out.
    problem, x = problem_and_start("any loss")
    world, tau = problem.world, problem.temperature
    theta = jnp.log(solve_follower(world, problem.reward(x), tau).policy)
    vector, unravel = ravel_pytree({"pay": x["pay"], "scale": x["scale"]})

    def value(vector, theta):
        policy = jax.nn.softmax(theta.reshape(STATES, ACTIONS), axis=1)
        income = jnp.sum(policy * (problem.reward(unravel(vector)) - tau * jnp.log(policy)), axis=1)
        matrix = jnp.eye(STATES) - world.discount * policy_transition(world, policy)
        return world.initial @ jnp.linalg.solve(matrix, income)

    def loss(vector, theta):
        return problem.upper_loss(unravel(vector), jax.nn.softmax(theta.reshape(STATES, ACTIONS), axis=1))

    at = vector, theta.ravel()

    @jax.jit
    def derivatives(*at):
        cross = jax.jacfwd(jax.grad(value), argnums=1)(*at)
        return jax.hessian(value, argnums=1)(*at), cross, *jax.grad(loss, argnums=(0, 1))(*at)

    hessian, cross, direct, target = derivatives(*at)
    assert np.linalg.matrix_rank(hessian, tol=1e-9) == STATES * (ACTIONS - 1)
    wanted = direct - cross @ np.linalg.pinv(hessian, rcond=1e-9) @ target
    gradient, _ = estimate(problem, PARL(0.0, exploration=0.0), x)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-6, atol=1e-8)
    assert np.linalg.norm(gradient - direct) > 0.01


def test_damping_shrinks_the_second_term():
    problem, x = problem_and_start("any loss")
    policy = solve_follower(problem.world, problem.reward(x), TAU).policy
    held = {"pay": x["pay"], "scale": x["scale"]}
    direct = flat(jax.jit(jax.grad(lambda x: problem.upper_loss(x, policy)))(held))
    for damping in (1e-3, 1.0):
        gradient, _ = estimate(problem, PARL(0.0, damping=damping), x)
        wanted = direct + (exact(problem, x) - direct) / (1 + damping)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("temperature", [0.1, 1e-3, 1e-6])
def test_a_few_products_do_at_any_temperature(temperature):
    # Unscaled, eigenvalues spread like the probabilities, of which some underflow here.
    problem, x = problem_and_start("any loss", temperature)
    gradient, stats = estimate(problem, PARL(0.0), x)
    follower = solve_follower(problem.world, problem.reward(x), temperature)
    assert stats.linear_iterations - follower.linear_iterations - 3 <= 4
    truth = exact(problem, x)
    assert np.linalg.norm(gradient - truth) < 1e-6 * np.linalg.norm(truth)


def test_states_never_visited_need_exploration():
    # State 0 leads to itself, so from there V says nothing of state 1, but f does.
    rng = np.random.default_rng(1)
    P = np.broadcast_to(np.eye(2)[:, None], (2, 2, 2))
    loss = lambda x, policy: jnp.sum(policy[:, 0] ** 2)  # noqa: E731
    problem = BilevelProblem(MDP(P, [1.0, 0.0], 0.5), lambda x: x, loss, 0.5)
    x = jnp.asarray(rng.normal(size=(2, 2)))
    truth = exact(problem, x)
    np.testing.assert_allclose(estimate(problem, PARL(0.0), x)[0], truth, rtol=1e-6)
    blind = estimate(problem, PARL(0.0, exploration=0.0), x)[0]
    np.testing.assert_allclose(blind[:2], truth[:2], rtol=1e-6)
    np.testing.assert_allclose(blind[2:], 0.0, atol=1e-12)
    assert abs(truth[2:]).min() > 0.01
    assert np.isfinite(estimate(problem, PBRL(0.0, exploration=0.0), x)[0]).all()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["value", "bellman"])
def test_pbrl_error_falls_like_one_over_the_penalty(kind, name):
    problem, x = problem_and_start(name)
    truth = exact(problem, x)
    penalties = np.logspace(1, 4, 7)

    @jax.jit
    @jax.vmap
    def gradients(penalty):
        method = PBRL(0.0, penalty=penalty, kind=kind, inner_steps=100, exploration=1.0)
        state = method.init(problem, x, jax.random.key(0))
        return flat(method.step(problem, state)[0].gradient)

    errors = np.linalg.norm(gradients(jnp.asarray(penalties)) - truth, axis=1)
    slope = np.polyfit(np.log(penalties), np.log(errors), 1)[0]
    assert abs(slope + 1) < 0.1
    assert errors[-1] < 2e-3 * np.linalg.norm(truth)


@pytest.mark.parametrize("kind", ["value", "bellman"])
def test_pbrl_follows_the_gradient_of_the_penalised_minimum(kind):
    # f + λp written out; y, one step at a time behind a swept V, must come to where it is stationary.
    problem, x = problem_and_start("any loss")
    world, tau, penalty = problem.world, problem.temperature, 20.0
    method = PBRL(0.0, penalty=penalty, kind=kind, sweeps=3, exploration=0.3)
    start = 0.7 * world.initial + 0.3 / STATES
    state = method.init(problem, x, jax.random.key(0))
    for _ in range(80):
        state, stats = one_step(method, problem, state)
    assert stats.sweeps == 4 and stats.residual < 1e-12
    policy = jnp.exp(state.memory.log_policy)

    def objective(x, policy):
        answer = solve_follower(world, problem.reward(x), tau)
        if kind == "bellman":
            p = tau * jnp.mean(jnp.sum(policy * jnp.log(policy / answer.policy), axis=1))
        else:
            income = jnp.sum(policy * (problem.reward(x) - tau * jnp.log(policy)), axis=1)
            matrix = jnp.eye(STATES) - world.discount * policy_transition(world, policy)
            p = start @ (answer.values - jnp.linalg.solve(matrix, income))
        return problem.upper_loss(x, policy) + penalty * p

    held = {"pay": x["pay"], "scale": x["scale"]}
    in_x, in_policy = jax.jit(jax.grad(objective, argnums=(0, 1)))(held, policy)
    np.testing.assert_allclose(flat(state.gradient), flat(in_x), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(in_policy - in_policy.mean(axis=1, keepdims=True), 0.0, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("any loss", lambda: PARL(0.3)),
        ("moving world", lambda: PARL(0.5, follower_steps=1, optimiser=optax.sgd(1.0, momentum=0.5))),
        ("any loss", lambda: PBRL(0.3, penalty=100.0)),
        ("forbidden actions", lambda: PBRL(0.5, kind="bellman", inner_steps=2, sweeps=2)),
    ],
)
def test_solve_lowers_the_upper_loss(name, method):
    problem, x = problem_and_start(name)
    answer = solve(problem, method(), x, 60)
    before, (after, gradient) = hypergradient(problem, x)[0], hypergradient(problem, answer.value)
    assert after < before - 0.05
    assert answer.value["id"] == 7
    if name == "any loss":
        assert np.linalg.norm(flat(gradient)) < 0.1 * np.linalg.norm(exact(problem, x))


def test_solve_under_vmap_is_solve_one_by_one():
    problem, x = problem_and_start("any loss")
    numbers = jnp.array([[0.1, 10.0], [0.3, 100.0], [0.3, 1000.0]])

    def penalised(row):
        return solve(problem, PBRL(row[0], penalty=row[1]), x, 6).value["pay"]

    def curved(row):
        return solve(problem, PARL(row[0], damping=row[1] * 1e-3), x, 6).value["pay"]

    for run in (penalised, curved):
        together = jax.jit(jax.vmap(run))(numbers)
        assert np.linalg.norm(together[0] - together[1]) > 1e-3
        assert np.linalg.norm(together[1] - together[2]) > 1e-6
        for row, member in zip(numbers.tolist(), together, strict=True):
            np.testing.assert_allclose(member, run(row), rtol=1e-7, atol=1e-8)


def test_without_ever_forming_a_matrix(monkeypatch):
    problem, x = problem_and_start("any loss")
    truth = exact(problem, x)
    monkeypatch.setattr(policy_system, "DIRECT_LIMIT", 1)
    monkeypatch.setattr(policy_system, "SPARSE_DIRECT_LIMIT", 1)
    successors = np.broadcast_to(np.arange(STATES), (STATES, ACTIONS, STATES))
    world = MDP(SparseTransition(successors, problem.world.transition), problem.world.initial, 0.8)
    sparse = BilevelProblem(world, problem.reward, problem.upper_loss, TAU)
    gradient, stats = estimate(sparse, PARL(0.0), x)
    np.testing.assert_allclose(gradient, truth, rtol=1e-6, atol=1e-9)
    assert stats.linear_iterations > 20


def test_single_precision():
    truth = exact(*problem_and_start("any loss"))
    with jax.enable_x64(False):
        problem, x = problem_and_start("any loss")
        gradient, stats = estimate(problem, PARL(0.0), x)
        assert gradient.dtype == np.float32
        np.testing.assert_allclose(gradient, truth, atol=2e-4)
        assert stats.linear_iterations < 30


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda: PARL(0.1, damping=-1.0), "damping is -1.0; give a number >= 0"),
        (lambda: PARL(0.1, exploration=1.5), "exploration is 1.5; give a weight between 0 and 1"),
        (lambda: PARL(0.1, max_steps=0), "max_steps is 0; give at least 1"),
        (lambda: PARL(0.1, follower_steps=0), "follower_steps is 0; give at least 1, or None"),
        (lambda: PBRL(0.1, penalty=0.0), "penalty is 0.0; give a positive number"),
        (lambda: PBRL(0.1, penalty=float("nan")), "penalty is nan"),
        (lambda: PBRL(0.1, policy_step_size=1.5), "policy_step_size is 1.5; give more than 0 and at most 1"),
        (lambda: PBRL(0.1, inner_steps=0), "inner_steps is 0"),
        (lambda: PBRL(0.1, sweeps=0), "sweeps is 0; give at least 1, or None"),
        (lambda: PBRL(0.1, exploration=-0.1), "exploration is -0.1"),
    ],
)
def test_bad_settings(wrong, text):
    with pytest.raises(InputError, match=text):
        wrong()


def test_bad_kind():
    with pytest.raises((InputError, TypeError), match="kind"):
        PBRL(0.1, kind="q")


@pytest.mark.parametrize("method", [PARL(0.1), PBRL(0.1)])
def test_bad_problems(method):
    problem, x = problem_and_start("any loss")
    sparsemax = BilevelProblem(problem.world, problem.reward, problem.upper_loss, TAU, regulariser=Tsallis())
    with pytest.raises(InputError, match="softmax policy, not Tsallis; use Shannon"):
        solve(sparsemax, method, x, 1)
    clips = PreferenceLoss(horizon=2)
    simulator = BilevelProblem(SimulatedWorld("Pendulum-v1", 0.9), problem.reward, clips, 0.1)
    with pytest.raises(InputError, match="needs a BilevelProblem on an MDP"):
        method.init(simulator, x, jax.random.key(0))
