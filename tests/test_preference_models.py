"""Preference models one pair at a time: probabilities, tails, remedies against noise, what is refused."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rewardsmith._core import InputError
from rewardsmith.preferences import bradley_terry
from rewardsmith.preferences.models import (
    PREFERENCE_MODELS,
    General,
    Judgement,
    Mixture,
    Noise,
    PartialReturn,
    Prediction,
    Regret,
    Thurstone,
    make_preference_model,
)
from rewardsmith.preferences.models.normal import log_normal_cdf
from rewardsmith.problem import PreferenceLoss

MEMBERS, STEPS = 3, 5
SHAPES = {"general": (MEMBERS, 4), "mixture": (MEMBERS, 2)}
NOISES = [Noise(), Noise(smoothing=0.1), Noise(error=0.1), Noise(margin=0.5), Noise(0.1, 0.2, 0.3)]
CASES = list(product(PREFERENCE_MODELS, NOISES))


def model_of(name, noise):
    return make_preference_model(name, smoothing=noise.smoothing, error=noise.error, margin=noise.margin)


def prediction(total, offset=None):
    return Prediction(jnp.asarray(total, jnp.float32), STEPS, None if offset is None else jnp.float32(offset))


def pair_of(name, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return [prediction(scale * rng.normal(size=SHAPES.get(name, (MEMBERS,)))) for _ in range(2)]


@pytest.mark.parametrize(("name", "noise"), CASES)
def test_swapped_clips_have_swapped_probabilities(name, noise):
    model = model_of(name, noise)
    for seed, scale in enumerate((0.1, 1.0, 30.0)):
        first, second = pair_of(name, seed, scale)
        forth, back = model.probability(first, second), model.probability(second, first)
        assert forth.shape == (MEMBERS,)
        np.testing.assert_allclose(forth + back, 1.0, atol=1e-6)
        label = jnp.float32(0.8)
        np.testing.assert_allclose(
            model.loss(first, second, label), model.loss(second, first, 1.0 - label), rtol=1e-5
        )
    assert abs(forth - 0.5).max() > 0.1


@pytest.mark.parametrize(("name", "noise"), CASES)
def test_derivatives_are_finite_however_far_apart(name, noise):
    model, ones = model_of(name, noise), np.ones(SHAPES.get(name, (MEMBERS,)), np.float32)
    unit, second = ones, 0 * ones
    if name == "general":
        # ⟨R(c, 0, …), (0, H, …)⟩/H = c.
        unit, second = ones * [1, 0, 0, 0], ones * [0, STEPS, 0, 0]

    def loss(far, label):
        return model.loss(prediction_of(far * unit), prediction_of(jnp.asarray(second)), label)

    def prediction_of(total):
        return Prediction(jnp.asarray(total, jnp.float32), STEPS)

    slope = jax.grad(loss)
    curve = jax.jit(lambda far, label: (loss(far, label), slope(far, label), jax.grad(slope)(far, label)))
    for far, label in product((1e3, -1e3, 1e4), (0.0, 0.5, 1.0)):
        value, first, curvature = curve(jnp.float32(far), jnp.float32(label))
        assert np.isfinite([value, first, curvature]).all()
        # What is far on the wrong side is told so.
        if label != 0.5 and (far > 0) != (label > 0.5):
            assert value > (1.0 if noise.error else 100.0)


def test_partial_return_is_bradley_terry():
    first, second = pair_of("partial-return")
    for label in (0.0, 0.3, 0.5, 1.0):
        by_formula = jnp.mean(bradley_terry(first.total, second.total, jnp.float32(label)))
        assert PartialReturn().loss(first, second, jnp.float32(label)) == by_formula
        assert Regret().loss(first, second, jnp.float32(label)) == by_formula


@settings(max_examples=50, deadline=None)
@given(z=st.floats(-2e4, 2e4, width=32) | st.floats(-10, 10, width=32))
@example(z=3.0)
def test_the_normal_link_against_scipy(z):
    """In float32, where the quotient of exponentials has no digits left."""
    at = jnp.float32(z)
    exact = scipy.stats.norm.logcdf(float(at))
    # A float32 knows e^{−z²/2} to fewer digits the larger z is; there the logarithm is next to 0.
    np.testing.assert_allclose(log_normal_cdf(at), exact, rtol=3e-6, atol=1e-12)
    slope = np.exp(scipy.stats.norm.logpdf(float(at)) - exact)
    np.testing.assert_allclose(jax.grad(log_normal_cdf)(at), slope, rtol=2e-5, atol=1e-37)


def test_curvature_of_the_normal_link():
    """(log Φ)'' = −m(m + z), m = φ/Φ; −1 far out, where JAX's own is off by thousands."""
    z = np.array([-1e4, -1e3, -50.0, -8.5, -7.5, -1.0, 0.0, 2.0])
    with jax.enable_x64(True):
        found = jax.vmap(jax.grad(jax.grad(log_normal_cdf)))(jnp.asarray(z))
        mills = np.asarray(jax.vmap(jax.grad(log_normal_cdf))(jnp.asarray(z)))
    by_formula = -mills * (mills + z)
    near = abs(z) < 100
    np.testing.assert_allclose(found[near], by_formula[near], rtol=1e-6)
    np.testing.assert_allclose(found[~near], -1.0, rtol=1e-3)


