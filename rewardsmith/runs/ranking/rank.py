"""From runs to a ranking: interquartile means, areas under curves, probability of improvement."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..statistics import Interval, probability_of_improvement, stratified_iqm
from .collect import Run

ALL = "all environments"


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of run in one environment.

    Attributes:
        env: the environment, or `ALL`, where returns are scaled.
        label: method and settings that differ.
        runs: how many.
        final: interquartile mean of the final true return, with its interval.
        area: mean true return along the curve, over steps.
        held_out: mean held-out accuracy at the end; None where nothing was held out.
        seconds: mean wall time.
    """

    env: str
    label: str
    runs: int
    final: Interval
    area: float | None = None
    held_out: float | None = None
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Improvement:
    """How likely a run of the best kind beats a run of another, in an environment or averaged over all."""

    env: str
    best: str
    other: str
    probability: Interval


@dataclasses.dataclass(frozen=True)
class Ranking:
    """All of it.

    Attributes:
        rows: by environment, the best first.
        improvements: of the best over each other.
        words: what has to be said of how they were compared.
    """

    rows: tuple[Row, ...]
    improvements: tuple[Improvement, ...]
    words: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Scored:
    run: Run
    label: str
    score: float


def rank(runs: Sequence[Run], labels: Mapping[Path, str]) -> Ranking:
    """Compare runs within each environment, and over all where every kind is in each.

    All runs of an environment are compared at its last common step. Where they all end there, their score is
    the evaluation at the end, of more episodes than those of the curve.

    Args:
        runs: finished or not, each with an evaluation.
        labels: by a run's path, what kind of run it is.
    """
    rows: list[Row] = []
    improvements: list[Improvement] = []
    words: list[str] = []
    scores: dict[str, dict[str, Float[np.ndarray, " n"]]] = {}
    for env in sorted({run.env for run in runs}):
        here = [run for run in runs if run.env == env]
        first, last = max(run.steps[0] for run in here), min(run.steps[-1] for run in here)
        if first > last:
            words.append(f"{env}: some runs begin where others end; each is taken at its nearest step")
        ends = {run.steps[-1] for run in here}
        if len(ends) > 1:
            words.append(
                f"{env}: the runs are of different lengths, {min(ends):,.0f} to {max(ends):,.0f} steps; "
                f"compared at step {last:,.0f}"
            )
        at_end = len(ends) == 1 and all(run.final is not None for run in here)
        scored = [_Scored(run, labels[run.path], _score(run, last, at_end)) for run in here]
        groups = {
            label: [one for one in scored if one.label == label]
            for label in sorted({s.label for s in scored})
        }
        scores[env] = {label: np.array([one.score for one in group]) for label, group in groups.items()}
        rows += _sorted(_row(env, label, group, first, last) for label, group in groups.items())
        best = rows[-len(groups)].label
        improvements += _improvements(env, best, [scores[env]])
    common = set.intersection(*(set(of_env) for of_env in scores.values())) if scores else set()
    if len(scores) > 1 and len(common) > 1:
        overall = _overall(scores, sorted(common))
        rows += overall
        improvements += _improvements(
            ALL, overall[0].label, [{label: of_env[label] for label in common} for of_env in scores.values()]
        )
        words.append(f"{ALL}: returns scaled to 0 for the worst run of an environment and 1 for its best")
    if min((row.runs for row in rows), default=3) < 3:
        words.append("fewer than three runs of a kind say nothing of their spread: no interval")
    return Ranking(tuple(rows), tuple(improvements), tuple(words))


def _score(run: Run, last: float, at_end: bool) -> float:
    if at_end and run.final is not None:
        return run.final
    return float(np.interp(last, run.steps, run.returns))


def _row(env: str, label: str, group: Sequence[_Scored], first: float, last: float) -> Row:
    runs = [one.run for one in group]
    held_out = [value for run in runs if (value := _held_out(run, last)) is not None]
    return Row(
        env,
        label,
        len(runs),
        stratified_iqm([np.array([one.score for one in group])]),
        float(np.mean([_area(run, first, last) for run in runs])),
        float(np.mean(held_out)) if held_out else None,
        float(np.mean([np.interp(last, run.steps, run.seconds) for run in runs])),
    )


def _area(run: Run, first: float, last: float) -> float:
    """∫ return over the common steps, divided by their number."""
    if first >= last:
        return float(np.interp(last, run.steps, run.returns))
    inner = run.steps[(run.steps > first) & (run.steps < last)]
    steps = np.concatenate([[first], inner, [last]])
    return float(np.trapezoid(np.interp(steps, run.steps, run.returns), steps) / (last - first))


def _held_out(run: Run, last: float) -> float | None:
    steps, accuracies = run.held_out
    known = accuracies[steps <= last]
    return float(known[-1]) if len(known) else None


def _improvements(
    env: str, best: str, environments: Sequence[Mapping[str, Float[np.ndarray, " _"]]]
) -> list[Improvement]:
    others = [label for label in sorted(environments[0]) if label != best]
    return [
        Improvement(env, best, other, probability_of_improvement([(e[best], e[other]) for e in environments]))
        for other in others
    ]


def _overall(scores: Mapping[str, Mapping[str, np.ndarray]], common: Sequence[str]) -> list[Row]:
    strata: dict[str, list[np.ndarray]] = {label: [] for label in common}
    for of_env in scores.values():
        everything = np.concatenate([of_env[label] for label in common])
        low, width = everything.min(), float(np.ptp(everything)) or 1.0
        for label in common:
            strata[label].append((of_env[label] - low) / width)
    rows = (Row(ALL, label, sum(map(len, parts)), stratified_iqm(parts)) for label, parts in strata.items())
    return _sorted(rows)


def _sorted(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: -row.final.value)
