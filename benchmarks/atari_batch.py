"""The Atari learner's work, the same in every process: settings, first networks, pictures to learn from.

NumPy only, as the peers' environment has no more. Each side that is timed is first held against `CHECKED`.
"""

from typing import Any, NamedTuple

import numpy as np

HEIGHT = WIDTH = 84
STACK, ACTIONS, HIDDEN, BATCH, FUSED = 4, 9, 512, 64, 4
DISCOUNT, LEARNING_RATE, ADAM_EPSILON, TARGET_EVERY = 0.99, 1e-4, 1e-4, 2000
TARGET_ENTROPY = 0.89 * float(np.log(ACTIONS))
# Filters, side of the kernel, stride: Mnih et al., Nature 518, 2015.
CONVOLUTIONS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
# Of one update from `networks()` on each of `batches()`: losses and mean of both critics, averaged over the
# updates; then log τ, and the policy's log-probabilities at the first picture.
CHECKED: dict[str, Any] = {
    "critic_loss": 4.919126,
    "actor_loss": -2.216909,
    "q_mean": 0.0225649,
    "log_temperature": -0.000399839,
    "log_probs": [
        *(-2.199197, -2.222523, -2.184143, -2.182315, -2.194135, -2.182015, -2.210557, -2.201381, -2.199492)
    ],
}

Parameters = list[tuple[np.ndarray, np.ndarray]]


class Batches(NamedTuple):
    """(FUSED, BATCH, ...) transitions; observations are pictures, height × width × stack."""

    observation: np.ndarray
    action: np.ndarray
    next_observation: np.ndarray
    terminated: np.ndarray
    reward: np.ndarray


def batches() -> Batches:
    rng = np.random.default_rng(0)
    shape = (FUSED, BATCH)
    pictures = rng.integers(0, 256, (2, *shape, HEIGHT, WIDTH, STACK), np.uint8)
    return Batches(
        observation=pictures[0],
        action=rng.integers(0, ACTIONS, shape, np.int32),
        next_observation=pictures[1],
        terminated=rng.random(shape) < 0.1,
        reward=rng.standard_normal(shape, np.float32),
    )


def networks() -> tuple[Parameters, Parameters, Parameters]:
    """Weight and bias of every layer of policy and critics, uniform in ±1/√(inputs).

    Convolutions are (out, k, k, in); the first layer behind them sees pixels row by row, channels together.
    """
    rng = np.random.default_rng(1)
    policy, first, second = (_network(rng) for _ in range(3))
    return policy, first, second


def check_same(found: dict[str, Any]) -> None:
    """AssertionError unless the numbers of the first updates are those of `CHECKED`."""
    assert found.keys() == CHECKED.keys()
    for name, value in CHECKED.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3 if name == "q_mean" else 1e-4, err_msg=name)


def _network(rng: np.random.Generator) -> Parameters:
    layers, channels, size = [], STACK, HEIGHT
    for filters, kernel, stride in CONVOLUTIONS:
        layers.append(_layer(rng, filters, kernel, kernel, channels))
        channels, size = filters, (size - kernel) // stride + 1
    return [*layers, _layer(rng, HIDDEN, size * size * channels), _layer(rng, ACTIONS, HIDDEN)]


def _layer(rng: np.random.Generator, outputs: int, *inputs: int) -> tuple[np.ndarray, np.ndarray]:
    bound = float(np.prod(inputs)) ** -0.5
    weight = rng.uniform(-bound, bound, (outputs, *inputs)).astype(np.float32)
    return weight, rng.uniform(-bound, bound, outputs).astype(np.float32)
