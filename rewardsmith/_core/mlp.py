"""The fully connected network that policies, critics and rewards are made of."""

from collections.abc import Sequence

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray


class MLP(eqx.Module):
    """Fully connected ReLU network, unbatched: ``(in,) -> (out,)``.

    Weights and biases start uniform in ±1/√in, the default of PyTorch's linear layer, so that curves can
    be compared with implementations written there.

    Args:
        sizes: of the input, of each hidden layer, of the output.
        slope: of a hidden unit below 0; 0 is ReLU, above that it is leaky.
    """

    weights: list[Float[Array, "out in"]]
    biases: list[Float[Array, " out"]]
    slope: float = eqx.field(static=True)

    def __init__(self, sizes: Sequence[int], *, slope: float = 0.0, key: PRNGKeyArray):
        self.weights, self.biases, self.slope = [], [], slope
        for layer_key, fan_in, fan_out in zip(
            jax.random.split(key, len(sizes) - 1), sizes[:-1], sizes[1:], strict=True
        ):
            weight, bias = uniform_layer((fan_out, fan_in), fan_in, layer_key)
            self.weights.append(weight)
            self.biases.append(bias)

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = rectified(weight @ x + bias, self.slope)
        return self.weights[-1] @ x + self.biases[-1]


def uniform_layer(
    shape: tuple[int, ...], fan_in: int, key: PRNGKeyArray
) -> tuple[Float[Array, "out ..."], Float[Array, " out"]]:
    """A weight of `shape`, the outputs first, and a bias, uniform in ±1/√fan_in."""
    weight_key, bias_key = jax.random.split(key)
    bound = fan_in**-0.5
    weight = jax.random.uniform(weight_key, shape, minval=-bound, maxval=bound)
    return weight, jax.random.uniform(bias_key, shape[:1], minval=-bound, maxval=bound)


def rectified(x: Float[Array, "*n"], slope: float) -> Float[Array, "*n"]:
    """max(x, 0), plus `slope` times what is below 0."""
    return jax.nn.leaky_relu(x, slope) if slope else jax.nn.relu(x)
