"""What an audit says of numbers: calibration, agreement, trends. Pure; every interval is one of 95 %."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float

from ..statistics import Interval

_BINS, _RESAMPLES, _LEAST = 10, 2000, 3
_LEAST_IN_TREND = 4


@dataclass(frozen=True)
class Calibration:
    """Whether a reward is as sure as it is right, on pairs of clips.

    A pair with probability p of the first clip is one of confidence max(p, 1 − p), and right where the answer
    is the clip that p is for.

    Attributes:
        confidence: (b,) mean confidence of each bin that holds pairs, of ten bins of equal width in [½, 1].
        accuracy: (b,) share of them that are right.
        low, high: (b,) ends of its Wilson interval.
        count: (b,) pairs.
        error: expected calibration error, Σ_b n_b/n |accuracy − confidence|.
        by_chance: the same, of answers drawn with just these probabilities: what no reward can be better than
            with so few pairs.
        brier: mean of (p − y)²; 0.25 is a reward that always says ½.

    Source: Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017.
    """

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    count: tuple[int, ...]
    error: float
    by_chance: float
    brier: Interval


def calibrate(probability: Float[np.ndarray, " n"], label: Float[np.ndarray, " n"], seed: int) -> Calibration:
    """Calibration of predicted probabilities that the first clip is preferred.

    Args:
        probability: p.
        label: y, 1 or 0: no ties.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    confidence = np.maximum(probability, 1.0 - probability)
    right = np.where(probability >= 0.5, label, 1.0 - label) > 0.5
    place = np.clip(((confidence - 0.5) * 2 * _BINS).astype(int), 0, _BINS - 1)
    bins = [place == index for index in range(_BINS) if (place == index).any()]
    shares = [proportion(right[own]) for own in bins]
    drawn = rng.random((200, len(label))) < confidence
    squared = (probability - label) ** 2
    return Calibration(
        tuple(float(confidence[own].mean()) for own in bins),
        tuple(share.value for share in shares),
        tuple(share.low or 0.0 for share in shares),
        tuple(1.0 if share.high is None else share.high for share in shares),
        tuple(int(own.sum()) for own in bins),
        float(_error(confidence, right[None], bins)[0]),
        float(_error(confidence, drawn, bins).mean()),
        resampled_mean(squared, seed),
    )


def _error(
    confidence: Float[np.ndarray, " n"], right: Bool[np.ndarray, "r n"], bins: list[np.ndarray]
) -> Float[np.ndarray, " r"]:
    gaps = [abs(right[:, own].sum(axis=1) - confidence[own].sum()) for own in bins]
    return np.sum(gaps, axis=0) / len(confidence)


def proportion(right: Bool[np.ndarray, " n"]) -> Interval:
    """The share that is true, with its Wilson interval."""
    if not len(right):
        return Interval(float("nan"))
    found = scipy.stats.binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return Interval(float(right.mean()), float(found.low), float(found.high))


def resampled_mean(values: Float[np.ndarray, " n"], seed: int) -> Interval:
    """Their mean, with a bootstrap interval; none below three of them."""
    value = float(values.mean())
    if len(values) < _LEAST:
        return Interval(value)
    rows = np.random.default_rng(seed).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(values[rows].mean(axis=1), [2.5, 97.5])
    return Interval(value, float(low), float(high))


def correlation(
    first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"], seed: int, *, ranks: bool
) -> Interval | None:
    """Pearson's correlation, or Spearman's if by `ranks`, with a bootstrap interval over pairs of numbers.

    None below three pairs, or where one of the two never changes.
    """
    if len(first) < _LEAST or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    drawn = np.random.default_rng(seed).integers(len(first), size=(_RESAMPLES, len(first)))
    every = np.concatenate([np.arange(len(first))[None], drawn])
    pair = [values[every] for values in (first, second)]
    if ranks:
        pair = [scipy.stats.rankdata(values, axis=1) for values in pair]
    centred = [values - values.mean(axis=1, keepdims=True) for values in pair]
    norm = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    # A draw of one pair again and again says nothing.
    told = norm > 0
    found = (centred[0] * centred[1]).sum(axis=1)[told] / norm[told]
    low, high = np.percentile(found[1:], [2.5, 97.5])
    return Interval(float(found[0]), float(low), float(high))


def trend(steps: Float[np.ndarray, " k"], values: Float[np.ndarray, " k"]) -> Interval | None:
    """By how much values change along the least-squares line through them, with its t interval.

    From the first step to the last, in the units of `values`; None below four points.
    """
    if len(steps) < _LEAST_IN_TREND:
        return None
    line: Any = scipy.stats.linregress(steps, values)
    width = float(steps[-1] - steps[0])
    reach = float(scipy.stats.t.ppf(0.975, len(steps) - 2)) * float(line[4]) * width
    change = float(line[0]) * width
    return Interval(change, change - reach, change + reach)


def last_third(count: int) -> int:
    """How many of so many snapshots are the last third: four at least, if there are as many."""
    return min(count, max(_LEAST_IN_TREND, -(-count // 3)))


def gain(before: Bool[np.ndarray, " n"], now: Bool[np.ndarray, " n"], seed: int) -> Interval:
    """By how much a share rose between two rewards that judge the same pairs; a paired bootstrap."""
    return resampled_mean(now.astype(float) - before.astype(float), seed)
