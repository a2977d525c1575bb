"""The sampled hyper-gradient against the exact one, on a table wrapped as an environment.

`reference/preference_clip.npz` holds the exact numbers of a world of 3 states and 2 actions. Everything
random is seeded, so these tests give the same numbers every time; the bounds in standard errors say how
surprising another seed would be allowed to be.
"""

from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith.bilevel import (
    ConstantBaseline,
    Follower,
    LabelledClips,
    LinearBaseline,
    OneStep,
    Suffix,
    first_term,
    hypergradient,
    second_term,
)
from rewardsmith.bilevel.enumeration import exact_clip_expectation
from rewardsmith.bilevel.sampled import TablePolicy
from rewardsmith.bilevel.sampled._ridge import left_out_predictions
from rewardsmith.bilevel.sampled.estimator import suffix_coefficients
from rewardsmith.envs import TabularEnv
from rewardsmith.follower import solve_follower
from rewardsmith.mdp import MDP
from rewardsmith.preferences import ComparisonQueue, Trajectories
from rewardsmith.problem import BilevelProblem, ClipLoss, PreferenceLoss

CASE = dict(np.load(Path(__file__).parent / "reference" / "preference_clip.npz"))
HORIZON, FURTHER = int(CASE["H"]), 30
# γ^30 = 0.001 of a sum is cut off, well below the error of sampling.
PAIRS, BATCH = 2**17, 64
SECOND = CASE["hypergradient"] - CASE["first"]


pytestmark = pytest.mark.usefixtures("double_precision")


def linear_reward(x):
    return jnp.asarray(CASE["B"]) @ x


def one_hot_state(state):
    return jax.nn.one_hot(state, 3, dtype=float)


def one_hot_pair(state, action):
    return jax.nn.one_hot(2 * state + action, 6, dtype=float)


SUFFIX = Suffix(FURTHER, features=one_hot_pair, ridge=1e-6)
LINEAR = LinearBaseline(one_hot_state, ridge=1e-6)


def make_problem(discount=CASE["gamma"], upper_loss=None):
    world = MDP(CASE["P"], CASE["rho"], float(discount))
    loss = PreferenceLoss(HORIZON, target=label_of) if upper_loss is None else upper_loss
    return BilevelProblem(world, linear_reward, loss, float(CASE["tau"]))


def label_of(states, actions):
    returns = jnp.asarray(CASE["rtrue"])[states, actions].sum(axis=-1)
    return jax.nn.sigmoid(returns[0] - returns[1])


def solved(problem):
    x = jnp.asarray(CASE["x"])
    policy = solve_follower(problem.world, problem.reward(x), problem.temperature).policy
    return x, Follower(TablePolicy(jnp.log(policy)), problem.temperature)


def roll_out(policy, num_envs, length, seed):
    """States and actions (N, L) of fresh episodes under a policy table."""
    env = TabularEnv(CASE["P"], CASE["rho"], CASE["rtrue"], num_envs)
    record = Trajectories(num_envs, length, (), (), np.int8, np.int8)
    state, rng = env.reset(seed), np.random.default_rng(seed)
    for _ in range(length):
        action = (rng.random(num_envs) >= policy[state, 0]).astype(int)
        result = env.step(action)
        record.append(state, action, result.terminated | result.truncated, result.reward)
        state = result.observation
    everything = record.get_state()
    return everything["observations"].T, everything["actions"].T


def labelled(states, actions):
    """Pairs of clips from (2n, L) trajectories that start at ρ."""
    states, actions = (array.reshape(-1, 2, array.shape[1]).astype(np.int32) for array in (states, actions))
    returns = CASE["rtrue"][states, actions][:, :, :HORIZON].sum(axis=2)
    label = 1 / (1 + np.exp(returns[:, 1] - returns[:, 0]))
    return LabelledClips(*(jnp.asarray(a) for a in (states, actions, np.ones(states.shape, bool), label)))


def cut(clips, length):
    steps = (leaf[:, :, :length] for leaf in (clips.observations, clips.actions, clips.valid))
    return LabelledClips(*steps, clips.label)


@pytest.fixture(scope="module")
def trajectories():
    with jax.enable_x64(True):
        _, follower = solved(make_problem())
        return roll_out(np.asarray(follower.policy.table), 2 * PAIRS, HORIZON + FURTHER, seed=1)


