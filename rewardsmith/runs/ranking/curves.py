"""Learning curves of several kinds of runs: interquartile means over runs, with a stratified bootstrap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..statistics import iqm_curve
from .collect import Run
from .rank import ALL

_POINTS = 101


@dataclass(frozen=True)
class Curve:
    """The runs of one kind as one curve.

    Attributes:
        label: of the kind.
        runs: how many.
        x: (p,) environment steps; over all environments, the share of a run.
        value: (p,) interquartile mean of the true return; over all environments, scaled to 0 … 1.
        low, high: (p,) its 95 % interval; None below three runs in any environment.
    """

    label: str
    runs: int
    x: Float[np.ndarray, " p"]
    value: Float[np.ndarray, " p"]
    low: Float[np.ndarray, " p"] | None
    high: Float[np.ndarray, " p"] | None


def curves_of(runs: Sequence[Run], labels: Mapping[Path, str]) -> dict[str, list[Curve]]:
    """By environment the curves of each kind of run; last, where each kind is in each, over all environments.

    Runs are interpolated to the steps that all of a kind have in common. Over all environments the steps of
    each are its share of the run, and returns are scaled to 0 for the lowest of an environment and 1 for its
    highest; bootstrap draws are within each environment.
    """
    found: dict[str, list[Curve]] = {}
    groups: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        groups.setdefault(run.env, {}).setdefault(labels[run.path], []).append(run)
    for env in sorted(groups):
        found[env] = [_curve(label, [group]) for label, group in sorted(groups[env].items())]
    common = set.intersection(*(set(kinds) for kinds in groups.values())) if groups else set()
    if len(groups) > 1 and common:
        scales = {
            env: (
                min(float(run.returns.min()) for group in kinds.values() for run in group),
                max(float(run.returns.max()) for group in kinds.values() for run in group),
            )
            for env, kinds in groups.items()
        }
        found[ALL] = [
            _curve(label, [groups[env][label] for env in sorted(groups)], scales) for label in sorted(common)
        ]
    return found


def _curve(
    label: str, strata: Sequence[Sequence[Run]], scales: Mapping[str, tuple[float, float]] | None = None
) -> Curve:
    aligned, x = [], np.zeros(0)
    for group in strata:
        first, last = max(run.steps[0] for run in group), min(run.steps[-1] for run in group)
        if scales is None:
            union = np.unique(np.concatenate([run.steps for run in group]))
            steps = union[(union >= first) & (union <= last)] if first <= last else union[-1:]
            x = steps
        else:
            steps = np.linspace(first, max(first, last), _POINTS)
            x = np.linspace(0.0, 1.0, _POINTS)
        values = np.stack([np.interp(steps, run.steps, run.returns) for run in group])
        if scales is not None:
            low, high = scales[group[0].env]
            values = (values - low) / (high - low or 1.0)
        aligned.append(values)
    value, low, high = iqm_curve(aligned)
    return Curve(label, sum(map(len, strata)), x, value, low, high)