def test_thurstone_by_hand():
    first, second = prediction([2.0]), prediction([0.5])
    expected = scipy.stats.norm.cdf(1.5 / (np.sqrt(2) * 0.7))
    np.testing.assert_allclose(Thurstone(0.7).probability(first, second), expected, rtol=1e-5)
    with pytest.raises(InputError, match="deviation is 0"):
        Thurstone(0.0)


def test_offsets_are_rewards_of_the_whole_clip():
    first, second = prediction([1.0], 0.5), prediction([0.25], -1.0)
    np.testing.assert_allclose(
        Regret().probability(first, second), 1 / (1 + np.exp(-(1.5 - -0.75))), rtol=1e-6
    )


def test_general_by_hand_and_bradley_terry_inside_it():
    u, v = np.array([1.0, 2.0, -1.0, 0.5]), np.array([0.3, -1.0, 2.0, 4.0])
    score = (1 * -1.0 - 2 * 0.3 + -1 * 4.0 - 0.5 * 2.0) / STEPS
    found = General().score(prediction(u[None]), prediction(v[None]))
    np.testing.assert_allclose(found, [score], rtol=1e-6)
    # One constant coordinate, summed over the steps: Bradley–Terry on the other.
    first, second = prediction([[1.7, STEPS]]), prediction([[0.4, STEPS]])
    np.testing.assert_allclose(General().score(first, second), [1.3], rtol=1e-6)


def test_remedies_by_hand():
    score = jnp.asarray([1.0, 3.0])
    first, second = Prediction(score, 1), Prediction(jnp.zeros(2), 1)
    sigmoid = np.asarray(jax.nn.sigmoid(score))
    one = jnp.float32(1.0)
    cases = {
        Noise(smoothing=0.2): -np.mean(0.9 * np.log(sigmoid) + 0.1 * np.log(1 - sigmoid)),
        Noise(error=0.2): -np.mean(np.log(0.8 * sigmoid + 0.1)),
        Noise(margin=0.5): np.mean(np.log1p(np.exp(-(np.array([1.0, 3.0]) - 0.5 * 2.0)))),
    }
    for noise, expected in cases.items():
        np.testing.assert_allclose(PartialReturn(noise).loss(first, second, one), expected, rtol=1e-5)
    # A margin is for learning: no prediction knows it.
    np.testing.assert_allclose(
        PartialReturn(Noise(margin=0.5)).probability(first, second), sigmoid, rtol=1e-6
    )


def test_the_pull_of_an_answer_far_off_dies_away_with_the_error_alone():
    """An answer that says 0 where D = 8: its pull on D is 1 without a remedy, next to nothing with one."""

    def pull(noise):
        def loss(score):
            return PartialReturn(noise).loss(
                Prediction(score[None], 1), Prediction(jnp.zeros(1), 1), jnp.float32(0.0)
            )

        return float(jax.grad(loss)(jnp.float32(8.0)))

    assert pull(Noise()) > 0.99
    assert pull(Noise(error=0.1)) < 0.01
    assert 0.9 < pull(Noise(margin=0.5)) < pull(Noise())