@eqx.filter_jit
def estimates(problem, x, clips, follower, estimator, baseline, key):
    """The second term of many batches of `BATCH` pairs, each fitted by itself, (batches, n)."""
    batches = jax.tree.map(lambda leaf: leaf.reshape(-1, BATCH, *leaf.shape[1:]), clips)

    def one(inputs):
        batch, key = inputs
        return second_term(problem, x, batch, follower, estimator, baseline, key)

    return jax.lax.map(one, (batches, jax.random.split(key, batches.label.shape[0])))


def mean_and_error(samples):
    samples = np.asarray(samples)
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples))


def relative_error(estimate, exact):
    return np.linalg.norm(estimate - exact) / np.linalg.norm(exact)


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def one_step_limit(problem, x, policy):
    """What `OneStep` tends to: (1/τ) E[l Σ (∇r − E_π ∇r)], by enumeration.

    It is the derivative of E[l] when π ∝ exp(r_x/τ) moves with x at once and nothing comes later.
    """

    def moved(y):
        change = problem.reward(y) - problem.reward(x)
        answer = jax.nn.softmax(jnp.log(policy) + change / problem.temperature, axis=-1)
        return exact_clip_expectation(problem, x, answer)

    return np.asarray(jax.jit(jax.grad(moved))(x))


# ---- against the stored reference ---------------------------------------------------------------


def test_first_term(trajectories):
    problem = make_problem()
    x, _ = solved(problem)
    clips = cut(labelled(*trajectories), HORIZON)
    batches = jax.tree.map(lambda leaf: leaf.reshape(64, -1, *leaf.shape[1:]), clips)
    losses, gradients = jax.jit(jax.vmap(lambda batch: first_term(problem, x, batch)))(batches)
    for samples, exact in ((losses, CASE["phi"]), (gradients, CASE["first"])):
        mean, error = mean_and_error(samples)
        assert (abs(mean - exact) < 4 * error).all()
        assert relative_error(np.atleast_1d(mean), np.atleast_1d(exact)) < 0.02


@pytest.fixture(scope="module")
def suffix_estimates(trajectories):
    with jax.enable_x64(True):
        problem = make_problem()
        x, follower = solved(problem)
        clips = labelled(*trajectories)
        return np.asarray(estimates(problem, x, clips, follower, SUFFIX, LINEAR, jax.random.key(0)))


def test_suffix_is_the_hypergradient(suffix_estimates):
    mean, error = mean_and_error(suffix_estimates)
    assert (abs(mean - SECOND) < 4 * error).all()
    # The error of sampling alone is 4 % of the term at this budget.
    assert relative_error(mean, SECOND) < 0.1
    assert cosine(mean, SECOND) > 0.995
    total = CASE["first"] + mean
    assert cosine(total, CASE["hypergradient"]) > 0.99
    assert relative_error(total, CASE["hypergradient"]) < 0.1
    # Without the second term the gradient is another one altogether.
    assert cosine(CASE["first"], CASE["hypergradient"]) < 0.6


def test_suffix_error_falls_with_the_root_of_the_budget(suffix_estimates):
    sizes = np.array([1, 4, 16, 64])
    errors = [
        np.sqrt(np.mean((suffix_estimates.reshape(-1, size, 4).mean(axis=1) - SECOND) ** 2)) for size in sizes
    ]
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert -0.6 < slope < -0.4


def test_one_step_is_another_gradient(trajectories):
    problem = make_problem()
    x, follower = solved(problem)
    limit = one_step_limit(problem, x, follower.policy.table)
    clips = cut(labelled(*trajectories), HORIZON)
    mean, error = mean_and_error(estimates(problem, x, clips, follower, OneStep(), LINEAR, jax.random.key(1)))
    assert (abs(mean - limit) < 4 * error).all()
    # It is off by 1.2 of the second term, and more samples do not help.
    assert relative_error(limit, SECOND) > 0.5
    assert abs((mean - SECOND) / error).max() > 50


def test_one_step_is_exact_without_a_future():
    problem = make_problem(discount=0.0)
    x, follower = solved(problem)
    clips = labelled(*roll_out(np.asarray(follower.policy.table), 2 * PAIRS, HORIZON, seed=2))
    mean, error = mean_and_error(estimates(problem, x, clips, follower, OneStep(), LINEAR, jax.random.key(2)))
    first = jax.jit(jax.grad(lambda y: exact_clip_expectation(problem, y, follower.policy.table)))(x)
    exact = np.asarray(hypergradient(problem, x)[1] - first)
    assert (abs(mean - exact) < 4 * error).all()
    assert cosine(mean, exact) > 0.99


