"""Influence functions, their curvatures, and the scores of wrong labels, each against its definition."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import rankdata

from rewardsmith._core import MLP, InputError
from rewardsmith.preferences.attribution import (
    ScoredNetwork,
    conjugate_gradients,
    exact_curvature,
    gauss_newton,
    hessian,
    influence,
    kronecker_curvature,
    leave_one_out_score,
    margin,
    recall_at,
    self_influence,
)
from rewardsmith.preferences.loss import bradley_terry

pytestmark = pytest.mark.usefixtures("double_precision")
RIDGE = 1e-2


@pytest.fixture(autouse=True, scope="module")
def quickly(compile_quickly):
    """These programs run once or twice."""


def linear_loss(theta, example):
    return bradley_terry(example["f"] @ theta, jnp.zeros(()), example["y"])


def regulariser(theta):
    return 0.5 * RIDGE * theta @ theta


def linear_data(count, size=5, seed=0, flipped=0.0):
    rng = np.random.default_rng(seed)
    features, truth = rng.normal(size=(count, size)), rng.normal(size=size)
    wrong = np.zeros(count, bool)
    wrong[rng.choice(count, round(flipped * count), replace=False)] = True
    label = (features @ truth > 0) != wrong
    return {"f": jnp.asarray(features), "y": jnp.asarray(label.astype(float))}, wrong


@jax.jit
def linear_fit(examples, weight):
    """The minimum of Σ w_i l_i/Σ 1 + R, by Newton's method."""

    def objective(theta):
        losses = jax.vmap(partial(linear_loss, theta))(examples)
        return jnp.sum(weight * losses) / len(losses) + regulariser(theta)

    def step(theta, _):
        return theta - jnp.linalg.solve(jax.hessian(objective)(theta), jax.grad(objective)(theta)), None

    return jax.lax.scan(step, jnp.zeros(examples["f"].shape[1]), None, length=20)[0]


@pytest.fixture(scope="module")
def linear(compile_quickly):
    """A linear reward at its minimum, with CG on its Hessian, and the held-out loss."""
    with jax.enable_x64(True):
        examples, _ = linear_data(80, flipped=0.1)
        held_out, _ = linear_data(200, seed=0)
        theta = linear_fit(examples, jnp.ones(80))
        product = hessian(linear_loss, theta, examples, regulariser=regulariser, together=32)

    def target(theta):
        return jnp.mean(jax.vmap(partial(linear_loss, theta))(held_out))

    return examples, theta, product, target


def refitted(examples, target):
    """(n,) the target once each example was left out and the rest fitted anew."""
    count = len(examples["y"])
    thetas = jax.vmap(lambda own: linear_fit(examples, own))(1.0 - jnp.eye(count))
    return np.asarray(jax.vmap(target)(thetas))


def test_influence_is_what_leaving_out_does(linear):
    examples, theta, product, target = linear
    found = influence(linear_loss, theta, examples, target, conjugate_gradients(product, tolerance=1e-10))
    assert bool(found.converged) and 1 <= int(found.steps) <= 6 and float(found.residual) < 1e-8
    change = refitted(examples, target) - float(target(theta))
    predicted = -np.asarray(found.values) / 80
    assert np.corrcoef(rankdata(predicted), rankdata(change))[0, 1] > 0.95
    # To first order: what is left is of second order in 1/n.
    assert np.linalg.norm(predicted - change) < 0.2 * np.linalg.norm(change)


def test_influence_is_the_derivative_in_a_weight(linear):
    """Exact: more weight by ±h on the objective, the model fitted anew, against −∇targetᵀ H⁻¹ ∇l."""
    examples, theta, product, target = linear
    solve = conjugate_gradients(product, tolerance=1e-12)
    found = influence(linear_loss, theta, examples, target, solve, together=7)
    step = 1e-4
    rows = jnp.array([0, 17, 79])
    changed = [
        jax.vmap(lambda row: target(linear_fit(examples, jnp.ones(80).at[row].add(sign * step * 80))))(rows)  # noqa: B023
        for sign in (1, -1)
    ]
    np.testing.assert_allclose(found.values[rows], (changed[0] - changed[1]) / (2 * step), rtol=1e-5)


