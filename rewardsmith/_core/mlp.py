"""The fully connected network that policies, critics and rewards are made of."""

from collections.abc import Sequence

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray


class MLP(eqx.Module):
    """Fully connected ReLU network, unbatched: ``(in,) -> (out,)``.

    Weights and biases start uniform in ±1/√in, the default of PyTorch's linear layer, so that curves can
    be compared with implementations written there.
    """

    weights: list[Float[Array, "out in"]]
    biases: list[Float[Array, " out"]]

    def __init__(self, sizes: Sequence[int], *, key: PRNGKeyArray):
        self.weights, self.biases = [], []
        for layer_key, fan_in, fan_out in zip(
            jax.random.split(key, len(sizes) - 1), sizes[:-1], sizes[1:], strict=True
        ):
            weight_key, bias_key = jax.random.split(layer_key)
            bound = fan_in**-0.5
            self.weights.append(
                jax.random.uniform(weight_key, (fan_out, fan_in), minval=-bound, maxval=bound)
            )
            self.biases.append(jax.random.uniform(bias_key, (fan_out,), minval=-bound, maxval=bound))

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = jax.nn.relu(weight @ x + bias)
        return self.weights[-1] @ x + self.biases[-1]