def test_a_baseline_does_not_change_the_mean(trajectories):
    # Paired on the same clips and fresh actions, so the difference is known far better than either.
    problem = make_problem()
    x, follower = solved(problem)
    clips = cut(labelled(*trajectories), HORIZON)
    linear, constant = (
        np.asarray(estimates(problem, x, clips, follower, OneStep(), baseline, jax.random.key(3)))
        for baseline in (LINEAR, ConstantBaseline())
    )
    mean, error = mean_and_error(linear - constant)
    assert (abs(mean) < 4 * error).all()
    # A baseline that had seen its own loss would shrink the term by 3 features of 128 clips, 2 %.
    assert np.linalg.norm(error) < 0.005 * np.linalg.norm(constant.mean(axis=0))


# ---- exact properties ---------------------------------------------------------------------------


class ShiftedLoss(ClipLoss):
    """l + a constant."""

    shift: jax.Array
    num_clips: int = eqx.field(default=2, static=True)
    horizon: int = eqx.field(default=HORIZON, static=True)

    def __call__(self, x, reward_at, observations, actions, label=None):
        return PreferenceLoss(HORIZON)(x, reward_at, observations, actions, label) + self.shift


@pytest.fixture
def small():
    rng = np.random.default_rng(5)
    policy = np.full((3, 2), 0.5)
    states = rng.integers(3, size=(2 * BATCH, HORIZON + 5))
    clips = labelled(states, rng.integers(2, size=states.shape))
    return clips, Follower(TablePolicy(jnp.log(jnp.asarray(policy))), jnp.asarray(0.5))


@eqx.filter_jit
def _second(problem, clips, follower):
    x, key = jnp.asarray(CASE["x"]), jax.random.key(4)
    return second_term(problem, x, clips, follower, SUFFIX, LINEAR, key)


def second(clips, follower, shift=0.0):
    problem = make_problem(upper_loss=ShiftedLoss(jnp.asarray(shift)))
    return np.asarray(_second(problem, clips, follower))


def test_a_constant_in_the_loss_changes_nothing(small):
    np.testing.assert_allclose(second(*small), second(*small, shift=7.0), rtol=1e-9)


@pytest.mark.parametrize("baseline", [LINEAR, ConstantBaseline()])
def test_a_baseline_follows_a_constant_in_the_loss(small, baseline):
    observations = small[0].observations[:, :, :HORIZON]
    losses = jnp.broadcast_to(small[0].label[:, None, None], observations.shape)
    fit = jax.jit(baseline.fit)
    np.testing.assert_allclose(fit(observations, losses + 7.0), fit(observations, losses) + 7.0, rtol=1e-12)


def test_steps_behind_an_end_are_not_used(small):
    clips, follower = small
    valid = clips.valid.at[:, :, HORIZON + 2 :].set(False)
    elsewhere = clips.observations.at[:, :, HORIZON + 2 :].set(0)
    ended = LabelledClips(clips.observations, clips.actions, valid, clips.label)
    other = LabelledClips(elsewhere, clips.actions, valid, clips.label)
    np.testing.assert_allclose(second(ended, follower), second(other, follower), rtol=1e-12)
    assert relative_error(second(ended, follower), second(clips, follower)) > 1e-3


def test_second_term_goes_as_one_over_the_temperature(small):
    clips, follower = small
    warm = Follower(follower.policy, 2 * follower.temperature)
    np.testing.assert_allclose(second(clips, warm), second(clips, follower) / 2, rtol=1e-12)


def test_suffix_coefficients_against_a_double_loop():
    rng = np.random.default_rng(0)
    for horizon, length in ((1, 1), (1, 4), (3, 3), (3, 7)):
        weights, discount = rng.normal(size=horizon), 0.7
        expected = [
            sum(discount ** (k - h) * weights[h] for h in range(min(k, horizon))) for k in range(length)
        ]
        actual = jax.jit(suffix_coefficients, static_argnums=1)(jnp.asarray(weights), length, discount)
        np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("intercept, noise_share", [(True, 0.0), (False, 0.0), (False, 0.2)])
