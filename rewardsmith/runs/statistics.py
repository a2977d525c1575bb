"""Means and intervals over seeds, for few seeds and for curves that stop at different steps."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.stats
from jaxtyping import Float

_LEAST_SEEDS = 3
_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class SeedSummary:
    """Curves of several seeds as one.

    Attributes:
        steps: (p,) points where every seed has a value, increasing; empty where the seeds do not overlap.
        mean: (p,) mean over seeds.
        low, high: (p,) ends of the 95 % interval of the mean; None below three seeds.
    """

    steps: Float[np.ndarray, " p"]
    mean: Float[np.ndarray, " p"]
    low: Float[np.ndarray, " p"] | None
    high: Float[np.ndarray, " p"] | None


def mean_interval(
    curves: Float[np.ndarray, "seeds p"], confidence: float = 0.95, seed: int = 0
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"] | None, Float[np.ndarray, " p"] | None]:
    """Mean over seeds and the ends of its bootstrap percentile interval, point by point.

    Whole seeds are drawn with replacement, the same ones at every point. Two seeds or one say nothing of
    their own spread, so there is no interval then.

    Args:
        curves: one row a seed.
        confidence: of the interval, in (0, 1).
        seed: of the resampling.
    """
    mean = curves.mean(axis=0)
    if len(curves) < _LEAST_SEEDS or curves.shape[1] == 0:
        return mean, None, None
    interval = scipy.stats.bootstrap(
        (curves,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=100,
        axis=0,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return mean, np.asarray(interval.low), np.asarray(interval.high)


def interquartile_mean(values: Float[np.ndarray, " n"]) -> float:
    """Mean of the middle half: steadier than the mean, thriftier than the median.

    Source: Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice".
    """
    return float(scipy.stats.trim_mean(values, 0.25))


def summarise(curves: Sequence[tuple[np.ndarray, np.ndarray]], seed: int = 0) -> SeedSummary:
    """Mean and 95 % interval of curves measured at different steps.

    Each curve is interpolated linearly onto the union of all steps, cut to the stretch every curve covers:
    beyond the end of one the mean would jump for no other reason than its absence.

    Args:
        curves: one (steps, values) pair a seed, of equal length; non-finite values are left out, and of
            several values at one step the last one counts.
        seed: of the bootstrap.
    """
    cleaned = [curve for curve in (clean(*curve) for curve in curves) if len(curve[0])]
    if not cleaned:
        return SeedSummary(np.empty(0), np.empty(0), None, None)
    union = np.unique(np.concatenate([steps for steps, _ in cleaned]))
    first = max(steps[0] for steps, _ in cleaned)
    last = min(steps[-1] for steps, _ in cleaned)
    common = union[(union >= first) & (union <= last)]
    aligned = np.stack([np.interp(common, steps, values) for steps, values in cleaned])
    return SeedSummary(common, *mean_interval(aligned, seed=seed))


def clean(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Increasing steps and finite values, float64; of several values at one step the last one."""
    finite = np.isfinite(steps) & np.isfinite(values)
    steps, values = steps[finite].astype(np.float64), values[finite].astype(np.float64)
    # `unique` gives first occurrences, hence the reversal.
    unique, index = np.unique(steps[::-1], return_index=True)
    return unique, values[::-1][index]
