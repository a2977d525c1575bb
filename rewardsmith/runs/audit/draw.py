"""The figures of an audit, as SVG for the page, and what stands over each."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..figures import INK, svg_figure
from ..plot import PALETTE, count_axis
from ..statistics import Interval
from .question import ALL, ON_POLICY
from .record import Agreement, Along, Audit, Episodes, Hacking, Judged, RewardAudit
from .warn import spelt

_DASHED: Any = (0, (4, 3))


class Drawn(NamedTuple):
    """A figure of the page: its title, a caption, and the picture."""

    title: str
    caption: str
    svg: str


def audit_figures(audit: Audit, prefix: str = "") -> list[Drawn]:
    """All that there are data for, in reading order. `prefix`: of the ids, unique for each run on a page."""
    found = [_returns(audit)]
    if audit.reward is not None:
        reward = audit.reward
        found += [_accuracy(reward.along), _calibration(reward.judged), _scatter(reward.agreement)]
        found.append(_distance(reward))
    return [
        Drawn(title, caption, svg_figure(title, draw, prefix))
        for title, caption, draw in (one for one in found if one is not None)
    ]


_Plan = tuple[str, str, Callable[[Figure], None]]


def _returns(audit: Audit) -> _Plan:
    learns = audit.reward is not None
    caption = "Episodes of each snapshot's policy; lines are means, the dashes random actions."
    if audit.reward is not None:
        caption += f" {_said_of_trends(audit.reward.hacking)}"
    return (
        "Learned and true return" if learns else "Return of snapshots",
        caption,
        partial(_draw_returns, audit),
    )


def _said_of_trends(found: Hacking) -> str:
    if found.learned_trend is None or found.true_trend is None:
        return "There are too few snapshots for a trend."
    return (
        f"Change over the last {found.snapshots} snapshots: learned {spelt(found.learned_trend)}, true "
        f"{spelt(found.true_trend)}."
    )


def _draw_returns(audit: Audit, figure: Figure) -> None:
    names = [("true_returns", "true return", PALETTE[0])]
    if audit.reward is not None:
        names.append(("learned_returns", "learned return", PALETTE[1]))
    panels = figure.subplots(len(names), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (name, label, colour) in zip(panels, names, strict=True):
        _draw_episodes(axes, audit.policies, name, colour)
        axes.axhline(float(np.mean(getattr(audit.random, name))), color=INK, linewidth=0.9, linestyle=_DASHED)
        axes.set_ylabel(label)
    count_axis(panels[-1], "environment steps")
    figure.align_ylabels(list(panels))


def _draw_episodes(axes: Axes, policies: Sequence[Episodes], name: str, colour: str) -> None:
    steps = [one.step or 0 for one in policies]
    for step, one in zip(steps, policies, strict=True):
        values = getattr(one, name)
        axes.plot([step] * len(values), values, "o", color=colour, alpha=0.35, markersize=3, linewidth=0)
    axes.plot(
        steps, [np.mean(getattr(one, name)) for one in policies], color=colour, marker="o", markersize=3.5
    )


def _accuracy(along: Sequence[Along]) -> _Plan | None:
    curves = {
        ON_POLICY: [(one.step, one.on_policy) for one in along if one.on_policy],
        ALL: [(one.step, one.accuracy) for one in along if one.accuracy],
    }
    if not any(curves.values()):
        return None
    caption = "Each snapshot's reward on the same pairs, never trained on; dashed is guessing. Bands: 95 %."
    return "Held-out accuracy along the run", caption, partial(_draw_accuracy, curves)


def _draw_accuracy(curves: dict[str, list[tuple[int, Interval]]], figure: Figure) -> None:
    axes = figure.subplots()
    for colour, (label, points) in zip(PALETTE, curves.items(), strict=False):
        _draw_points(axes, points, colour, label)
    axes.axhline(0.5, color=INK, linewidth=0.9, linestyle=_DASHED)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("pairs foreseen")
    count_axis(axes, "environment steps")
    _legend(axes)


def _draw_points(axes: Axes, points: list[tuple[int, Interval]], colour: str, label: str) -> None:
    if not points:
        return
    steps = [step for step, _ in points]
    axes.plot(steps, [one.value for _, one in points], color=colour, marker="o", markersize=3.5, label=label)
    known = [
        (step, one.low, one.high) for step, one in points if one.low is not None and one.high is not None
    ]
    if known:
        at, low, high = zip(*known, strict=True)
        axes.fill_between(at, low, high, color=colour, alpha=0.16, linewidth=0)


def _calibration(judged: Sequence[Judged]) -> _Plan | None:
    found = [one for one in judged if one.calibration is not None]
    if not found:
        return None
    caption = "Of the pairs the reward is p sure of, it should be right about a share p: on the diagonal."
    return "Calibration", caption, partial(_draw_calibration, found)


def _draw_calibration(judged: Sequence[Judged], figure: Figure) -> None:
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    curve.plot([0.5, 1], [0.5, 1], color=INK, linewidth=0.9, linestyle=_DASHED)
    width = 0.05 / len(judged)
    for index, (colour, one) in enumerate(zip(PALETTE, judged, strict=False)):
        found = one.calibration
        assert found is not None
        sure, share = np.array(found.confidence), np.array(found.accuracy)
        reach = np.maximum(np.abs(np.array([found.low, found.high]) - share), 0)
        curve.errorbar(
            sure,
            share,
            reach,
            color=colour,
            marker="o",
            markersize=3.5,
            linewidth=1.4,
            elinewidth=0.8,
            label=one.name,
        )
        counts.bar(
            sure + (index - (len(judged) - 1) / 2) * width, found.count, width, color=colour, alpha=0.8
        )
    curve.set_ylim(-0.03, 1.03)
    for axes in (curve, counts):
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    curve.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    curve.set_ylabel("right")
    counts.set_ylabel("pairs")
    counts.set_xlabel("confidence")
    figure.align_ylabels([curve, counts])
    _legend(curve)


def _scatter(groups: Sequence[Agreement]) -> _Plan | None:
    if not any(one.learned for one in groups):
        return None
    caption = "Single steps: learned reward as the policy gets it, true reward in the environment's units."
    return "Learned against true reward", caption, partial(_draw_scatter, groups)


def _draw_scatter(groups: Sequence[Agreement], figure: Figure) -> None:
    axes = figure.subplots()
    # The newest policy's, which come first, on top.
    for index in reversed(range(len(groups))):
        one = groups[index]
        axes.plot(
            one.true, one.learned, "o", color=PALETTE[index], alpha=0.45, markersize=2.6, linewidth=0,
            markeredgewidth=0, label=one.name,
        )  # fmt: skip
    axes.set_xlabel("true reward of a step")
    axes.set_ylabel("learned reward")
    handles = axes.get_legend_handles_labels()[0]
    _legend(axes, handles=handles[::-1], markerscale=2, ncols=3, handletextpad=0.1)


def _distance(reward: RewardAudit) -> _Plan | None:
    along = reward.along
    starc = [(one.step, one.distance) for one in along if one.distance]
    clips = [(one.step, one.clip_distance) for one in along if one.clip_distance]
    if not starc and not clips:
        return None
    caption = "0: the same, up to shaping and scale; 0.7 (clips), 1.4 (STARC): unrelated. Bands: 95 %."
    if starc:
        caption += f" STARC: {reward.distance_states} state-actions, {reward.distance_steps} steps from each."
    curves = {"STARC": starc, "Pearson, clip returns": clips}
    return "Distance to the true reward", caption, partial(_draw_distance, curves)


def _draw_distance(curves: dict[str, list[tuple[int, Interval]]], figure: Figure) -> None:
    axes = figure.subplots()
    for colour, (label, points) in zip(PALETTE, curves.items(), strict=False):
        _draw_points(axes, points, colour, label)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("distance")
    count_axis(axes, "environment steps")
    _legend(axes)


def _legend(axes: Axes, **look: Any) -> None:
    """Above the axes, where no curve is."""
    handles, _ = axes.get_legend_handles_labels()
    if len(handles) > 1:
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.1}
        axes.legend(**{"ncols": 2, "handlelength": 1.2, "columnspacing": 1.0} | place | look)
