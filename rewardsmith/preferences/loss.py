"""Losses of preference models: how well predicted rewards explain an answer."""

import jax
from jaxtyping import Array, Float


def bradley_terry(
    first: Float[Array, "*m"], second: Float[Array, "*m"], label: Float[Array, ""]
) -> Float[Array, "*m"]:
    """−y log σ(D) − (1−y) log σ(−D), with D = `first` − `second` and y = `label` (nats).

    Args:
        first: predicted sum of rewards over the first clip (of each of any number of models).
        second: the same of the second clip.
        label: y in [0, 1], the probability that the first is preferred; a tie is ½.

    Source: Bradley and Terry, *Biometrika* 39, 1952; for clips Christiano et al., NeurIPS 2017.
    """
    difference = first - second
    return label * jax.nn.softplus(-difference) + (1.0 - label) * jax.nn.softplus(difference)
