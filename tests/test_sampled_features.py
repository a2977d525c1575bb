"""Features of estimators and baselines, and one regression for all steps of a clip."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith.bilevel.sampled._ridge import predictions_at_steps
from rewardsmith.bilevel.sampled.baselines import LinearBaseline
from rewardsmith.bilevel.sampled.features import (
    ActionInteractions,
    OneHotPairs,
    OneHotStates,
    RandomFeatures,
)

pytestmark = pytest.mark.usefixtures("double_precision")

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