def test_a_margin_alike_for_all_is_another_unit_of_reward():
    same = jnp.full(3, 2.0)
    first, second = Prediction(same, 1), Prediction(jnp.zeros(3), 1)
    scaled = PartialReturn().loss(Prediction(0.6 * same, 1), second, jnp.float32(0.7))
    np.testing.assert_allclose(
        PartialReturn(Noise(margin=0.4)).loss(first, second, jnp.float32(0.7)), scaled, rtol=1e-6
    )


def test_a_mixture_of_one_kind_is_that_kind():
    first, second = (prediction(np.repeat(p.total[:, None], 2, axis=1)) for p in pair_of("partial-return"))
    plain = [prediction(p.total[:, 0]) for p in (first, second)]
    label = jnp.float32(1.0)
    np.testing.assert_allclose(
        Mixture().loss(first, second, label), PartialReturn().loss(*plain, label), rtol=1e-5
    )
    np.testing.assert_allclose(
        Mixture().probability(first, second), PartialReturn().probability(*plain), rtol=1e-5
    )


def test_who_is_known_is_explained_by_their_group():
    pair = pair_of("mixture")
    for group in range(2):
        groups = jnp.eye(2)[group]
        own = [prediction(p.total[:, group]) for p in pair]
        for label in (0.0, 1.0):
            np.testing.assert_allclose(
                Mixture().loss(*pair, jnp.float32(label), groups),
                PartialReturn().loss(*own, jnp.float32(label)),
                rtol=1e-5,
            )
        np.testing.assert_allclose(
            Mixture().probability(*pair, groups), PartialReturn().probability(*own), rtol=1e-5
        )


def test_a_judgement_reaches_the_model():
    """Label, offset and groups, through the loss on clips."""
    steps = jnp.arange(8.0).reshape(2, 4) / 10
    loss = PreferenceLoss(4, members=lambda x, o, a: (x * o)[None], model=Regret())
    by_hand = Regret().loss(
        Prediction(jnp.asarray([0.6]), 4, jnp.float32(0.5)),
        Prediction(jnp.asarray([2.2]), 4, jnp.float32(0.0)),
        jnp.float32(1.0),
    )
    told = Judgement(jnp.float32(1.0), offset=jnp.asarray([0.5, 0.0]))
    found = loss(jnp.float32(1.0), lambda o, a: o, steps, steps, told)
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)
    of_two = PreferenceLoss(4, members=lambda x, o, a: jnp.stack([o, -o])[None], model=Mixture())
    for group, expected in enumerate((np.log1p(np.exp(1.6)), np.log1p(np.exp(-1.6)))):
        told = Judgement(jnp.float32(1.0), groups=jnp.eye(2)[group])
        np.testing.assert_allclose(of_two(0.0, lambda o, a: o, steps, steps, told), expected, rtol=1e-5)


def test_made_by_name():
    kinds = [PartialReturn, Thurstone, Regret, General, Mixture]
    for name, kind in zip(PREFERENCE_MODELS, kinds, strict=True):
        model = make_preference_model(name, smoothing=0.1, error=0.2, margin=0.3, groups=3)
        assert type(model) is kind
        noise = model.each.noise if isinstance(model, Mixture) else model.noise
        assert noise == Noise(0.1, 0.2, 0.3)
    assert model.groups == 3
    with pytest.raises(InputError, match="choose one of partial-return, thurstone"):
        make_preference_model("bradley")
    for name in ("smoothing", "error", "margin"):
        for value in (-0.1, 1.0, float("nan")):
            with pytest.raises(InputError, match=f"{name} is {value}; give a number from 0"):
                make_preference_model("regret", **{name: value})
    with pytest.raises(InputError, match="groups is 1"):
        make_preference_model("mixture", groups=1)
