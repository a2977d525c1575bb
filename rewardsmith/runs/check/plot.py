"""Error of each estimator against the number of tuples, one panel a problem."""

from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from ..._core.atomic import writing
from ..plot import PALETTE, house_style


def plot_errors(table: pl.DataFrame, out: Path) -> Path:
    """Draw root-mean-square error over ‖∇φ‖, log-log, with 95 % bands and the Monte-Carlo rate beside them.

    Args:
        table: with the columns of `records.SCHEMA`.
        out: the picture, of a format by its suffix.

    Returns:
        `out`.
    """
    problems = table.partition_by("problem", maintain_order=True)
    names = table["estimator"].unique(maintain_order=True).to_list()
    with house_style():
        figure = Figure(
            figsize=(1 + 3.6 * len(problems), 4.4), dpi=130, layout="constrained", facecolor="white"
        )
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(problems), squeeze=False)[0]
        for axes, rows in zip(panels, problems, strict=True):
            _panel(axes, rows, names)
        panels[0].set_ylabel("error of ∇φ, relative")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        with writing(out) as temporary:
            figure.savefig(temporary)
    return out


def _panel(axes: Axes, rows: pl.DataFrame, names: list[str]) -> None:
    for name, part in ((name, rows.filter(pl.col("estimator") == name)) for name in names):
        columns = ("pairs", "error", "error_low", "error_high")
        pairs, error, low, high = (part[column].to_numpy().astype(float) for column in columns)
        colour = PALETTE[names.index(name) % len(PALETTE)]
        axes.fill_between(pairs, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(pairs, error, color=colour, marker="o", markersize=4, label=name)
    sizes = rows["pairs"].unique().sort().to_numpy().astype(float)
    top = rows.filter(pl.col("pairs") == rows["pairs"].min())["error"].to_numpy().max()
    guide = 1.3 * top * np.sqrt(sizes[0] / sizes)
    axes.plot(sizes, guide, color="0.45", linewidth=1, linestyle="--", label="∝ 1/√tuples")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sizes.tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("tuples of clips")
    axes.set_title(rows["problem"][0], loc="left")
