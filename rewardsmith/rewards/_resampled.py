"""From samples of two canonical rewards to their distance, without what noise adds, and an interval."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from .._core import InputError

RESAMPLES = 2000
_LEVEL = 0.95
# Resamples at once: so many numbers of groups are held.
_HELD = 1_000_000
# Of the largest number, what rounding may have left of 0.
_ROUNDING = 1e-12

Samples = Float[np.ndarray, "N K"]


@dataclass(frozen=True)
class DistanceEstimate:
    """A distance and how well it is known.

    Attributes:
        value: the distance, in the range of the distance that was asked for.
        low, high: ends of the 95 % percentile interval, from a bootstrap over groups. It speaks of the draw
            from the coverage distribution and of the noise in c, not of what another coverage would say.
        num_samples: N, transitions or episodes that were compared.
        num_groups: independent groups among them; below some 20 the interval is too narrow.
        noise: of each reward the share of the mean square of its K-sample means that is noise. It is taken
            out of `value`, but where it is nearly 1, the interval is wide: more repeats help more than more
            states do.
        trivial: of each reward whether its canonical form is not distinguishable from 0. Then there is no
            direction to compare: `value` is what the distance calls a trivial reward (1 for STARC, √½ for
            Pearson distances; 0 if both are exactly trivial), and the interval is the whole range unless
            that is certain.
    """

    value: float
    low: float
    high: float
    num_samples: int
    num_groups: int
    noise: tuple[float, float]
    trivial: tuple[bool, bool]

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(
    first: np.ndarray,
    second: np.ndarray,
    *,
    weights: np.ndarray | None,
    groups: np.ndarray | None,
    seed: int,
    resamples: int,
    centred: bool,
    unit: float,
    alone: float,
    least: int,
    scales: tuple[float, float] = (0.0, 0.0),
) -> DistanceEstimate:
    """unit · √(2 − 2ρ), `alone` where one reward is trivial.

    Args:
        centred: ρ is a correlation, else a cosine.
        least: samples at each that it takes.
        scales: of each, the largest numbers that the samples are differences of, if they are larger.

    The other arguments, and errors, are those of `starc_estimate`.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    weights, groups = _checked(first, second, weights, groups, resamples, least)
    first, second = first[weights > 0], second[weights > 0]
    weights, groups = weights[weights > 0], np.unique(groups[weights > 0], return_inverse=True)[1]
    rounding = [
        _ROUNDING * max(scale, np.max(np.abs(samples)))
        for scale, samples in zip(scales, (first, second), strict=True)
    ]
    if centred:
        # Each once and for all: resamples subtract what is left of their own means, without losing digits.
        first, second = (x - weights @ x.mean(axis=1) / weights.sum() for x in (first, second))
    each = _moments(first, second, weights)
    summed = np.zeros((int(groups.max()) + 1, each.shape[1]))
    np.add.at(summed, groups, each)
    drawn = _resampled(summed, resamples, np.random.default_rng((seed, 1)))
    # What was measured, then its resamples.
    inners, sizes = _products(np.concatenate([summed.sum(axis=0)[None], drawn]), centred)
    tail = (1.0 - _LEVEL) / 2.0
    trivial, certain, noise = [], [], []
    for samples, size, small in zip((first, second), sizes, rounding, strict=True):
        zero = bool(np.max(np.abs(samples)) <= small)
        certain.append(zero)
        trivial.append(zero or bool(min(size[0], np.quantile(size[1:], tail)) <= small**2))
        naive = float(weights @ samples.mean(axis=1) ** 2 / weights.sum())
        told = samples.shape[1] > 1 and not zero
        noise.append(float(np.clip(1.0 - size[0] / naive, 0.0, 1.0)) if told else 0.0)
    if any(trivial):
        value = 0.0 if all(certain) else alone
        known = all(sure for sure, small in zip(certain, trivial, strict=True) if small)
        low, high = (value, value) if known else (0.0, 2.0 * unit)
    else:
        # Resamples without a size, fewer than the tail, tell nothing of an angle.
        seen = (sizes[0] > 0) & (sizes[1] > 0)
        apart = unit * _chord(inners[seen] / np.sqrt(sizes[0][seen] * sizes[1][seen]))
        value = float(apart[0])
        low, high = (float(end) for end in np.quantile(apart[1:], [tail, 1.0 - tail]))
    return DistanceEstimate(
        value,
        low,
        high,
        len(first),
        len(summed),
        (noise[0], noise[1]),
        (trivial[0], trivial[1]),
    )