def test_left_out_predictions_against_refitting(intercept, noise_share):
    rng = np.random.default_rng(1)
    batch, clips, size, ridge = 7, 2, 3, 0.05
    features, targets = rng.normal(size=(batch, clips, size)), rng.normal(size=(batch, clips))
    fit = partial(left_out_predictions, ridge=ridge, intercept=intercept, noise_share=noise_share)
    actual = jax.jit(fit)(jnp.asarray(features), jnp.asarray(targets))
    scaled = features / features.std(axis=(0, 1))
    penalty = ridge * batch * clips * np.eye(size)
    if intercept:
        scaled = np.concatenate([scaled - scaled.mean(axis=(0, 1)), np.ones((batch, clips, 1))], axis=2)
        penalty = np.diag([*np.diag(penalty), 0.0])
    for left_out in range(batch):
        rest = np.arange(batch) != left_out
        rows, wanted = scaled[rest].reshape(-1, scaled.shape[2]), targets[rest].ravel()
        weights = np.linalg.solve((1 - noise_share) * rows.T @ rows + penalty, rows.T @ wanted)
        np.testing.assert_allclose(actual[left_out], scaled[left_out] @ weights, rtol=1e-9)


def test_one_hot_baseline_is_the_conditional_mean():
    rng = np.random.default_rng(2)
    states = rng.integers(3, size=(400, 2, 1))
    losses = rng.normal(size=400)
    to_go = jnp.broadcast_to(jnp.asarray(losses)[:, None, None], states.shape)
    fitted = jax.jit(LINEAR.fit)(jnp.asarray(states), to_go)
    for index in (0, 17):
        others = np.arange(400) != index
        for clip in range(2):
            same = states[others, :, 0] == states[index, clip, 0]
            expected = np.broadcast_to(losses[others, None], same.shape)[same].mean()
            np.testing.assert_allclose(fitted[index, clip, 0], expected, rtol=1e-3)


def test_constant_baseline_leaves_its_own_loss_out():
    losses = jnp.broadcast_to(jnp.array([1.0, 2.0, 6.0])[:, None, None], (3, 2, 4))
    fitted = ConstantBaseline().fit(jnp.zeros((3, 2, 4)), losses)
    assert fitted.shape == (3, 2, 4)
    np.testing.assert_allclose(fitted[:, 0, 0], [4.0, 3.5, 1.5])


def test_through_record_and_queue():
    """Clips that went through `Trajectories` and `ComparisonQueue` give the first term of numpy."""
    problem = make_problem()
    x, _ = solved(problem)
    env = TabularEnv(CASE["P"], CASE["rho"], CASE["rtrue"], 8, max_episode_steps=5)
    rng = np.random.default_rng(0)
    record = Trajectories(8, 20, (), (), np.int32, np.int32)
    queue = ComparisonQueue(16, HORIZON, 3, (), (), np.int32, np.int32)
    state = env.reset(0)
    for _ in range(30):
        action = rng.integers(2, size=8)
        result = env.step(action)
        record.append(state, action, result.terminated | result.truncated, result.reward)
        state = result.observation
    first, other = (record.sample(16, HORIZON, 3, rng) for _ in range(2))
    label = rng.random(16)
    queue.append(first, other, label, step=240)
    arrays = queue.arrays()
    clips = LabelledClips(*(jnp.asarray(arrays[n]) for n in ("observations", "actions", "valid", "label")))
    loss, gradient = jax.jit(partial(first_term, problem))(x, clips)

    features = CASE["B"][arrays["observations"], arrays["actions"]][:, :, :HORIZON].sum(axis=2)
    difference = (features[:, 0] - features[:, 1]) @ CASE["x"]
    label = arrays["label"].astype(float)
    expected = label * np.log1p(np.exp(-difference)) + (1 - label) * np.log1p(np.exp(difference))
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-6)
    slope = (1 / (1 + np.exp(-difference)) - label)[:, None] * (features[:, 0] - features[:, 1])
    np.testing.assert_allclose(gradient, slope.mean(axis=0), rtol=1e-6)


def test_bad_settings():
    for make in (
        lambda: Suffix(-1),
        lambda: Suffix(num_actions=0),
        lambda: Suffix(ridge=0.0),
        lambda: OneStep(0),
        lambda: LinearBaseline(ridge=-1.0),
        lambda: LINEAR.fit(jnp.zeros((1, 2, 1), int), jnp.zeros((1, 2, 1))),
    ):
        with pytest.raises(ValueError, match="give|must"):
            make()
