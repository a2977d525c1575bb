"""Convergence of several methods on one problem: φ against steps and against seconds, ‖∇φ‖, cosine."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from ..._core.atomic import writing
from ..plot import PALETTE, count_axis, house_style
from ..statistics import clean, summarise

_DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)))
# Beyond this ratio of the slowest method's seconds to the fastest's, a linear axis shows one of them only.
_FAR_APART = 20.0
# With more methods than this, single runs only hide the means.
_FEW = 3

Runs = dict[str, list[pl.DataFrame]]


def plot_methods(
    metrics: pl.DataFrame, title: str, out: Path, failed: Collection[tuple[str, int]] = ()
) -> Path:
    """Draw the runs of ``metrics.parquet``: the mean over seeds of each method; of few methods, each run too.

    From three seeds on there is a 95 % bootstrap interval. Runs that failed are dotted and in no mean.

    Args:
        metrics: with the columns of `records.SCHEMA`.
        title: over the picture.
        out: the picture, of a format by its suffix.
        failed: (method, seed) of such runs.

    Returns:
        `out`.
    """
    parts = metrics.partition_by("method", "seed", as_dict=True, maintain_order=True)
    good: Runs = {name: [] for name in metrics["method"].unique(maintain_order=True)}
    bad: Runs = {name: [] for name in good}
    for (method, seed), rows in parts.items():
        (bad if (method, seed) in set(failed) else good)[method].append(rows)
    with house_style():
        legend_rows = -(-len(good) // 4)
        figure = Figure(
            figsize=(11, 7.4 + 0.25 * legend_rows), dpi=130, layout="constrained", facecolor="white"
        )
        FigureCanvasAgg(figure)
        (by_step, by_second), (norm, cosine) = figure.subplots(2, 2)
        for index, method in enumerate(good):
            look: dict[str, Any] = {
                "color": PALETTE[index % len(PALETTE)],
                "linestyle": _DASHES[index // len(PALETTE) % len(_DASHES)],
            }
            for axes, x, y in (
                (by_step, "step", "phi"),
                (by_second, "seconds", "phi"),
                (norm, "step", "gradient_norm"),
                (cosine, "step", "cosine"),
            ):
                _draw(axes, good[method], bad[method], x, y, look, method, len(good) <= _FEW)
        for axes in (by_step, by_second):
            axes.set_ylabel("φ")
            _cap(axes, good)
        norm.set_ylabel("‖∇φ‖, exact")
        _log(norm)
        cosine.set_ylabel("cosine of estimate and ∇φ")
        low = metrics["cosine"].drop_nulls().drop_nans()
        cosine.set_ylim(-1.05 if len(low) and float(low.to_numpy().min()) < -0.05 else -0.05, 1.05)
        for axes in (by_step, norm, cosine):
            count_axis(axes, "steps")
        _seconds_axis(by_second, good)
        figure.suptitle(f"{title}{_starts(good)}", x=0.01, ha="left", fontweight="bold")
        handles, labels = by_step.get_legend_handles_labels()
        if labels:
            figure.legend(handles, labels, loc="outside lower left", ncols=min(4, len(labels)))
        with writing(out) as temporary:
            figure.savefig(temporary)
    return out


def _draw(
    axes: Axes,
    good: list[pl.DataFrame],
    bad: list[pl.DataFrame],
    x: str,
    y: str,
    look: dict[str, Any],
    label: str,
    each: bool,
) -> None:
    curves = [_curve(rows, x, y) for rows in good]
    if each and len(curves) > 1:
        for steps, values in curves:
            axes.plot(steps, values, color=look["color"], alpha=0.25, linewidth=0.8)
    for index, rows in enumerate(bad):
        named = f"{label}, failed" if index == 0 and not good else None
        axes.plot(
            *_curve(rows, x, y), color=look["color"], alpha=0.6, linewidth=1, linestyle=":", label=named
        )
    summary = summarise(curves)
    if summary.low is not None and summary.high is not None:
        axes.fill_between(
            summary.steps,
            summary.low,
            summary.high,
            color=look["color"],
            alpha=0.16 if each else 0.1,
            linewidth=0,
        )
    if len(summary.steps):
        marker = "o" if len(summary.steps) < 3 else None
        axes.plot(summary.steps, summary.mean, label=label, marker=marker, markersize=4, **look)


def _starts(runs: Runs) -> str:
    most = max(len(group) for group in runs.values())
    if most < 2:
        return ""
    return f" · mean of {most} starts" + (", 95 % interval" if most > 2 else "")


def _curve(rows: pl.DataFrame, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    table = rows.select(pl.col(x, y).cast(pl.Float64).fill_null(float("nan"))).to_numpy()
    return clean(table[:, 0], table[:, 1])


def _cap(axes: Axes, runs: Runs) -> None:
    """Keep a method that climbed away from flattening the others."""
    phis = [rows["phi"].to_numpy() for group in runs.values() for rows in group]
    if not phis:
        return
    first, lowest = max(phi[0] for phi in phis), min(np.nanmin(phi) for phi in phis)
    ceiling, highest = first + 0.3 * (first - lowest), max(np.nanmax(phi) for phi in phis)
    if highest > ceiling > lowest:
        axes.set_ylim(lowest - 0.05 * (ceiling - lowest), ceiling)


def _log(axes: Axes) -> None:
    if not any(np.any(np.asarray(line.get_ydata()) > 0) for line in axes.get_lines()):
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    # The usual labels are formulas, which the style turns off.
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _seconds_axis(axes: Axes, runs: Runs) -> None:
    axes.set_xlabel("seconds, measuring and compilation left out")
    ends = [float(rows["seconds"].to_numpy()[-1]) for group in runs.values() for rows in group]
    ends = [end for end in ends if end > 0]
    if ends and max(ends) > _FAR_APART * min(ends):
        first = [
            float(rows["seconds"].to_numpy()[1]) for group in runs.values() for rows in group if len(rows) > 1
        ]
        axes.set_xscale("log", nonpositive="mask")
        axes.set_xlim(left=0.7 * min(second for second in [*first, *ends] if second > 0))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
