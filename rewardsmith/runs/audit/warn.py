"""What a run is warned of: each line says what was measured and what to do about it."""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from ..statistics import Interval
from .measures import correlation, last_third
from .question import ALL, PEOPLE
from .record import Audit, Episodes, Hacking, Judged, RewardAudit

DRIFT = 2.0
_OVERCONFIDENT = 0.1


def warnings_of(audit: Audit) -> list[str]:
    """All that an audit warns of."""
    lines = list(variable_horizon([*audit.policies, audit.random], audit.seed))
    if audit.reward is not None:
        lines = [*hacking(audit.reward.hacking), *lines, *too_few_labels(audit.reward)]
        lines += overconfidence(audit.reward.judged)
    return lines


def hacking(found: Hacking) -> Iterator[str]:
    """Learned return rises while true return falls: over the last third of the snapshots, or all along."""
    learned, true = found.learned_trend, found.true_trend
    cure = "compare clips of the newest policy (--clips fresh, a smaller --leader-every or --queue, more "
    cure += "--comparisons), or take an earlier snapshot's policy"
    if learned and true and (learned.low or 0.0) > 0.0 > (true.high or 0.0):
        yield (
            f"Reward hacking: over the last {found.snapshots} snapshots the learned return rose by "
            f"{spelt(learned)} while the true return fell by {spelt(_negative(true))}: {cure}."
        )
    elif found.correlation and found.correlation.high is not None and found.correlation.high < 0.0:
        yield (
            "Reward hacking: policies of a higher learned return have a lower true one (Spearman "
            f"{spelt(found.correlation)} over the snapshots): {cure}."
        )


def variable_horizon(everything: Sequence[Episodes], seed: int) -> Iterator[str]:
    """Episodes end by themselves, at different lengths: when they end tells of the reward."""
    lengths, true = (
        np.concatenate([np.asarray(getattr(one, name), float) for one in everything])
        for name in ("lengths", "true_returns")
    )
    ended = np.concatenate([one.terminated for one in everything])
    if not ended.any() or np.ptp(lengths) == 0:
        return
    together = correlation(lengths, true, seed, ranks=True)
    told = (
        "" if together is None else f", and longer ones have other true returns (Spearman {spelt(together)})"
    )
    yield (
        f"Variable horizon: {int(ended.sum())} of {len(ended)} episodes came to an end of their own, after "
        f"{int(lengths.min()):,} to {int(lengths.max()):,} steps{told}: any reward that is positive pays for "
        "lasting, so judge by --hide-ends, or in an environment of fixed length."
    )


def too_few_labels(found: RewardAudit) -> Iterator[str]:
    """The reward may be guessing, or more answers still make it better."""
    asked = next((one for one in found.judged if one.name == PEOPLE), None)
    asked = asked or next((one for one in found.judged if one.name == ALL), None)
    if asked is not None and (asked.accuracy.low or 0.0) <= 0.5:
        yield (
            f"Too few labels: the reward foresees {spelt(asked.accuracy, percent=True)} of {asked.pairs} "
            f"comparisons ({asked.name}), which may be guessing: ask for more --comparisons."
        )
    elif found.gain is not None and (found.gain.low or 0.0) > 0.0 and _is_at_its_best(found):
        first, last = found.along[-_third(found)], found.along[-1]
        count = (last.comparisons or 0) - (first.comparisons or 0)
        by = f"with the last {count:,} comparisons" if count else "over the last third of the run"
        yield (
            f"Too few labels: accuracy on the same held-out pairs still rose {by}, by a share of "
            f"{spelt(found.gain)}: ask for more --comparisons, or train for longer."
        )


def overconfidence(judged: Sequence[Judged]) -> Iterator[str]:
    """Probabilities that are far from how often they come true."""
    for one in judged:
        found = one.calibration
        if found is not None and found.error - found.by_chance > _OVERCONFIDENT:
            yield (
                f"Badly calibrated: on {one.name} the reward's confidence is off by {found.error:.1%} on "
                f"average ({found.by_chance:.1%} would be chance): do not read its margins as probabilities; "
                "more --comparisons, --label-smoothing or a larger --ensemble help."
            )
            return


def temperature_drift(metrics: pl.DataFrame) -> Iterator[str]:
    """The temperature moved by more than a factor of two over the last half of the run."""
    rows = metrics.select("step", "temperature").drop_nulls()
    rows = rows.filter((pl.col("temperature") > 0) & (pl.col("step") * 2 >= pl.col("step").max()))
    values = rows["temperature"].to_numpy()
    if len(values) > 1 and np.isfinite(values).all() and (factor := values.max() / values.min()) > DRIFT:
        yield (
            f"Drift of τ: over the last half of the run the temperature went from {values[0]:.3g} to "
            f"{values[-1]:.3g}, its extremes a factor of {factor:.1f} apart: the second term goes as 1/τ, so "
            "early and late hyper-gradients are of different problems; fix --temperature, or train longer."
        )


def _is_at_its_best(found: RewardAudit) -> bool:
    """Whether no earlier reward was right as often as the newest is."""
    shares = [one.accuracy.value for one in found.along if one.accuracy is not None]
    return len(shares) > 3 and shares[-1] >= max(shares)


def _third(found: RewardAudit) -> int:
    return min(len(found.along), last_third(len(found.along)) + 1)


def _negative(value: Interval) -> Interval:
    low, high = value.low, value.high
    return Interval(-value.value, None if high is None else -high, None if low is None else -low)


def spelt(value: Interval, percent: bool = False) -> str:
    """An interval in words: the number, and in brackets where it lies."""

    def form(number: float) -> str:
        return pattern.format(number).replace("-", "−")

    pattern = "{:.1%}" if percent else "{:,.3g}" if abs(value.value) < 100 else "{:,.0f}"
    if value.low is None or value.high is None:
        return form(value.value)
    return f"{form(value.value)} [{form(value.low)}, {form(value.high)}]"
