"""Baselines b_h(s_h) of the second term: what part of the loss l the state at step h already tells."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from .._core import InputError


class Baseline(eqx.Module):
    """Predicts l from where a clip stands at step h; fitted on the batch it is used on."""

    @abc.abstractmethod
    def fit(
        self, observations: Shaped[Array, "B I H ..."], losses: Float[Array, " B"]
    ) -> Float[Array, "B I H"]:
        """b_h(s_h) for clip i of each tuple, from the tuples' losses l."""


class ConstantBaseline(Baseline):
    """One number for all: the mean loss of the *other* tuples of the batch.

    Leaving the tuple itself out keeps the estimate free of the bias 1/B.
    """

    def fit(
        self, observations: Shaped[Array, "B I H ..."], losses: Float[Array, " B"]
    ) -> Float[Array, "B I H"]:
        """See `Baseline.fit`."""
        count = losses.shape[0]
        others = (jnp.sum(losses) - losses) / max(count - 1, 1)
        return jnp.broadcast_to(others[:, None, None], observations.shape[:3])


class LinearBaseline(Baseline):
    """Ridge regression of l on features of s_h, one per step h, all clips of a tuple together.

    With one-hot features of a finite state space it is the conditional mean E[l | s_h] itself. Features are
    standardised over the batch; the intercept is not penalised.

    Args:
        features: one observation to a vector.
        ridge: weight of the penalty, relative to the number of clips in the batch.
    """

    features: Callable[[Array], Float[Array, " f"]] = eqx.field(default=jnp.ravel, static=True)
    ridge: float = eqx.field(default=1e-2, static=True)

    def __check_init__(self) -> None:
        if not self.ridge > 0.0:
            raise InputError(f"ridge is {self.ridge}; give a positive number, such as 0.01")

    def fit(
        self, observations: Shaped[Array, "B I H ..."], losses: Float[Array, " B"]
    ) -> Float[Array, "B I H"]:
        """See `Baseline.fit`."""
        batch, clips, horizon = observations.shape[:3]
        features = jax.vmap(jax.vmap(jax.vmap(self.features)))(observations)
        by_step = features.reshape(batch * clips, horizon, -1).swapaxes(0, 1)
        fitted = jax.vmap(_ridge_fit, (0, None, None))(by_step, jnp.repeat(losses, clips), self.ridge)
        return fitted.swapaxes(0, 1).reshape(batch, clips, horizon)


def _ridge_fit(
    features: Float[Array, "n f"], targets: Float[Array, " n"], ridge: float
) -> Float[Array, " n"]:
    deviation = jnp.std(features, axis=0)
    standard = (features - jnp.mean(features, axis=0)) / jnp.where(deviation > 1e-6, deviation, 1.0)
    centred = targets - jnp.mean(targets)
    count, size = features.shape
    gram = standard.T @ standard + ridge * count * jnp.eye(size, dtype=features.dtype)
    return jnp.mean(targets) + standard @ jnp.linalg.solve(gram, standard.T @ centred)
