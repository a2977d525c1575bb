"""How far two noisy estimates of vectors agree, from independent groups; noise adds no bias."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Groups = Float[np.ndarray, "G n"]
Gram = Float[np.ndarray, "G G"]


@dataclass(frozen=True)
class Agreement:
    """What G estimates e_g say of E e, and of its angle to the mean of other estimates r_g. NaN: not told.

    Attributes:
        signal: ‖E e‖, from products of different groups: ‖mean‖² would count the noise.
        deviation: of one group's estimate, √E‖e_g − E e‖².
        cosine: of E e to E r, with its jackknife standard error.
        length: ‖E e‖ / ‖E r‖.
    """

    signal: float
    deviation: float
    cosine: float
    cosine_error: float
    length: float

    def groups_for(self, cosine: float) -> float:
        """Groups whose mean has about that cosine to its expectation; infinite if no signal is seen."""
        if not self.signal > 0:
            return np.inf
        return self.deviation**2 / self.signal**2 * cosine**2 / (1 - cosine**2)


def agreement(estimates: Groups, reference: Groups) -> Agreement:
    """Hold estimates against a reference: row g of both from the same data, other rows from other data.

    ⟨E e, E r⟩ is the mean of ⟨e_g, r_h⟩ over g ≠ h, unbiased however noisy they are; likewise both norms.

    Args:
        estimates: one row a group.
        reference: the same; may be `estimates`.
    """
    grams = [a @ b.T for a, b in ((estimates, reference), (estimates, estimates), (reference, reference))]
    squared = _off_diagonal(grams[1])
    noise = np.trace(grams[1]) / len(estimates) - squared
    cosine, error = _jackknife(_cosine, grams)
    length, _ = _jackknife(_length, grams)
    return Agreement(
        signal=float(np.sqrt(squared)) if squared > 0 else float("nan"),
        deviation=float(np.sqrt(max(noise, 0.0))),
        cosine=cosine,
        cosine_error=error,
        length=length,
    )


def _off_diagonal(gram: Gram) -> float:
    size = len(gram)
    return float((gram.sum() - np.trace(gram)) / (size * (size - 1)))


def _cosine(grams: list[Gram]) -> float:
    product, left, right = map(_off_diagonal, grams)
    return product / np.sqrt(left * right) if min(left, right) > 0 else float("nan")


def _length(grams: list[Gram]) -> float:
    _, left, right = map(_off_diagonal, grams)
    return np.sqrt(left / right) if min(left, right) > 0 else float("nan")


def _jackknife(statistic: Callable[[list[Gram]], float], grams: list[Gram]) -> tuple[float, float]:
    """The statistic and its standard error, from leaving out each group in turn."""
    size = len(grams[0])
    without = []
    for group in range(size):
        rest = np.delete(np.arange(size), group)
        without.append(statistic([gram[np.ix_(rest, rest)] for gram in grams]))
    spread = np.asarray(without)
    error = np.sqrt((size - 1) / size * np.sum((spread - spread.mean()) ** 2))
    return float(statistic(grams)), float(error)
