"""Baselines b_h(s_h) of the second term: what part of the loss l the state at step h already tells."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from ..._core import InputError
from ._ridge import predictions_at_steps
from .features import state_vector


class Baseline(eqx.Module):
    """Predicts l from where a clip stands at step h; fitted on the batch it is used on.

    A tuple's own loss has no part in its prediction. So E[b_h (∇r(s_h, a_h) − E_{a'~π} ∇r(s_h, a'))] = 0:
    a baseline, good or bad, changes the variance of an estimate and not its mean.
    """

    @abc.abstractmethod
    def fit(
        self, observations: Shaped[Array, "B I H ..."], losses: Float[Array, "B I H"]
    ) -> Float[Array, "B I H"]:
        """b_h(s_h) for clip i of each tuple, from the other tuples' losses to go from step h.

        Args:
            observations: s_h of every clip.
            losses: (B, I, H), what of l is still to come.
        """


class ConstantBaseline(Baseline):
    """One number for each step h: the mean loss of the other tuples."""

    def fit(
        self, observations: Shaped[Array, "B I H ..."], losses: Float[Array, "B I H"]
    ) -> Float[Array, "B I H"]:
        """See `Baseline.fit`."""
        del observations
        count = losses.shape[0]
        return (jnp.sum(losses, axis=0) - losses) / max(count - 1, 1)


class LinearBaseline(Baseline):
    """Ridge regression of l on features of s_h, one per step h or one for all, all clips of the other tuples
    together.

    With one-hot features of a finite state space it is the conditional mean E[l | s_h] itself. Features are
    standardised over the batch; the intercept is not penalised.

    Args:
        features: one observation to a vector.
        ridge: weight of the penalty, relative to the number of rows of a regression.
        shared: one regression for all steps h, intercept too, with H times the rows: where there are few
            clips and l is about the same at every step.
        discount: γ_L with `shared`, for a loss that is a discounted sum of what comes, such as `ReturnLoss`:
            l_h / γ_L^h is fitted, each step weighing γ_L^h, so that one value of a state serves all steps.

    Raises:
        InputError: a discount outside (0, 1], or 1 with `shared`; a ridge that is not positive; a batch of 1.
    """

    features: Callable[[Array], Float[Array, " f"]] = eqx.field(default=state_vector, static=True)
    ridge: float = eqx.field(default=1e-2, static=True)
    shared: bool = eqx.field(default=False, static=True)
    discount: float = eqx.field(default=1.0, static=True)

    def __check_init__(self) -> None:
        if not 0.0 < self.discount <= 1.0 or (self.discount < 1.0 and not self.shared):
            raise InputError(f"discount is {self.discount}; give 0 < discount <= 1, below 1 with shared=True")
        if not self.ridge > 0.0:
            raise InputError(f"ridge is {self.ridge}; give a positive number, such as 0.01")

    def fit(
        self, observations: Shaped[Array, "B I H ..."], losses: Float[Array, "B I H"]
    ) -> Float[Array, "B I H"]:
        """See `Baseline.fit`."""
        if len(losses) < 2:
            raise InputError("a batch of 1 leaves no other to learn a baseline from; give at least 2")
        features = jax.vmap(jax.vmap(jax.vmap(self.features)))(observations).astype(losses.dtype)
        if self.discount == 1.0:
            return predictions_at_steps(features, losses, self.ridge, shared=self.shared, intercept=True)
        root = self.discount ** (0.5 * jnp.arange(losses.shape[2], dtype=losses.dtype))
        constant = jnp.ones((*losses.shape, 1), losses.dtype)
        rows = jnp.concatenate([features, constant], axis=3) * root[:, None]
        return root * predictions_at_steps(rows, losses / root, self.ridge, shared=True, intercept=False)
