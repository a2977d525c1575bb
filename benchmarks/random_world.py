"""The random world of the exact benchmarks, the same in every process, and what M-SoBiRL does on it.

NumPy only, as the peers' environment has no more. r(s,a) = c(s,a) · xᵀMx and f = ½‖x‖² + ½‖π‖², so that all
derivatives are known by hand; each side that is timed is first held against `iterate`.
"""

from dataclasses import dataclass

import numpy as np

ACTIONS, FEATURES, DISCOUNT, TEMPERATURE = 5, 100, 0.5, 1.0
SWEEPS, ADJOINT_STEP_SIZE = 10, 0.5
CHECKED = 20  # iterations


@dataclass(frozen=True)
class RandomWorld:
    """P (S, A, S), c (S, A), M (n, n), where x starts, and M-SoBiRL's step size for x."""

    transition: np.ndarray
    coefficients: np.ndarray
    matrix: np.ndarray
    start: np.ndarray
    step_size: float


def make(states: int) -> RandomWorld:
    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.ones(states), (states, ACTIONS))
    c = rng.random((states, ACTIONS)) * rng.random((states, 1))
    M = rng.standard_normal((FEATURES, FEATURES))
    x = 0.1 * rng.standard_normal(FEATURES)
    # ∇f grows with S; 8e-3 is of the published runs, at S = 10.
    return RandomWorld(P, c, M, x, 8e-3 * min(1.0, 10 / states))


def upper_loss(x: np.ndarray, policy: np.ndarray) -> float:
    return float(0.5 * np.sum(x**2) + 0.5 * np.sum(policy**2))


def iterate(world: RandomWorld, steps: int) -> tuple[np.ndarray, float]:
    """x after so many iterations, and f at that x and the policy held for it; derivatives written out."""
    P, c, M, x = world.transition, world.coefficients, world.matrix, world.start
    values = w = np.zeros(len(P))
    policy = _softmax(c * (x @ M @ x))
    for _ in range(steps):
        weighed = policy * policy  # π g, where g = ∂f/∂π = π.
        A = (np.eye(len(P)) - DISCOUNT * np.einsum("sa,sat->st", policy, P)).T
        b = weighed.sum(axis=1) - DISCOUNT * np.einsum("sat,sa->t", P, weighed)
        w = w - ADJOINT_STEP_SIZE * A.T @ (A @ w - b)
        held = _softmax(c * (x @ M @ x) + DISCOUNT * P @ values)
        # The gradient of r is c(s,a) times this.
        slope = (M + M.T) @ x
        gradient = x + np.sum((weighed - held * w[:, None]) * c) / TEMPERATURE * slope
        x = x - world.step_size * gradient
        reward = c * (x @ M @ x)
        for _ in range(SWEEPS):
            values = TEMPERATURE * np.log(np.exp((reward + DISCOUNT * P @ values) / TEMPERATURE).sum(axis=1))
        policy = _softmax(reward + DISCOUNT * P @ values)
    return x, upper_loss(x, policy)


def check_same(world: RandomWorld, x: np.ndarray, loss: float) -> None:
    """AssertionError unless x and f are those of the iterates after `CHECKED` iterations, to 1e-8."""
    wanted, wanted_loss = iterate(world, CHECKED)
    np.testing.assert_allclose(x, wanted, rtol=0, atol=1e-8)
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-8)


def _softmax(q: np.ndarray) -> np.ndarray:
    exponentials = np.exp((q - q.max(axis=1, keepdims=True)) / TEMPERATURE)
    return exponentials / exponentials.sum(axis=1, keepdims=True)
