"""Convolutions against slow loops, pictures and their layout, norms, leaky networks."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith._core import MLP, NATURE, REWARD, ConvEncoder, ImageSpec, InputError, Layer, stacked
from rewardsmith._core.conv import ChannelNorm, Conv, convolve_by_patches, convolve_natively
from rewardsmith.agents import CategoricalPolicy, DiscreteTwinCritic, TanhGaussianPolicy, TwinCritic
from rewardsmith.rewards import RewardEnsemble

pytestmark = pytest.mark.usefixtures("compile_quickly")

# Kernel, stride, height, width, channels; most sizes leave some pixels over.
CASES = [
    (8, 4, 21, 30, 4),
    (8, 4, 16, 20, 1),
    (4, 2, 9, 12, 3),
    (3, 1, 5, 7, 2),
    (7, 3, 15, 18, 4),
    (7, 3, 13, 7, 1),
    (5, 2, 10, 11, 3),
]
SPEC = ImageSpec(84, 84, 1, 4)
SMALL = ImageSpec(14, 12, 1, 2)
LAYERS = (Layer(6, 4, 2), Layer(5, 3, 1))


def by_loops(x, weight, stride):
    out, kernel, *_ = weight.shape
    height, width = ((size - kernel) // stride + 1 for size in x.shape[:2])
    y = np.zeros((height, width, out))
    for i, j, o in np.ndindex(y.shape):
        y[i, j, o] = np.sum(weight[o] * x[i * stride : i * stride + kernel, j * stride : j * stride + kernel])
    return y


def slopes_by_loops(x, weight, stride, slope):
    """Gradients of Σ slope · y in x and in the weight."""
    kernel, in_x, in_weight = weight.shape[1], np.zeros(x.shape), np.zeros(weight.shape)
    for i, j, o in np.ndindex(slope.shape):
        window = np.s_[i * stride : i * stride + kernel, j * stride : j * stride + kernel]
        in_x[window] += slope[i, j, o] * weight[o]
        in_weight[o] += slope[i, j, o] * x[window]
    return in_x, in_weight


def pictures_of(spec, count, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(256, size=(count, *spec.shape)), jnp.uint8)


# ---- convolutions -------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel, stride, height, width, channels", CASES)
def test_convolutions_against_loops(kernel, stride, height, width, channels):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(height, width, channels)).astype(np.float32)
    weight = rng.normal(size=(5, kernel, kernel, channels)).astype(np.float32)
    expected = by_loops(x, weight, stride)
    slope = rng.normal(size=expected.shape).astype(np.float32)
    slopes = slopes_by_loops(x, weight, stride, slope)
    for way in (convolve_by_patches, convolve_natively):

        @jax.jit
        def both(x, weight, way=way):
            y, back = jax.vjp(partial(way, stride=stride), x, weight)
            return y, back(jnp.asarray(slope))

        y, found = both(x, weight)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
        for one, by_hand in zip(found, slopes, strict=True):
            np.testing.assert_allclose(one, by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel, stride, height, width, channels", [CASES[0], CASES[4]])
def test_many_pictures_and_many_weights(kernel, stride, height, width, channels):
    rng = np.random.default_rng(1)
    x = rng.integers(256, size=(3, height, width, channels)).astype(np.uint8)
    weights = rng.normal(size=(2, 4, kernel, kernel, channels)).astype(np.float32)
    for way in (convolve_by_patches, convolve_natively):
        one = partial(way, stride=stride)
        found = jax.jit(jax.vmap(jax.vmap(one, (0, None)), (None, 0)))(x, weights)
        assert found.dtype == jnp.float32
        for member, index in np.ndindex(2, 3):
            expected = by_loops(x[index].astype(float), weights[member], stride)
            np.testing.assert_allclose(found[member, index], expected, rtol=1e-4, atol=1e-2)

        def total(weights, one=one):
            return jnp.sum(jax.vmap(jax.vmap(one, (0, None)), (None, 0))(x, weights))

        # Of the sum of all outputs, each weight sees the sum of all pixels it ever meets.
        gradient = jax.jit(jax.grad(total))(weights)
        ones = np.ones((*found.shape[2:4], 4))
        by_hand = sum(slopes_by_loops(p.astype(float), weights[0], stride, ones)[1] for p in x)
        np.testing.assert_allclose(gradient, np.broadcast_to(by_hand, gradient.shape), rtol=1e-4)


def test_a_layer_is_a_convolution_with_a_bias():
    layer = Conv(3, Layer(4, 5, 2), key=jax.random.key(0))
    x = np.random.default_rng(2).normal(size=(9, 12, 3)).astype(np.float32)
    expected = by_loops(x, np.asarray(layer.weight), 2) + np.asarray(layer.bias)
    np.testing.assert_allclose(eqx.filter_jit(layer)(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)
    bound = (5 * 5 * 3) ** -0.5
    assert 0.9 * bound < abs(layer.weight).max() <= bound and abs(layer.bias).max() <= bound


# ---- what a picture is --------------------------------------------------------------------------


def test_image_spec():
    spec = ImageSpec(6, 5, 3, 2)
    assert spec.shape == (6, 5, 6) and spec.frame_shape == (6, 5, 3) and spec == ImageSpec(6, 5, 3, stack=2)
    observations = np.arange(2 * 6 * 5 * 6).reshape(2, 6, 5, 6)
    np.testing.assert_array_equal(spec.newest(observations), observations[..., 3:])
    spec.check((6, 5, 6))
    for sizes in ((0, 5, 3, 2), (6, 0, 3, 2), (6, 5, 0, 2), (6, 5, 3, 0), (6, 5, -1, 2)):
        with pytest.raises(InputError, match="at least 1"):
            ImageSpec(*sizes)


@pytest.mark.parametrize("channels, stack", [(1, 4), (3, 2), (2, 1)])
def test_stacked_frames(channels, stack):
    frames = np.random.default_rng(3).integers(256, size=(2, 7, 4, 5, channels)).astype(np.uint8)
    found = stacked(frames, stack)
    assert found.shape == (2, 8 - stack, 4, 5, stack * channels) and found.dtype == np.uint8
    spec = ImageSpec(4, 5, channels, stack)
    for row, step in np.ndindex(2, 8 - stack):
        expected = np.concatenate([frames[row, step + k] for k in range(stack)], axis=-1)
        np.testing.assert_array_equal(found[row, step], expected)
        np.testing.assert_array_equal(spec.newest(found[row, step]), frames[row, step + stack - 1])
    np.testing.assert_array_equal(jax.jit(stacked, static_argnums=1)(frames, stack), found)


@pytest.fixture(scope="module")
def readers():
    """Each network as a function of one picture of SPEC."""
    key, hidden, action = jax.random.key(0), (4,), jnp.zeros(2)
    ensemble = partial(RewardEnsemble, SPEC, 3, hidden, 2, discrete=True, key=key)
    masked, batch_normed = ensemble(visible=np.ones((84, 84), bool)), ensemble(norm="batch")
    plain, twins = ensemble(), TwinCritic(SPEC, 2, hidden, key=key)
    index = jnp.int32(1)
    return {
        "encoder": ConvEncoder(SPEC, key=key),
        "categorical": CategoricalPolicy(SPEC, 3, hidden, key=key).log_probs,
        "gaussian": TanhGaussianPolicy(SPEC, 2, hidden, key=key).mode,
        "critic": lambda o: twins(o, action),
        "discrete critic": DiscreteTwinCritic(SPEC, 3, hidden, key=key).action_values,
        "reward": lambda o: plain(o, index),
        "masked reward": lambda o: masked(o, index),
        "normalised reward": lambda o: batch_normed.normalise(o[None], index[None]).mean,
    }


NAMES = [
    "encoder",
    "categorical",
    "gaussian",
    "critic",
    "discrete critic",
    "reward",
    "masked reward",
    "normalised reward",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_of_another_layout_is_refused(readers, name):
    read = readers[name]
    for shape, words in (
        ((4, 84, 84), r"\(4, 84, 84\), channels × height × width instead of height × width × channels \(84"),
        ((80, 84, 4), r"\(80, 84, 4\): pass height × width × channels \(84, 84, 4\)"),
        ((84, 84, 1), r"\(84, 84, 1\): pass height × width × channels \(84, 84, 4\)"),
    ):
        with pytest.raises(InputError, match=words):
            jax.eval_shape(read, jax.ShapeDtypeStruct(shape, jnp.uint8))
    assert jax.eval_shape(read, jax.ShapeDtypeStruct(SPEC.shape, jnp.uint8)).dtype == jnp.float32


def test_too_small_pictures_are_refused():
    # 36 → 8 → 3 → 1 and 43 → 13 → 5 → 3 → 1 pixels are the least.
    key = jax.random.key(0)
    for least, layers in ((36, NATURE), (43, REWARD)):
        assert ConvEncoder(ImageSpec(least, least, 1), layers, key=key).size == layers[-1].filters
        for height, width in ((least - 1, 84), (84, least - 1)):
            with pytest.raises(InputError, match=f"{height} × {width} pixels are too small"):
                ConvEncoder(ImageSpec(height, width, 1), layers, key=key)


# ---- the encoder --------------------------------------------------------------------------------


def layers_by_hand(encoder, pictures):
    """What each convolution gives, then each norm, then the vectors, by XLA's own convolutions."""
    x, convolved, normed = pictures.astype(jnp.float32) / 255.0, [], []
    for index, layer in enumerate(encoder.convolutions):
        convolve = partial(convolve_natively, weight=layer.weight, stride=layer.stride)
        convolved.append(jax.vmap(convolve)(x) + layer.bias)
        normed.append(jax.vmap(encoder.norms[index])(convolved[-1]) if encoder.norms else convolved[-1])
        x = jnp.where(normed[-1] > 0, normed[-1], encoder.slope * normed[-1])
    return convolved, normed, x.reshape(len(x), -1)


