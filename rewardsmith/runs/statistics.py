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


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number and the ends of its 95 % interval, which are None below three seeds."""

    value: float
    low: float | None = None
    high: float | None = None


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


def stratified_iqm(
    strata: Sequence[Float[np.ndarray, " _"]], confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Interquartile mean of all runs of several environments, with a stratified bootstrap interval.

    Runs are drawn with replacement within each environment, so that each keeps its share.

    Args:
        strata: final returns of the runs of each environment, on one scale if there are several.
        confidence: of the interval, in (0, 1).
        seed: of the resampling.

    Source: Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice".
    """
    value = interquartile_mean(np.concatenate(strata))
    if min(map(len, strata)) < _LEAST_SEEDS:
        return Interval(value)
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([_resampled(stratum, rng) for stratum in strata], axis=1)
    return _percentiles(value, scipy.stats.trim_mean(drawn, 0.25, axis=1), confidence)


def iqm_curve(
    strata: Sequence[Float[np.ndarray, "_ p"]], confidence: float = 0.95, seed: int = 0
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"] | None, Float[np.ndarray, " p"] | None]:
    """`stratified_iqm` at each point of curves: the value and the ends of its interval.

    Whole runs are drawn, the same ones at every point. No interval where an environment has fewer than three.

    Args:
        strata: the curves of the runs of each environment, at the same p points.
        confidence: of the interval, in (0, 1).
        seed: of the resampling.
    """
    value = scipy.stats.trim_mean(np.concatenate(strata), 0.25, axis=0)
    if min(map(len, strata)) < _LEAST_SEEDS:
        return value, None, None
    rng, found = np.random.default_rng(seed), []
    for _ in range(_RESAMPLES):
        drawn = [stratum[rng.integers(len(stratum), size=len(stratum))] for stratum in strata]
        found.append(scipy.stats.trim_mean(np.concatenate(drawn), 0.25, axis=0))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(found, [tail, 100 - tail], axis=0)
    return value, low, high


def probability_of_improvement(
    pairs: Sequence[tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]],
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """P(X > Y) + ½ P(X = Y): how likely a run of one method beats a run of another.

    The Mann–Whitney statistic over the number of pairs of runs, averaged over environments, with a stratified
    bootstrap interval: within each environment the runs of both methods are drawn with replacement. Where all
    runs of one beat all of the other the interval has no width, however few they are.

    Args:
        pairs: for each environment the returns of the runs of X, and those of Y.
        confidence: of the interval, in (0, 1).
        seed: of the resampling.

    Source: Agarwal et al. (2021), as above.
    """
    value = float(np.mean([_wins(x[None], y[None]) for x, y in pairs]))
    if min(len(part) for pair in pairs for part in pair) < _LEAST_SEEDS:
        return Interval(value)
    rng = np.random.default_rng(seed)
    drawn = [_wins(_resampled(x, rng), _resampled(y, rng)) for x, y in pairs]
    return _percentiles(value, np.mean(drawn, axis=0), confidence)


def _wins(x: Float[np.ndarray, "r n"], y: Float[np.ndarray, "r m"]) -> Float[np.ndarray, " r"]:
    """Share of the pairs of a row's entries in which that of `x` is larger; equal ones count half."""
    # Σ over y of 1[x > y] + ½ 1[x = y], without an array of all pairs.
    ranks = scipy.stats.rankdata(np.concatenate([x, y], axis=1), axis=1)
    n, m = x.shape[1], y.shape[1]
    return (ranks[:, :n].sum(axis=1) - n * (n + 1) / 2) / (n * m)


def _resampled(values: Float[np.ndarray, " n"], rng: np.random.Generator) -> Float[np.ndarray, "r n"]:
    return values[rng.integers(len(values), size=(_RESAMPLES, len(values)))]


def _percentiles(value: float, drawn: Float[np.ndarray, " r"], confidence: float) -> Interval:
    tail = 50 * (1 - confidence)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(value, float(low), float(high))


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
