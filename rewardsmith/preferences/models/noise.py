"""Answers that say more, or something else, than what was preferred: three remedies that compose."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._core import InputError


class Noise(eqx.Module):
    """What a preference model does about wrong answers; by default nothing.

    Args:
        smoothing: s; a label y is read as (1 − s) y + s/2. Keeps D bounded where answers are all alike.
        error: ε; P becomes (1 − ε) P + ε/2: so often an answer is given at random. An answer that is far off
            then pulls by less the farther off it is, as Christiano et al. (NeurIPS 2017) assume with 10 %.
        margin: w; D is lowered by w times the members' mean of D, held still. What the ensemble is sure of
            already goes on pulling, and an answer against it pulls by less than one that D itself would have
            it. With all members alike the loss is that of (1 − w) D: rewards grow by 1/(1 − w), and no more.
            Source: Wang et al., *Secrets of RLHF II*, 2024, arXiv 2401.06080; there the ensemble is trained
            beforehand, here it is the one that learns.

    Raises:
        InputError: a number outside [0, 1).
    """

    smoothing: float = eqx.field(default=0.0, static=True)
    error: float = eqx.field(default=0.0, static=True)
    margin: float = eqx.field(default=0.0, static=True)

    def __check_init__(self) -> None:
        for name in ("smoothing", "error", "margin"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                raise InputError(f"{name} is {value}; give a number from 0 up to, but not, 1, such as 0.1")

    def softened(self, label: Float[Array, ""]) -> Float[Array, ""]:
        """(1 − s) y + s/2.

        Args:
            label: y in [0, 1].
        """
        return (1.0 - self.smoothing) * label + 0.5 * self.smoothing if self.smoothing else label

    def mixed(self, log_probability: Float[Array, "*m"]) -> Float[Array, "*m"]:
        """log((1 − ε) P + ε/2) from log P, in nats.

        Args:
            log_probability: log P, nats.
        """
        if not self.error:
            return log_probability
        return jnp.logaddexp(log_probability + jnp.log1p(-self.error), jnp.log(0.5 * self.error))

    def shifted(self, score: Float[Array, "M *k"]) -> Float[Array, "M *k"]:
        """D less its margin, M members.

        Args:
            score: D, (M, ...).
        """
        if not self.margin:
            return score
        return score - self.margin * jax.lax.stop_gradient(jnp.mean(score, axis=0))