@pytest.mark.parametrize("norm, slope", [("none", 0.0), ("none", 0.1), ("group", 0.1), ("batch", 0.1)])
def test_encoder_layer_by_layer(norm, slope):
    pictures = pictures_of(SMALL, 3)
    encoder = ConvEncoder(SMALL, LAYERS, norm=norm, slope=slope, key=jax.random.key(1)).measured(pictures)
    vectors = jax.jit(jax.vmap(encoder))(pictures)
    assert vectors.shape == (3, encoder.size) == (3, 4 * 3 * 5) and vectors.dtype == jnp.float32
    np.testing.assert_allclose(vectors, layers_by_hand(encoder, pictures)[2], rtol=1e-4, atol=1e-5)
    assert (vectors.min() < 0) == (slope > 0)


@pytest.mark.parametrize("norm", ["none", "group", "batch"])
def test_a_vector_never_depends_on_the_other_pictures(norm):
    first, others = pictures_of(SMALL, 4), pictures_of(SMALL, 4, seed=1)
    encoder = ConvEncoder(SMALL, LAYERS, norm=norm, key=jax.random.key(2)).measured(first)
    batch = jax.jit(jax.vmap(encoder))
    together = batch(first)
    np.testing.assert_array_equal(together[0], batch(others.at[0].set(first[0]))[0])
    np.testing.assert_allclose(together[0], eqx.filter_jit(encoder)(first[0]), rtol=1e-4, atol=1e-5)
    assert not np.allclose(together[0], together[1])


