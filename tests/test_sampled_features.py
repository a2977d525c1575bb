"""Features, one regression for all steps of a clip, and estimators in a simulator."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled_tables import Way, cosine, second_terms, table

from rewardsmith.agents.networks import TanhGaussianPolicy
from rewardsmith.bilevel.sampled._ridge import predictions_at_steps
from rewardsmith.bilevel.sampled.adjoint import FittedAdjoint
from rewardsmith.bilevel.sampled.baselines import LinearBaseline
from rewardsmith.bilevel.sampled.branch import Branch
from rewardsmith.bilevel.sampled.data import Branches, Follower, LabelledClips, Visits
from rewardsmith.bilevel.sampled.features import (
    ActionInteractions,
    OneHotPairs,
    OneHotStates,
    RandomFeatures,
)
from rewardsmith.bilevel.sampled.suffix import Suffix
from rewardsmith.bilevel.sampled.terms import second_term
from rewardsmith.problem import BilevelProblem, PreferenceLoss, SimulatedWorld

pytestmark = pytest.mark.usefixtures("double_precision", "compile_quickly")

PAIRS = OneHotPairs(3, 2)


@pytest.mark.parametrize("features", [RandomFeatures(16), ActionInteractions(), PAIRS, OneHotStates(3)])
def test_features_are_values(features):
    same = type(features)(**vars(features))
    assert hash(same) == hash(features) and same == features


def test_random_features():
    state, action = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.3])
    found = RandomFeatures(16)(state, action)
    assert found.shape == (17,) and found[-1] == 1.0 and (found >= 0).all() and found.dtype == state.dtype
    np.testing.assert_array_equal(found, jax.jit(RandomFeatures(16))(state, action))
    np.testing.assert_allclose(RandomFeatures(16, scale=4.0)(4 * state, action), found)
    assert not np.allclose(RandomFeatures(16, seed=1)(state, action), found)
    assert not np.allclose(RandomFeatures(16)(state, -action), found)
    low = RandomFeatures(16)(state.astype(jnp.float32), action.astype(jnp.float32))
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, found, rtol=1e-4, atol=1e-5)


def test_action_interactions_and_one_hots():
    found = ActionInteractions()(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))
    np.testing.assert_array_equal(found, [3, 4, 3, 6, 4, 8])
    np.testing.assert_array_equal(PAIRS(jnp.int32(1), jnp.int32(1)), [0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(OneHotStates(3)(jnp.int32(2)), [0, 0, 1])


# ---- one regression for all steps ---------------------------------------------------------------


def test_shared_regression_against_refitting():
    rng = np.random.default_rng(2)
    batch, clips, horizon, size, ridge = 6, 2, 4, 3, 0.05
    features, targets = (
        rng.normal(size=(batch, clips, horizon, size)),
        rng.normal(size=(batch, clips, horizon)),
    )
    fit = partial(predictions_at_steps, ridge=ridge, shared=True, intercept=False)
    actual = jax.jit(fit)(jnp.asarray(features), jnp.asarray(targets))
    scaled = features / features.std(axis=(0, 1, 2))
    penalty = ridge * batch * clips * horizon * np.eye(size)
    for left_out in range(batch):
        rest = np.arange(batch) != left_out
        rows, wanted = scaled[rest].reshape(-1, size), targets[rest].ravel()
        weights = np.linalg.solve(rows.T @ rows + penalty, rows.T @ wanted)
        np.testing.assert_allclose(actual[left_out], scaled[left_out] @ weights, rtol=1e-9)


def test_a_shared_baseline_is_the_mean_over_all_steps():
    rng = np.random.default_rng(3)
    states, losses = rng.integers(3, size=(400, 2, 2)), rng.normal(size=(400, 2, 2))
    baseline = LinearBaseline(OneHotStates(3), ridge=1e-6, shared=True)
    fitted = jax.jit(baseline.fit)(jnp.asarray(states), jnp.asarray(losses))
    for index in (0, 17):
        others = np.arange(400) != index
        for place in np.ndindex(2, 2):
            same = states[others] == states[index][place]
            np.testing.assert_allclose(fitted[index][place], losses[others][same].mean(), rtol=1e-3)


def test_a_shared_baseline_helps_where_clips_are_few():
    rng = np.random.default_rng(4)
    states = rng.normal(size=(16, 2, 10, 6))
    truth = states @ rng.normal(size=6)
    losses = jnp.asarray(truth + rng.normal(size=truth.shape))

    def error(shared):
        fitted = jax.jit(LinearBaseline(shared=shared).fit)(jnp.asarray(states), losses)
        return np.mean((np.asarray(fitted) - truth) ** 2)

    assert error(True) < 0.2 * error(False)


def test_a_shared_suffix_is_less_noisy_where_clips_are_few():
    """With 8 pairs a batch, one regression is less noisy than one a step, and the mean stays about right."""
    of = table("preference")
    ways = [
        Way(Suffix(30, features=of.pairs, ridge=1e-2, shared=shared), of.baseline) for shared in (True, False)
    ]
    samples = second_terms(of, ways, 8, jax.random.split(jax.random.key(10), 512))
    errors = np.mean(np.sum((samples - of.second) ** 2, axis=2), axis=1)
    assert errors[0] < errors[1]
    assert cosine(samples[0].mean(axis=0), of.second) > 0.98


# ---- in a simulator -----------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [FittedAdjoint(RandomFeatures(16)), Branch(2, 5)])
def test_in_a_simulator(estimator):
    """One step of SoBiRL in float32 with arrays as observations and actions, under jit and vmap."""
    rng = np.random.default_rng(9)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    def actions(*shape):
        return jnp.asarray(np.tanh(rng.normal(size=(*shape, 2))), jnp.float32)

    with jax.enable_x64(False):
        policy = TanhGaussianPolicy(5, 2, [8], key=jax.random.key(9))
        branches = Branches(
            jnp.asarray(rng.integers(4, size=(6, 2, 2))),
            normal(6, 2, 2, 2, 5, 5),
            actions(6, 2, 2, 2, 5),
            jnp.ones((6, 2, 2, 2, 5), bool),
        )
        clips = LabelledClips(
            normal(6, 2, 9, 5),
            actions(6, 2, 9),
            jnp.ones((6, 2, 9), bool),
            jnp.linspace(0, 1, 6),
            branches=branches,
        )
        visits = Visits(
            normal(50, 5), actions(50), normal(50, 5), jnp.arange(50) % 7 == 0, jnp.full(50, 0.02)
        )
        follower = Follower(policy, jnp.float32(0.2))
        world, baseline = SimulatedWorld("Nowhere-v0", 0.9), LinearBaseline(shared=True)
        problem = BilevelProblem(world, lambda x, s, a: x[:5] @ s + x[5:] @ a, PreferenceLoss(4), "auto")

        def second(x, key):
            return second_term(problem, x, clips, follower, estimator, baseline, key, visits=visits)

        found = eqx.filter_jit(jax.vmap(second))(normal(3, 7), jax.random.split(jax.random.key(9), 3))
    assert found.dtype == jnp.float32 and np.isfinite(found).all() and (abs(found) > 0).all()