def test_several_targets_and_ones_own_loss(linear):
    examples, theta, product, _ = linear
    solve = conjugate_gradients(product, tolerance=1e-12)
    third = jax.tree.map(lambda leaf: leaf[3], examples)

    @jax.jit
    def found(theta):
        several = influence(
            linear_loss, theta, examples, lambda at: jnp.stack([at[0], linear_loss(at, third)]), solve
        )
        own = self_influence(linear_loss, theta, examples, solve, together=8)
        return several, influence(linear_loss, theta, examples, lambda at: at[0], solve), own

    several, alone, own = found(theta)
    assert several.values.shape == (2, 80)
    np.testing.assert_allclose(several.values[0], alone.values, rtol=1e-7, atol=1e-12)
    assert bool(own.converged) and bool(jnp.all(own.values >= 0))
    np.testing.assert_allclose(own.values[3], -several.values[1, 3], rtol=1e-7)


def test_gauss_newton_is_the_hessian_where_scores_are_linear(linear):
    examples, theta, product, _ = linear
    same = gauss_newton(
        lambda at, example: (example["f"] @ at)[None],
        lambda score, example: jax.nn.sigmoid(score) * jax.nn.sigmoid(-score),
        theta,
        examples,
        regulariser=regulariser,
        together=50,
    )
    vector = jnp.arange(5.0)
    np.testing.assert_allclose(same(vector), product(vector), rtol=1e-10)

    def objective(at):
        return jnp.mean(jax.vmap(partial(linear_loss, at))(examples)) + regulariser(at)

    np.testing.assert_allclose(product(vector), jax.hessian(objective)(theta) @ vector, rtol=1e-10)


def test_leave_one_out_needs_no_fit(linear):
    """The loss of each answer by a model fitted without it, against one step of Newton's method."""
    examples, theta, product, _ = linear
    solve = conjugate_gradients(product, tolerance=1e-12)
    score = examples["f"] @ theta
    leverage = self_influence(lambda at, example: example["f"] @ at, theta, examples, solve).values / 80
    chance = jax.nn.sigmoid(score)
    found = leave_one_out_score(score, chance - examples["y"], chance * (1 - chance), leverage)
    thetas = jax.vmap(lambda own: linear_fit(examples, own))(1.0 - jnp.eye(80))
    exact = jnp.sum(examples["f"] * thetas, axis=1)
    assert float(jnp.max(jnp.abs(exact - score))) > 0.5
    assert float(jnp.linalg.norm(found - exact)) < 0.15 * float(jnp.linalg.norm(score - exact))


def test_conjugate_gradients_say_when_they_fail(linear):
    examples, theta, product, target = linear
    hasty = conjugate_gradients(product, max_steps=2, tolerance=1e-10)
    with pytest.raises(InputError, match="conjugate gradients stood at residual .* raise damping"):
        influence(linear_loss, theta, examples, target, hasty)
    quiet = conjugate_gradients(product, max_steps=2, tolerance=1e-10, throw=False)
    found = influence(linear_loss, theta, examples, target, quiet)
    assert not bool(found.converged) and int(found.steps) == 2
    # Inside jit nothing can be raised, and the flag tells.
    assert not bool(jax.jit(lambda at: influence(linear_loss, at, examples, target, hasty))(theta).converged)
    with pytest.raises(InputError, match="damping is -1"):
        conjugate_gradients(product, damping=-1.0)
    with pytest.raises(InputError, match="together is 0"):
        hessian(linear_loss, theta, examples, together=0)(theta)
    with pytest.raises(InputError, match="stack them"):
        influence(linear_loss, theta, {"f": jnp.ones((3, 5)), "y": jnp.ones(2)}, target, quiet)
    with pytest.raises(InputError, match="one number or a vector"):
        influence(linear_loss, theta, examples, lambda at: jnp.outer(at, at), quiet)


# ---- networks -----------------------------------------------------------------------------------

STEPS = 12
SIGN = jnp.concatenate([jnp.ones(STEPS), -jnp.ones(STEPS)])


