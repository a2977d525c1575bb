"""The problem object and the exact hyper-gradient, against stored references and finite differences."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rewardsmith._core import InputError
from rewardsmith.bilevel import hypergradient
from rewardsmith.bilevel.enumeration import exact_clip_expectation, exact_upper_loss
from rewardsmith.follower import solve_follower
from rewardsmith.mdp import MDP
from rewardsmith.problem import BilevelProblem, PreferenceLoss, SimulatedWorld

REFERENCE = Path(__file__).parent / "reference"


pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture
def preference():
    case = np.load(REFERENCE / "preference_clip.npz")
    true_reward, features = jnp.asarray(case["rtrue"]), jnp.asarray(case["B"])

    def target(states, actions):
        returns = true_reward[states, actions].sum(axis=1)
        return jax.nn.sigmoid(returns[0] - returns[1])

    problem = BilevelProblem(
        MDP(case["P"], case["rho"], case["gamma"]),
        reward=lambda x: features @ x,
        upper_loss=PreferenceLoss(horizon=int(case["H"]), target=target),
        temperature=float(case["tau"]),
    )
    return problem, case


@pytest.fixture
def synthetic():
    case = np.load(REFERENCE / "random_mdp.npz")
    coefficients, matrix = jnp.asarray(case["rewards_coef"]), jnp.asarray(case["mat"])
    problem = BilevelProblem(
        MDP(case["P"], np.full(10, 0.1), case["gamma"]),
        reward=lambda x: coefficients * (x @ matrix @ x),
        upper_loss=lambda x, policy: 0.5 * jnp.sum(x**2) + 0.5 * jnp.sum(policy**2),
        temperature=float(case["tau"]),
    )
    return problem, case


def small_problem(upper_loss=lambda x, policy: jnp.sum(policy[:, 0] ** 2), reward=None, temperature=0.5):
    rng = np.random.default_rng(0)
    world = MDP(rng.dirichlet(np.ones(3), (3, 2)), rng.dirichlet(np.ones(3)), 0.7)
    return BilevelProblem(world, reward or (lambda x: x), upper_loss, temperature)


def test_preference_clips_match_the_reference(preference):
    problem, case = preference
    phi, gradient = hypergradient(problem, jnp.asarray(case["x"]))
    np.testing.assert_allclose(phi, case["phi"], atol=1e-12)
    np.testing.assert_allclose(gradient, case["hypergradient"], atol=1e-8, rtol=0)


def test_first_term_alone_matches_the_reference(preference):
    problem, case = preference
    x = jnp.asarray(case["x"])
    policy = solve_follower(problem.world, problem.reward(x), problem.temperature).policy
    first = jax.jit(jax.grad(lambda y: exact_clip_expectation(problem, y, policy)))(x)
    np.testing.assert_allclose(first, case["first"], atol=1e-8, rtol=0)
    assert abs(first - case["hypergradient"]).max() > 0.01


def test_clip_expectation_against_sampling(preference):
    problem, case = preference
    x, world, rng = jnp.asarray(case["x"]), problem.world, np.random.default_rng(0)
    policy = solve_follower(world, problem.reward(x), problem.temperature).policy
    count, states = 50_000, []
    states.append(rng.choice(3, p=case["rho"], size=2 * count))
    actions = [(rng.random(2 * count) > np.asarray(policy)[states[0], 0]).astype(int)]
    cumulative = case["P"][states[0], actions[0]].cumsum(axis=1)
    states.append((rng.random((2 * count, 1)) > cumulative).sum(axis=1))
    actions.append((rng.random(2 * count) > np.asarray(policy)[states[1], 0]).astype(int))
    clips = [jnp.asarray(np.stack(steps, axis=1).reshape(count, 2, 2)) for steps in (states, actions)]
    losses = jax.jit(jax.vmap(lambda s, a: problem.clip_loss(x, s, a)))(*clips)
    error = abs(losses.mean() - jax.jit(lambda: exact_upper_loss(problem, x, policy))())
    assert error < 4 * losses.std() / np.sqrt(count)


def test_random_mdp_at_the_start(synthetic):
    problem, case = synthetic
    x = jnp.asarray(case["x0"][:, 0])
    phi, gradient = hypergradient(problem, x)
    np.testing.assert_allclose(phi, case["exact_phi_x0"], rtol=1e-9)
    np.testing.assert_allclose(gradient, case["exact_grad_x0"], rtol=1e-9, atol=1e-9)
    answer = solve_follower(problem.world, problem.reward(x), problem.temperature)
    np.testing.assert_allclose(answer.values, case["exact_V_x0"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(answer.policy, case["exact_pi_x0"], rtol=1e-9, atol=1e-9)


def test_random_mdp_along_the_run(synthetic):
    problem, case = synthetic
    phi, gradient = jax.vmap(lambda x: hypergradient(problem, x))(jnp.asarray(case["x_ck"][..., 0]))
    np.testing.assert_allclose(phi, case["exact_phi_ck"], rtol=1e-9)
    np.testing.assert_allclose(gradient, case["exact_grad_ck"], rtol=1e-9, atol=1e-9)


def test_gradient_descent_retraces_the_reference(synthetic):
    problem, case = synthetic

    def step(x, _):
        phi, gradient = hypergradient(problem, x)
        return x - float(case["gd_beta"]) * gradient, (phi, jnp.linalg.norm(gradient))

    start = jnp.asarray(case["x0"][:, 0])
    _, (phi, norm) = jax.jit(lambda x: jax.lax.scan(step, x, None, length=200))(start)
    # From step 60 to 100 the path zig-zags and blows up rounding: 1e-15 in x0 becomes 1e-6 in φ.
    np.testing.assert_allclose(phi[1:60], case["gd_phi"][:59], rtol=1e-9)
    np.testing.assert_allclose(norm[:60], case["gd_grad_norm"][:60], rtol=1e-9)
    np.testing.assert_allclose(phi[1:], case["gd_phi"][:199], rtol=1e-4)


def test_x_may_be_any_pytree():
    network = eqx.nn.MLP(2, 1, 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    features = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 2)))
    problem = small_problem(
        upper_loss=lambda x, policy: jnp.sum(policy[:, 0] ** 2) + x["bias"] ** 2,
        reward=lambda x: jax.vmap(jax.vmap(x["net"]))(features)[..., 0] + x["bias"] * features[..., 0],
    )
    x = {"net": network, "bias": jnp.asarray(0.3)}
    _, gradient = hypergradient(problem, x)
    assert gradient["net"].activation is None
    flat, rebuild = ravel_pytree(eqx.filter(x, eqx.is_inexact_array))
    slope, _ = ravel_pytree(gradient)
    rng, step = np.random.default_rng(2), 1e-6
    for _ in range(3):
        direction = jnp.asarray(rng.normal(size=flat.shape))
        ends = [
            hypergradient(problem, eqx.combine(rebuild(flat + sign * step * direction), x))[0]
            for sign in (1, -1)
        ]
        np.testing.assert_allclose(slope @ direction, (ends[0] - ends[1]) / (2 * step), rtol=1e-6)


def test_bare_number_and_repeated_calls():
    traces = []

    def reward(x):
        traces.append(0)
        return x * jnp.arange(6.0).reshape(3, 2)

    problem = small_problem(reward=reward)
    _, gradient = hypergradient(problem, 0.5)
    step = 1e-6
    ends = [hypergradient(problem, 0.5 + sign * step)[0] for sign in (1, -1)]
    np.testing.assert_allclose(gradient, (ends[0] - ends[1]) / (2 * step), rtol=1e-7)
    assert len(traces) == 1


def test_nothing_of_size_n_states_actions_is_stored():
    size = 1000

    def reward(x):
        return jnp.outer(jnp.sin(x[:3]), jnp.cos(x[3:5])) * jnp.sum(x**2)

    problem = small_problem(reward=reward)
    graph = jax.make_jaxpr(lambda x: hypergradient(problem, x))(jnp.ones(size))

    def largest(jaxpr):
        sizes = [out.aval.size for eqn in jaxpr.eqns for out in eqn.outvars]
        inner = [largest(sub) for sub in jax.core.jaxprs_in_params_of(jaxpr)] if False else []
        return max(sizes + inner)

    assert largest(graph.jaxpr) <= size


def test_reward_at_serves_both_worlds():
    table = jnp.arange(6.0).reshape(3, 2)
    problem = small_problem(reward=lambda x: x * table)
    assert problem.reward_at(2.0, 1, 1) == 6.0
    loss = PreferenceLoss(horizon=2, target=lambda observations, actions: jnp.asarray(1.0))
    simulated = BilevelProblem(
        SimulatedWorld("HalfCheetah-v5", 0.99, 1000), lambda x, o, a: x * o.sum() * a[0], loss, "auto"
    )
    observations, actions = jnp.ones((2, 2, 3)), jnp.array([[[0.5], [0.5]], [[0.0], [1.0]]])
    assert simulated.reward_at(2.0, observations[0, 0], actions[0, 0]) == 3.0
    # Equal sums: the model is undecided, so the loss is log 2 whatever the label.
    np.testing.assert_allclose(simulated.clip_loss(2.0, observations, actions), np.log(2), rtol=1e-12)
    # The first clip ahead by 3 and labelled better: −log σ(3).
    np.testing.assert_allclose(
        simulated.clip_loss(2.0, observations, actions.at[0, 1, 0].set(1.0)), np.log1p(np.exp(-3)), rtol=1e-12
    )


def test_temperature_does_not_widen_a_float32_world():
    world = MDP(np.full((2, 2, 2), 0.5, np.float32), [0.5, 0.5], 0.5)
    problem = BilevelProblem(world, lambda x: x, lambda x, policy: policy[0, 0], 1)
    phi, gradient = hypergradient(problem, jnp.ones((2, 2), jnp.float32))
    assert phi.dtype == gradient.dtype == jnp.float32


def preference_problem(horizon, world=None):
    loss = PreferenceLoss(horizon, target=lambda states, actions: jnp.asarray(0.5))
    world = world or small_problem().world
    return BilevelProblem(world, lambda x: x, loss, 0.5)


def test_bad_problems():
    world = small_problem().world
    with pytest.raises(InputError, match="ClipLoss"):
        BilevelProblem(SimulatedWorld("CartPole-v1", 0.9), lambda x: x, lambda x, p: 0.0, 0.1)
    for temperature in (0.0, -1, float("nan"), "auto", np.array([0.1])):
        with pytest.raises(InputError, match="temperature"):
            BilevelProblem(world, lambda x: x, lambda x, p: 0.0, temperature)
    for discount, horizon in ((1.0, None), (-0.1, None), (0.9, 0)):
        with pytest.raises(InputError, match="discount|horizon"):
            SimulatedWorld("CartPole-v1", discount, horizon)
    with pytest.raises(InputError, match="horizon"):
        preference_problem(0)


def test_bad_hypergradients():
    with pytest.raises(InputError, match="floating-point"):
        hypergradient(small_problem(), jnp.ones((3, 2), int))
    with pytest.raises(InputError, match=r"reward_table has shape \(2,\)"):
        hypergradient(small_problem(reward=lambda x: x[0]), jnp.ones((3, 2)))
    with pytest.raises(InputError, match="upper_loss returned shape"):
        hypergradient(small_problem(upper_loss=lambda x, policy: policy[:, 0]), jnp.ones((3, 2)))
    with pytest.raises(InputError, match="tuples of clips"):
        hypergradient(preference_problem(200), jnp.ones((3, 2)))
    ends = MDP(np.array([[[0.0, 1.0]] * 2, [[0.0, 0.0]] * 2]), [1.0, 0.0], 0.5)
    with pytest.raises(InputError, match="clips cannot cross an end"):
        hypergradient(preference_problem(1, ends), jnp.ones((2, 2)))
    with pytest.raises(InputError, match="ClipLoss"):
        exact_clip_expectation(small_problem(), jnp.ones((3, 2)), jnp.full((3, 2), 0.5))
    with pytest.raises(InputError, match="ClipLoss"):
        small_problem().clip_loss(jnp.ones((3, 2)), jnp.zeros((2, 1), int), jnp.zeros((2, 1), int))
    simulated = BilevelProblem(
        SimulatedWorld("CartPole-v1", 0.9), lambda x: x, preference_problem(1).upper_loss, 1.0
    )
    with pytest.raises(InputError, match="sampled"):
        hypergradient(simulated, jnp.ones(2))
