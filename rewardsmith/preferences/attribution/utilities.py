"""Quick trainings for data Shapley: linear rewards on fixed features of the clips."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._core import InputError
from ..loss import bradley_terry

Measure = Literal["loss", "accuracy"]


class LogisticFit:
    """v(S) of a linear Bradley–Terry reward θ·f that is fitted to S and judged on held-out comparisons.

        θ(S) = argmin  Σ_{i ∈ S} l(θ·f_i, y_i) + (ρ/2) ‖θ‖²

    f_i is the first clip's features less the second's, such as sums over steps of what the last hidden layer
    says. The sum, not the mean, is regularised: with nothing in S θ is 0, and every example pulls alike.
    Newton's method, from where the last fit stood.

    Args:
        features, label: (n, d) and (n,) of the examples.
        held_out_features, held_out_label: (m, d) and (m,): what v is measured on.
        ridge: ρ > 0, in nats per squared unit of θ.
        measure: v is "loss", minus the mean held-out loss in nats, or "accuracy", the share foreseen.
        tolerance: of the gradient's norm, in nats per unit of θ.

    Raises:
        InputError: shapes that do not go together, or ρ that is not positive.
    """

    def __init__(
        self,
        features: np.ndarray,
        label: np.ndarray,
        held_out_features: np.ndarray,
        held_out_label: np.ndarray,
        *,
        ridge: float = 1.0,
        measure: str = "loss",
        tolerance: float = 1e-4,
    ):
        _check(features, label, held_out_features, held_out_label, ridge, measure)
        self.count, self._size = len(label), features.shape[1]
        own = (jnp.asarray(array, float) for array in (features, label, held_out_features, held_out_label))
        self._fit = jax.jit(partial(_logistic, *own, ridge, measure, tolerance))

    def __call__(self, chosen: np.ndarray, start: Any, /) -> tuple[float, Any]:
        """See `Utility`."""
        value, theta = self._fit(chosen.astype(float), jnp.zeros(self._size) if start is None else start)
        return float(value), theta


class RidgeFit:
    """The same by least squares on ±1 in place of y: one linear system a fit, and nothing to converge.

        θ(S) = argmin  ½ Σ_{i ∈ S} (θ·f_i − (2 y_i − 1))² + (ρ/2) ‖θ‖²

    v is minus half the mean held-out squared error, or the accuracy. Arguments and errors are those of
    `LogisticFit`.
    """

    def __init__(
        self,
        features: np.ndarray,
        label: np.ndarray,
        held_out_features: np.ndarray,
        held_out_label: np.ndarray,
        *,
        ridge: float = 1.0,
        measure: str = "loss",
    ):
        _check(features, label, held_out_features, held_out_label, ridge, measure)
        self.count = len(label)
        self._features, self._target = np.asarray(features, float), 2.0 * np.asarray(label, float) - 1.0
        self._held_out = np.asarray(held_out_features, float), 2.0 * np.asarray(held_out_label, float) - 1.0
        self._ridge, self._measure = ridge, measure

    def __call__(self, chosen: np.ndarray, start: Any, /) -> tuple[float, Any]:
        """See `Utility`."""
        del start
        own, target = self._features[chosen], self._target[chosen]
        theta = np.linalg.solve(own.T @ own + self._ridge * np.eye(own.shape[1]), own.T @ target)
        features, wanted = self._held_out
        if self._measure == "loss":
            return -0.5 * float(np.mean((features @ theta - wanted) ** 2)), None
        return float(np.mean(_foreseen(features @ theta, wanted, np))), None


def _logistic(
    features: Float[Array, "n d"],
    label: Float[Array, " n"],
    held_out_features: Float[Array, "m d"],
    held_out_label: Float[Array, " m"],
    ridge: float,
    measure: Measure,
    tolerance: float,
    weight: Float[Array, " n"],
    start: Float[Array, " d"],
) -> tuple[Float[Array, ""], Float[Array, " d"]]:
    def objective(theta: Float[Array, " d"]) -> Float[Array, ""]:
        scores = features @ theta
        losses = jax.vmap(bradley_terry)(scores, jnp.zeros_like(scores), label)
        return jnp.sum(weight * losses) + 0.5 * ridge * theta @ theta

    def going_on(state: tuple[Array, Array, Array]) -> Array:
        _, slope, steps = state
        return (jnp.linalg.norm(slope) > tolerance) & (steps < 50)

    def newton(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        theta, slope, steps = state
        chance = jax.nn.sigmoid(features @ theta)
        curvature = (features.T * (weight * chance * (1.0 - chance))) @ features + ridge * jnp.eye(len(theta))
        step = jnp.linalg.solve(curvature, slope)
        # Halved until it descends: far off, a whole step overshoots.
        sizes = 0.5 ** jnp.arange(8)
        tried = jax.vmap(lambda size: objective(theta - size * step))(sizes)
        theta = theta - sizes[jnp.argmin(tried)] * step
        return theta, jax.grad(objective)(theta), steps + 1

    first = (start, jax.grad(objective)(start), jnp.zeros((), jnp.int32))
    theta = jax.lax.while_loop(going_on, newton, first)[0]
    scores = held_out_features @ theta
    if measure == "loss":
        losses = jax.vmap(bradley_terry)(scores, jnp.zeros_like(scores), held_out_label)
        return -jnp.mean(losses), theta
    return jnp.mean(_foreseen(scores, 2.0 * held_out_label - 1.0, jnp)), theta


def _foreseen(scores: Any, side: Any, numpy: Any) -> Any:
    """1 where a score has the answer's sign, ½ where it, or the answer, has none."""
    return 0.5 * (1.0 + numpy.sign(scores) * numpy.sign(side))


def _check(
    features: np.ndarray,
    label: np.ndarray,
    held_out_features: np.ndarray,
    held_out_label: np.ndarray,
    ridge: float,
    measure: str,
) -> None:
    shapes = [np.shape(array) for array in (features, label, held_out_features, held_out_label)]
    fits = len(shapes[0]) == len(shapes[2]) == 2 and shapes[0][1] == shapes[2][1]
    if not fits or shapes[1] != shapes[0][:1] or shapes[3] != shapes[2][:1] or 0 in shapes[0] + shapes[2]:
        raise InputError(f"features and labels have shapes {shapes}: give (n, d), (n,), (m, d) and (m,)")
    if not 0.0 < ridge < float("inf"):
        raise InputError(f"ridge is {ridge}; give a positive number, such as 1")
    if measure not in ("loss", "accuracy"):
        raise InputError(f'measure is "{measure}"; give "loss" or "accuracy"')