SEEN = ScoredNetwork(
    inputs=lambda example: example["x"],
    scores=lambda outputs, example: (SIGN @ outputs[:, 0])[None],
    loss=lambda score, example: bradley_terry(score[0], jnp.zeros(()), example["y"]),
    weights=lambda score, example: jax.nn.sigmoid(score) * jax.nn.sigmoid(-score),
)


@pytest.fixture(scope="module")
def network(compile_quickly):
    """A small reward network fitted to comparisons of clips of correlated steps."""
    with jax.enable_x64(True):
        key, start_key, noise_key, net_key = jax.random.split(jax.random.key(0), 4)
        begin = jax.random.normal(start_key, (120, 2, 1, 4))
        drift = jnp.cumsum(0.3 * jax.random.normal(noise_key, (120, 2, STEPS, 4)), axis=2)
        clips = (begin + drift).reshape(120, 2 * STEPS, 4)
        truth = jax.vmap(lambda clip: SIGN @ jnp.tanh(clip[:, 0] * clip[:, 1]))(clips)
        wrong = jnp.arange(120) % 10 == 0
        examples = {"x": clips, "y": jnp.asarray((truth > 0) ^ wrong, float)}
        start = jax.tree.map(lambda leaf: leaf.astype(float), MLP([4, 12, 12, 1], key=net_key))
        adam = optax.adam(1e-2)

        def step(carry, _):
            at, state = carry
            gradient = jax.grad(lambda net: jnp.mean(jax.vmap(partial(SEEN.loss_of, net))(examples)))(at)
            updates, state = adam.update(gradient, state)
            return (optax.apply_updates(at, updates), state), None

        fitted = jax.jit(lambda net: jax.lax.scan(step, (net, adam.init(net)), None, length=150)[0][0])(start)
    return fitted, examples


@pytest.fixture(scope="module")
def solves(network):
    """Gradients of every example's loss, and what each way makes of (G + λI)⁻¹ v."""
    fitted, examples = network
    with jax.enable_x64(True):
        cheap = jax.jit(lambda net: kronecker_curvature(net, examples, SEEN, together=50))(fitted)
        exact = jax.jit(lambda net: exact_curvature(SEEN.scores_of, SEEN.weights, net, examples))(fitted)
    return exact, cheap


def both_influences(network, solve):
    """On the loss of every third, and of each on its own."""
    fitted, examples = network
    test = jax.tree.map(lambda leaf: leaf[::3], examples)

    def target(net):
        return jnp.mean(jax.vmap(partial(SEEN.loss_of, net))(test))

    @jax.jit
    def found(net):
        onto = influence(SEEN.loss_of, net, examples, target, solve)
        return onto.values, self_influence(SEEN.loss_of, net, examples, solve).values

    return map(np.asarray, found(fitted))


