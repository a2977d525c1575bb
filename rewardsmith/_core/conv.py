"""Convolutions, and the encoder that makes a vector of a picture."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped, UInt8

from .errors import InputError
from .image import ImageSpec
from .mlp import rectified, uniform_layer

Norm = Literal["none", "group", "batch"]
_BRIGHTEST = 255.0


class Layer(NamedTuple):
    """One convolution: filters, side of the kernel, stride; pixels."""

    filters: int
    kernel: int
    stride: int


NATURE = (Layer(32, 8, 4), Layer(64, 4, 2), Layer(64, 3, 1))
"""Mnih et al., *Nature* 518, 2015; 512 hidden units follow there."""

REWARD = (Layer(16, 7, 3), Layer(16, 5, 2), Layer(16, 3, 1), Layer(16, 3, 1))
"""Christiano et al., NeurIPS 2017, for Atari; 64 hidden units follow there."""


class Conv(eqx.Module):
    """Convolution without padding, unbatched: (H, W, in) -> (h, w, out)."""

    weight: Float[Array, "out k k in"]
    bias: Float[Array, " out"]
    stride: int = eqx.field(static=True)

    def __init__(self, channels: int, layer: Layer, *, key: PRNGKeyArray):
        filters, kernel, self.stride = layer
        shape = (filters, kernel, kernel, channels)
        self.weight, self.bias = uniform_layer(shape, kernel * kernel * channels, key)

    def __call__(self, x: Shaped[Array, "H W in"]) -> Float[Array, "h w out"]:
        # XLA's own convolutions are many times slower than this on a processor, and faster elsewhere.
        by_patches, by_convolution = (
            partial(which, stride=self.stride) for which in (convolve_by_patches, convolve_natively)
        )
        y = jax.lax.platform_dependent(x, self.weight, cpu=by_patches, default=by_convolution)
        return y + self.bias


def convolve_by_patches(
    x: Shaped[Array, "H W in"], weight: Float[Array, "out k k in"], *, stride: int
) -> Float[Array, "h w out"]:
    """The convolution as one matrix product with all windows of x."""
    out, kernel = weight.shape[:2]
    # Where strides tile the kernel, that many columns lie together and count as one: fewer, longer copies.
    step = stride if kernel % stride == 0 else 1
    columns = x.shape[1] // step
    x = x[:, : columns * step].reshape(x.shape[0], columns, -1)
    found = patches(x, (kernel, kernel // step), (stride, stride // step))
    # Outputs first: its gradient is then one fast matrix product.
    return jnp.einsum("hwk,ok->hwo", found.astype(weight.dtype), weight.reshape(out, -1))


def convolve_natively(
    x: Shaped[Array, "H W in"], weight: Float[Array, "out k k in"], *, stride: int
) -> Float[Array, "h w out"]:
    """The convolution as XLA has it."""
    return jax.lax.conv_general_dilated(
        x[None].astype(weight.dtype),
        weight,
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "OHWI", "NHWC"),
    )[0]


def patches(
    x: Shaped[Array, "H W c"], kernel: tuple[int, int], stride: tuple[int, int]
) -> Shaped[Array, "h w k"]:
    """Every window of `kernel` rows and columns, `stride` apart, flat in the order row, column, channel."""
    (rows, columns), (down, along) = kernel, stride
    height, width = (x.shape[0] - rows) // down + 1, (x.shape[1] - columns) // along + 1
    return jnp.concatenate(
        [
            x[i : i + down * (height - 1) + 1 : down, j : j + along * (width - 1) + 1 : along]
            for i in range(rows)
            for j in range(columns)
        ],
        axis=-1,
    )


class ChannelNorm(eqx.Module):
    """Scale and offset of each channel, after its mean and variance were taken out.

    "group": over the pixels of one picture, groups of channels together (Wu and He, ECCV 2018). "batch":
    those that `ConvEncoder.measured` found last, constants to any gradient: so what becomes of a picture
    never depends on the others of a batch.
    """

    scale: Float[Array, " c"]
    offset: Float[Array, " c"]
    mean: Float[Array, " c"]
    variance: Float[Array, " c"]
    groups: int | None = eqx.field(static=True)

    def __init__(self, channels: int, kind: Norm):
        self.scale, self.offset = jnp.ones(channels), jnp.zeros(channels)
        self.mean, self.variance = jnp.zeros(channels), jnp.ones(channels)
        self.groups = next(n for n in (4, 2, 1) if channels % n == 0) if kind == "group" else None

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        mean, variance = jax.lax.stop_gradient((self.mean, self.variance))
        if self.groups is not None:
            grouped = x.reshape(*x.shape[:2], self.groups, -1)
            size = grouped.shape[3]
            mean = jnp.repeat(jnp.mean(grouped, (0, 1, 3)), size)
            variance = jnp.repeat(jnp.var(grouped, (0, 1, 3)), size)
        return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * self.scale + self.offset


class ConvEncoder(eqx.Module):
    """Convolutions on one picture, then all of it as one vector.

    Args:
        image: what pictures look like; others are refused.
        layers: the convolutions.
        norm: behind each convolution.
        slope: of a unit below 0; 0 is ReLU.
    """

    convolutions: list[Conv]
    norms: list[ChannelNorm]
    image: ImageSpec = eqx.field(static=True)
    slope: float = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __init__(
        self,
        image: ImageSpec,
        layers: Sequence[Layer] = NATURE,
        *,
        norm: Norm = "none",
        slope: float = 0.0,
        key: PRNGKeyArray,
    ):
        self.image, self.slope = image, slope
        height, width, channels = image.shape
        self.convolutions, self.norms = [], []
        for layer, layer_key in zip(layers, jax.random.split(key, len(layers)), strict=True):
            if min(height, width) < layer.kernel:
                raise InputError(
                    f"pictures of {image.height} × {image.width} pixels are too small for the convolutions: "
                    "give larger ones"
                )
            self.convolutions.append(Conv(channels, layer, key=layer_key))
            channels = layer.filters
            if norm != "none":
                self.norms.append(ChannelNorm(channels, norm))
            height, width = ((size - layer.kernel) // layer.stride + 1 for size in (height, width))
        self.size = height * width * channels

    def __call__(self, picture: UInt8[Array, "H W C"]) -> Float[Array, " {self.size}"]:
        """The picture as a vector; brightness 255 counts as 1."""
        self.image.check(picture.shape)
        x = picture
        for index in range(len(self.convolutions)):
            x = rectified(self._normed(index, self._convolved(index, x)), self.slope)
        return jnp.ravel(x)

    def measured(self, pictures: UInt8[Array, "n H W C"]) -> "ConvEncoder":
        """The same, its "batch" norms set to the mean and variance that these pictures have at each layer."""
        if not self.norms or self.norms[0].groups is not None:
            return self
        encoder, x = self, pictures
        for index in range(len(self.convolutions)):
            x = jax.vmap(lambda one, index=index: self._convolved(index, one))(x)
            moments = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
            encoder = eqx.tree_at(
                lambda e, index=index: (e.norms[index].mean, e.norms[index].variance), encoder, moments
            )
            x = jax.vmap(lambda one, e=encoder, index=index: rectified(e._normed(index, one), e.slope))(x)
        return encoder

    def _convolved(self, index: int, x: Array) -> Array:
        layer = self.convolutions[index]
        if index == 0:
            layer = eqx.tree_at(lambda conv: conv.weight, layer, layer.weight / _BRIGHTEST)
        return layer(x)

    def _normed(self, index: int, x: Array) -> Array:
        return self.norms[index](x) if self.norms else x


class FlatEncoder(eqx.Module):
    """Observations that are vectors already, as they are."""

    size: int = eqx.field(static=True)

    def __call__(self, observation: Float[Array, " o"]) -> Float[Array, " o"]:
        """The observation."""
        return observation


Encoder = FlatEncoder | ConvEncoder


def make_encoder(
    observation: int | ImageSpec,
    layers: Sequence[Layer],
    *,
    norm: Norm = "none",
    slope: float = 0.0,
    key: PRNGKeyArray,
) -> tuple[Encoder, PRNGKeyArray]:
    """An encoder for vectors of a size or for pictures, and a key for what comes behind it."""
    if isinstance(observation, int):
        return FlatEncoder(observation), key
    own, rest = jax.random.split(key)
    return ConvEncoder(observation, layers, norm=norm, slope=slope, key=own), rest
