"""What is learned from many synthetic answers: planted rewards, cycles, groups, in spite of errors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from benchmarks.preference_models import (
    TASTES,
    cycle,
    fitted,
    interval,
    max_min_policy,
    mean_loss,
    over_seeds,
    recovery,
    two_groups,
    under_flips,
)
from rewardsmith.preferences.models import (
    General,
    Noise,
    PartialReturn,
    Prediction,
    Thurstone,
    group_sizes,
    min_max_weights,
    responsibilities,
    skew_product,
)
from rewardsmith.runs.beside import belonging

MANY = 12


PLANTED = [PartialReturn(), Thurstone(deviation=0.7), PartialReturn(noise=Noise(error=0.2))]


@pytest.mark.parametrize("model", PLANTED)
def test_the_loss_leads_to_what_was_planted(model):
    """θ̂ − θ* in units of its standard error: mean 0 and variance 1 over seeds and coordinates."""
    error, deviation = over_seeds(partial(recovery, model, pairs=600), MANY)
    scores = (error / deviation).ravel()
    assert abs(scores.mean()) < 4 / np.sqrt(len(scores))
    low, high = scipy.stats.chi2.ppf([1e-4, 1 - 1e-4], len(scores)) / len(scores)
    assert low < (scores**2).mean() < high


def test_general_recovers_any_skew_symmetric_scores():
    rng = np.random.default_rng(0)
    truth = np.triu(rng.normal(size=(4, 4)), 1)
    truth = truth - truth.T
    first, second = (jnp.asarray(part) for part in np.triu_indices(4, 1))
    label = jax.nn.sigmoid(jnp.asarray(truth, jnp.float32)[first, second])

    def loss(v):
        return mean_loss(General(), v[first], v[second], label)

    v = fitted(loss, jax.random.normal(jax.random.key(0), (4, 1, 4)), 600)
    found = skew_product(v[first, 0], v[second, 0])
    np.testing.assert_allclose(found, truth[first, second], atol=0.02)


def test_a_cycle_is_learned_by_general_alone():
    assert (over_seeds(partial(cycle, General(), 2), MANY) == 1.0).all()
    assert over_seeds(partial(cycle, PartialReturn(), None), MANY).max() <= 2 / 3 + 1e-6


def test_two_groups_of_opposite_tastes_and_the_compromise():
    found = over_seeds(two_groups, MANY)
    assert (found["belonging"] >= 0.95).all()
    worse = {name: (found[name] @ TASTES).min(axis=1) for name in ("mixture", "one reward")}
    # The majority's love for one reward, the compromise for max–min.
    assert interval(worse["one reward"])[2] < -0.5
    assert interval(worse["mixture"])[1] > 0.15
    assert (found["mixture"][:, 2] > 0.75).all()


def test_responsibilities_by_bayes():
    likely = jnp.log(jnp.asarray([[0.9, 0.3], [0.2, 0.4]]))
    prior = jnp.asarray([0.25, 0.75])
    expected = np.array([[0.225, 0.225], [0.05, 0.3]])
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(responsibilities(likely, prior), expected, rtol=1e-5)
    # Hundreds of nats apart is a decision, not a NaN.
    far = responsibilities(jnp.asarray([[-2e4, -1.0]]), prior)
    np.testing.assert_array_equal(far, [[0.0, 1.0]])


def test_sizes_of_groups():
    """17 people of one kind and 3 of the other, told with certainty: one is added to each."""
    evidence = jnp.where(jnp.arange(20)[:, None] < 17, jnp.asarray([0.0, -50.0]), jnp.asarray([-50.0, 0.0]))
    np.testing.assert_allclose(group_sizes(evidence), [18 / 22, 4 / 22], rtol=1e-5)
    np.testing.assert_allclose(group_sizes(jnp.zeros((5, 3))), 1 / 3, rtol=1e-6)


def test_all_answers_of_a_labeller_count_together():
    """Numbers of labellers need be neither small nor in order."""
    rng = np.random.default_rng(0)
    labeller, likely = np.array([70000, 3, 70000, 3, -1]), rng.normal(size=(5, 2)).astype(np.float32)
    found = belonging(likely, labeller)
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[3])
    sums = np.stack([likely[labeller == one].sum(axis=0) for one in (-1, 3, 70000)])
    by_hand = responsibilities(jnp.asarray(sums), group_sizes(jnp.asarray(sums)))
    np.testing.assert_allclose(found[[4, 1, 0]], by_hand, rtol=1e-5)


def test_weights_move_to_whoever_has_least():
    weights = min_max_weights(jnp.asarray([2.0, 2.0]), jnp.asarray([1.0, -1.0]), 0.5)
    np.testing.assert_allclose(weights, jax.nn.softmax(jnp.asarray([-0.5, 0.5])), rtol=1e-6)
    policy = max_min_policy(jnp.asarray(TASTES, jnp.float32))
    # max–min over mixtures of the three things is the compromise, certain.
    assert policy[2] > 0.9


def test_an_error_rate_beats_plain_bradley_terry_under_flips():
    flips = jnp.asarray([0.2, 0.0])
    plain, robust = (
        over_seeds(lambda key, n=noise: jax.vmap(lambda f: under_flips(n, key, f, pairs=200))(flips), MANY)
        for noise in (Noise(), Noise(error=0.4))
    )
    gain = robust - plain
    assert interval(gain[:, 0])[1] > 0.01
    # And costs next to nothing where no answer is wrong.
    assert interval(gain[:, 1])[1] > -0.005


def test_smoothing_holds_rewards_bounded():
    """All answers alike: D stops at log((1 − s/2)/(s/2)) where it would grow for ever."""

    def loss(noise, theta):
        return PartialReturn(noise=noise).loss(
            Prediction(theta, 1), Prediction(jnp.zeros(1), 1), jnp.float32(1.0)
        )

    found = fitted(partial(loss, Noise(smoothing=0.2)), jnp.zeros(1), 400)
    np.testing.assert_allclose(found, np.log(0.9 / 0.1), rtol=1e-3)
    assert fitted(partial(loss, Noise()), jnp.zeros(1), 400)[0] > 3.0