def test_the_exact_curvature_is_gauss_newton(network, solves):
    fitted, examples = network
    exact, cheap = solves
    product = gauss_newton(SEEN.scores_of, SEEN.weights, fitted, examples, together=120)
    vector = jax.tree.map(jnp.cos, fitted)
    damping = float(exact.damping)
    assert damping == pytest.approx(0.1 * float(exact.mean_eigenvalue))
    plain = jax.jit(conjugate_gradients(product, damping=damping, tolerance=1e-8))(vector)
    # A preconditioner changes the way, not the answer. (This one does not shorten it.)
    helped = jax.jit(
        conjugate_gradients(
            product, damping=damping, tolerance=1e-8, preconditioner=cheap.damped(damping).inverse
        )
    )(vector)
    found = exact(vector)
    assert bool(plain.converged & helped.converged & found.converged)
    ways = map(jax.tree.leaves, (found.value, plain.value, helped.value))
    for leaf, other, third in zip(*ways, strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(leaf, third, rtol=1e-5, atol=1e-4)


def test_ek_fac_against_the_exact_gauss_newton(network, solves):
    exact, cheap = solves
    onto, own = both_influences(network, exact)
    cheaply, own_cheaply = both_influences(network, cheap)
    plain, own_plain = both_influences(network, cheap.damped(1e9))
    near = lambda a, b: np.corrcoef(a, b)[0, 1]  # noqa: E731
    assert near(own, own_cheaply) > 0.9 and near(own, own_cheaply) > near(own, own_plain)
    # On another's loss it needs more damping to be as good; with less it still beats no curvature at all.
    assert near(onto, cheaply) == pytest.approx(0.74, abs=0.05) and near(onto, plain) < 0.6
    size = 10 * float(exact.mean_eigenvalue)
    onto, _ = both_influences(network, exact.damped(size))
    cheaply, _ = both_influences(network, cheap.damped(size))
    assert near(onto, cheaply) > 0.9


def test_ek_fac_is_exact_where_it_can_be(network, solves):
    """Its trace is that of the Gauss–Newton matrix, and its inverse that of what it says it is."""
    fitted, examples = network
    curvature = solves[1].damped(0.5)
    slope = jax.value_and_grad(lambda net, one: SEEN.scores_of(net, one)[0])
    scores, gradients = jax.device_get(jax.jit(jax.vmap(slope, (None, 0)))(fitted, examples))
    weights = np.asarray(jax.nn.sigmoid(scores) * jax.nn.sigmoid(-scores))
    squares = sum(np.sum(leaf.reshape(120, -1) ** 2, axis=1) for leaf in jax.tree.leaves(gradients))
    traces = [float(jnp.sum(values)) for values in curvature.eigenvalues]
    assert sum(traces) == pytest.approx(float(np.mean(weights * squares)), rel=1e-9)
    first = jax.tree.map(lambda leaf: leaf[0], gradients)
    weight = np.concatenate([first.weights[1], first.biases[1][:, None]], axis=1)
    whole = np.kron(curvature.left[1], curvature.right[1])
    matrix = whole @ np.diag(np.ravel(curvature.eigenvalues[1])) @ whole.T + 0.5 * np.eye(12 * 13)
    wanted = np.linalg.solve(matrix, weight.ravel()).reshape(12, 13)
    found = jax.jit(lambda vector: curvature.inverse(vector))(first)
    np.testing.assert_allclose(found.weights[1], wanted[:, :-1], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.biases[1], wanted[:, -1], rtol=1e-8, atol=1e-12)
    with pytest.raises(InputError, match="damping is 0"):
        curvature.damped(0.0)


# ---- wrong labels -------------------------------------------------------------------------------


def test_wrong_labels_of_a_linear_reward_show():

    @jax.jit
    def scores(examples):
        theta = linear_fit(examples, jnp.ones(300))
        product = hessian(linear_loss, theta, examples, regulariser=regulariser)
        solve = conjugate_gradients(product, tolerance=1e-6)
        own = self_influence(linear_loss, theta, examples, solve, together=300)
        return own.values, -margin(examples["f"] @ theta, examples["y"])

    found, losses = [], []
    for seed in range(5):
        examples, wrong = linear_data(300, 8, seed=seed, flipped=0.1)
        own, against = map(np.asarray, scores(examples))
        found.append(recall_at(own, wrong))
        losses.append(recall_at(against, wrong))
    assert np.mean(found) >= 0.6 and min(found) > 0.5
    assert np.mean(losses) >= 0.6


def test_recall_and_margin():
    wrong = np.array([True, False, False, True, False, False, False, False, False, False])
    assert recall_at(np.arange(10.0), wrong, 0.2) == 0.0
    assert recall_at(-np.arange(10.0), wrong, 0.1) == 0.5
    assert recall_at(wrong * 1.0, wrong, 0.2) == 1.0
    with pytest.raises(InputError, match="no label is wrong"):
        recall_at(np.arange(3.0), np.zeros(3, bool))
    with pytest.raises(InputError, match="share is 0"):
        recall_at(np.arange(3.0), np.ones(3, bool), 0.0)
    score, label = jnp.array([2.0, 2.0, -2.0]), jnp.array([1.0, 0.0, 0.5])
    np.testing.assert_array_equal(margin(score, label), [2.0, -2.0, -2.0])
