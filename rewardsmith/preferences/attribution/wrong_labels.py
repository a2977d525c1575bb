"""Scores by which wrong labels show, and how well they do. NumPy or JAX arrays in, arrays out."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._core import InputError


def margin(score: Float[Array, "*n"], label: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """(2y − 1) D: how clearly the reward agrees with the answer; below 0 it does not. Of a tie: −|D|.

    Args:
        score: D, the first clip's return less the second's.
        label: y in [0, 1], the probability that the first is preferred.
    """
    side = 2.0 * label - 1.0
    return jnp.where(side == 0.0, -jnp.abs(score), side * score)


def leave_one_out_score(
    score: Float[Array, "*n"],
    slope: Float[Array, "*n"],
    weight: Float[Array, "*n"],
    leverage: Float[Array, "*n"],
) -> Float[Array, "*n"]:
    """D as it would be had the example been left out, to one step of Newton's method; no model is fitted.

        D_{−i} ≈ D_i + h_i l'_i / (1 − w_i h_i),      h_i = ∇D_iᵀ (H + λI)⁻¹ ∇D_i / n

    Its loss is the approximate leave-one-out loss. First order in h it is `self_influence`; the denominator
    is what the curvature loses with the example.

    Source: Pregibon, *Annals of Statistics* 9, 1981; Rad and Maleki, *JRSS B* 82, 2020, arXiv 1801.10243.

    Args:
        score: D.
        slope: l' = ∂l/∂D.
        weight: w ≥ 0, the loss's curvature in D, as the matrix H has it.
        leverage: h, `self_influence` of the score itself, divided by n.
    """
    return score + leverage * slope / jnp.maximum(1.0 - weight * leverage, 0.05)


def recall_at(suspicion: np.ndarray, wrong: np.ndarray, share: float = 0.1) -> float:
    """Of the wrong labels, the share among the most suspicious `share` of all examples. At random: `share`.

    Args:
        suspicion: (n,), larger is more suspicious.
        wrong: (n,) bool.
        share: of the examples that are inspected, in (0, 1].

    Raises:
        InputError: no wrong label, or a share out of range.
    """
    if not 0.0 < share <= 1.0:
        raise InputError(f"share is {share}; give a number above 0, up to 1, such as 0.1")
    if not np.any(wrong):
        raise InputError("no label is wrong: there is nothing to find")
    inspected = np.argsort(-np.asarray(suspicion), kind="stable")[: round(share * len(wrong))]
    return float(np.asarray(wrong)[inspected].sum() / np.sum(wrong))
