"""Baselines b_h(s_h) of the second term: what part of the loss l the state at step h already tells."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from .._core import InputError
from ._ridge import left_out_predictions


class Baseline(eqx.Module):
    """Predicts l from where a clip stands at step h; fitted on the batch it is used on.

    A tuple's own loss has no part in its prediction. So E[b_h (∇r(s_h, a_h) − E_{a'~π} ∇r(s_h, a'))] = 0:
    a baseline, good or bad, changes the variance of an estimate and not its mean.
    """

    @abc.abstractmethod
    def fit(
        self, observations: Shaped[Array, "B I H ..."], losses: Float[Array, " B"]
    ) -> Float[Array, "B I H"]:
        """b_h(s_h) for clip i of each tuple, from the losses l of the other tuples."""


class ConstantBaseline(Baseline):
    """One number for all: the mean loss of the other tuples."""

    def fit(
        self, observations: Shaped[Array, "B I H ..."], losses: Float[Array, " B"]
    ) -> Float[Array, "B I H"]:
        """See `Baseline.fit`."""
        count = losses.shape[0]
        others = (jnp.sum(losses) - losses) / max(count - 1, 1)
        return jnp.broadcast_to(others[:, None, None], observations.shape[:3])


class LinearBaseline(Baseline):
    """Ridge regression of l on features of s_h, one per step h, all clips of the other tuples together.

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
        if len(losses) < 2:
            raise InputError("a batch of 1 leaves no other to learn a baseline from; give at least 2")
        features = jax.vmap(jax.vmap(jax.vmap(self.features)))(observations).astype(losses.dtype)
        targets = jnp.broadcast_to(losses[:, None], observations.shape[:2])

        def fit_step(features: Float[Array, "B I f"]) -> Float[Array, "B I"]:
            return left_out_predictions(features, targets, self.ridge, intercept=True)

        return jax.vmap(fit_step, 2, 2)(features)