def _moments(
    first: np.ndarray, second: np.ndarray, weights: Float[np.ndarray, " N"]
) -> Float[np.ndarray, "N 6"]:
    """What each row adds to Σw, Σw c₁, Σw c₂, Σw c₁c₂, Σw c₁², Σw c₂²."""

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        repeats = a.shape[1]
        if repeats == 1:
            return (a * b)[:, 0]
        return (a.sum(axis=1) * b.sum(axis=1) - np.sum(a * b, axis=1)) / (repeats * (repeats - 1))

    columns = [
        np.ones(len(first)),
        first.mean(axis=1),
        second.mean(axis=1),
        product(first, second),
        product(first, first),
        product(second, second),
    ]
    return weights[:, None] * np.stack(columns, axis=1)


def _products(moments: Float[np.ndarray, "B 6"], centred: bool) -> tuple[np.ndarray, list[np.ndarray]]:
    """⟨c₁, c₂⟩, and ⟨c₁, c₁⟩ and ⟨c₂, c₂⟩, of weights that sum to 1; without means if `centred`."""
    total, a, b, ab, aa, bb = np.moveaxis(moments, -1, 0)
    if not centred:
        return ab / total, [aa / total, bb / total]
    a, b = a / total, b / total
    return ab / total - a * b, [aa / total - a * a, bb / total - b * b]


def _resampled(
    summed: Float[np.ndarray, "G 6"], resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "B 6"]:
    size, blocks = len(summed), []
    together = max(1, _HELD // size)
    for begin in range(0, resamples, together):
        count = min(together, resamples - begin)
        drawn = rng.integers(size, size=(count, size)) + size * np.arange(count)[:, None]
        blocks.append(np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size) @ summed)
    return np.concatenate(blocks)


def _chord(rho: np.ndarray) -> np.ndarray:
    """√(2 − 2ρ), ρ cut to what a cosine can be."""
    return np.sqrt(2.0 - 2.0 * np.clip(rho, -1.0, 1.0))


def _checked(
    first: np.ndarray,
    second: np.ndarray,
    weights: np.ndarray | None,
    groups: np.ndarray | None,
    resamples: int,
    least: int,
) -> tuple[Float[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Weights and groups, made up where there are none; `InputError` where anything does not fit."""
    if first.shape != second.shape or first.ndim != 2:
        raise InputError(f"samples have shapes {first.shape} and {second.shape}: give both the same (N, K)")
    count, repeats = first.shape
    if repeats < least:
        raise InputError(
            f"{repeats} samples at each of {count}: give at least {least}, to tell noise from size"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("a sample is not finite: look at the reward that gave it")
    if resamples < 100:
        raise InputError(f"resamples is {resamples}: give at least 100")
    weights = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != (count,) or not np.isfinite(weights).all() or (weights < 0).any():
        raise InputError(f"weights must be {count} finite numbers, none negative")
    groups = np.arange(count) if groups is None else np.asarray(groups)
    if groups.shape != (count,):
        raise InputError(f"groups have shape {groups.shape}: give one number for each of {count} samples")
    if len(np.unique(groups[weights > 0])) < 2:
        raise InputError("samples with a weight are of fewer than 2 groups: give more, for an interval")
    return weights, groups
