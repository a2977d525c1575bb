"""How far two noisy estimates of vectors agree, from independent groups; noise adds no bias."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Groups = Float[np.ndarray, "G n"]


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
    # Each with all groups first, then with each group left out in turn.
    inner, own, other = (
        _products(a, b) for a, b in ((estimates, reference), (estimates, estimates), (reference, reference))
    )
    seen = np.where((own > 0) & (other > 0), 1.0, np.nan)
    cosine = inner * seen / np.sqrt(np.abs(own * other))
    length = seen * np.sqrt(np.abs(own / other))
    noise = np.mean(np.sum(estimates**2, axis=1)) - own[0]
    return Agreement(
        signal=float(np.sqrt(own[0])) if own[0] > 0 else float("nan"),
        deviation=float(np.sqrt(max(noise, 0.0))),
        cosine=float(cosine[0]),
        cosine_error=_jackknife_error(cosine[1:]),
        length=float(length[0]),
    )


def _products(a: Groups, b: Groups) -> Float[np.ndarray, " G+1"]:
    """Mean of ⟨a_g, b_h⟩ over g ≠ h: over all groups, then over all but the first, the second, …"""
    gram = a @ b.T
    np.fill_diagonal(gram, 0.0)
    size, total = len(gram), gram.sum()
    rest = total - gram.sum(axis=0) - gram.sum(axis=1)
    return np.concatenate([[total / (size * (size - 1))], rest / ((size - 1) * (size - 2))])


def _jackknife_error(without: Float[np.ndarray, " G"]) -> float:
    size = len(without)
    return float(np.sqrt((size - 1) / size * np.sum((without - without.mean()) ** 2)))