def test_measured_moments_are_those_of_the_pictures():
    pictures = pictures_of(SMALL, 40)
    fresh = ConvEncoder(SMALL, LAYERS, norm="batch", slope=0.1, key=jax.random.key(3))
    encoder = eqx.filter_jit(lambda e, p: e.measured(p))(fresh, pictures)
    convolved, normed, _ = layers_by_hand(encoder, pictures)
    for norm, before, after in zip(encoder.norms, convolved, normed, strict=True):
        np.testing.assert_allclose(norm.mean, before.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(norm.variance, before.var((0, 1, 2)), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(after.mean((0, 1, 2)), 0.0, atol=1e-3)
        np.testing.assert_allclose(after.var((0, 1, 2)), 1.0, atol=2e-2)
    # Only the moments have changed; measuring again changes nothing.
    again = encoder.measured(pictures)
    for index, norm in enumerate(again.norms):
        np.testing.assert_allclose(norm.mean, encoder.norms[index].mean, rtol=1e-4, atol=1e-6)
        assert not np.allclose(fresh.norms[index].mean, norm.mean)
    jax.tree.map(np.testing.assert_array_equal, fresh.convolutions, encoder.convolutions)
    for norm in ("none", "group"):
        other = ConvEncoder(SMALL, LAYERS, norm=norm, key=jax.random.key(3))
        assert other.measured(pictures) is other


@pytest.mark.parametrize("channels, groups", [(16, 4), (6, 2), (5, 1)])
def test_group_norm(channels, groups):
    x = np.random.default_rng(4).normal(3.0, 2.0, (4, 5, channels)).astype(np.float32)
    norm = ChannelNorm(channels, "group")
    scale, offset = np.arange(1.0, channels + 1), np.arange(channels) - 2.0
    changed = [jnp.asarray(v, jnp.float32) for v in (scale, offset)]
    norm = eqx.tree_at(lambda n: (n.scale, n.offset), norm, changed)
    found = (np.asarray(norm(jnp.asarray(x))) - offset) / scale
    for members in np.split(np.arange(channels), groups):
        own = x[..., members]
        np.testing.assert_allclose(found[..., members], (own - own.mean()) / own.std(), rtol=1e-3, atol=1e-4)


def test_no_gradient_reaches_the_moments():
    pictures = pictures_of(SMALL, 3)
    encoder = ConvEncoder(SMALL, LAYERS, norm="batch", slope=0.1, key=jax.random.key(5)).measured(pictures)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda e: jnp.sum(jax.vmap(e)(pictures) ** 2)))(encoder)
    for norm, layer in zip(gradient.norms, gradient.convolutions, strict=True):
        assert not norm.mean.any() and not norm.variance.any()
        assert norm.scale.all() and norm.offset.all() and layer.weight.any()


# ---- fully connected ----------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_mlp_slope(slope):
    network = MLP([3, 6, 5, 2], slope=slope, key=jax.random.key(6))
    x = np.array([1.0, -2.0, 0.5], np.float32)
    hidden, some_below = x, False
    for weight, bias in zip(network.weights[:-1], network.biases[:-1], strict=True):
        hidden = np.asarray(weight) @ hidden + np.asarray(bias)
        some_below |= (hidden < 0).any()
        hidden = np.where(hidden > 0, hidden, slope * hidden)
    assert some_below
    # Nothing is cut behind the last layer.
    expected = np.asarray(network.weights[-1]) @ hidden + np.asarray(network.biases[-1])
    np.testing.assert_allclose(network(jnp.asarray(x)), expected, rtol=1e-5)
