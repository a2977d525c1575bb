"""The small figures of a run's page, as SVG that suits light and dark."""

import html
import io
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from .metrics import read_metrics
from .plot import PALETTE, count_axis, house_style
from .statistics import clean

# Stands for the colour of the text of the page that an SVG is put into.
INK = "#010203"
# Few points wide, for text legible on a phone; of one height, for cards in even rows.
_SIZE = (4.7, 3.3)


def svg_figure(
    title: str, draw: Callable[[Figure], None], prefix: str = "", size: tuple[float, float] = _SIZE
) -> str:
    """What `draw` puts on a figure, as an element of a page.

    Text and frames take the colour of the page's text (``currentColor``), a curve of `PALETTE` that of the
    page's ``--curve-0``, ``--curve-1``, ... if it sets them. What is drawn in `INK` takes the text's, too.

    Args:
        title: for those who cannot see it.
        draw: draws.
        prefix: of the ids, with the title; both together must be unique on the page.
        size: inches at 72 points.
    """
    with house_style(ink=INK):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline(buffer.getvalue(), title, f"{prefix} {title}")


def run_figures(path: Path | str, prefix: str = "", only: Collection[str] | None = None) -> dict[str, str]:
    """The figures of one run as inline SVG, by title, in reading order; those without data are left out.

    No two figures share an ``id``, nor do those of runs with other prefixes.

    Args:
        path: folder of the run.
        prefix: of the ids.
        only: titles of those that are wanted; None: all.
    """
    metrics = read_metrics(path)
    figures = {}
    for title, wanted in _FIGURES.items():
        present = [panel for panel in wanted if panel.has_data(metrics)]
        if present and (only is None or title in only):
            figures[title] = svg_figure(title, partial(_draw, panels=present, rows=metrics), prefix)
    return figures


@dataclass(frozen=True)
class _Panel:
    """One pair of axes: which columns, and how."""

    ylabel: str
    columns: list[str]
    spread: str | None = None
    percent: bool = False
    log: bool = False
    stacked: bool = False
    from_zero: bool = False
    reference: float | None = None
    limits: tuple[float, float] | None = None

    def has_data(self, rows: pl.DataFrame) -> bool:
        return any(len(_curve(rows, column)[0]) for column in self.columns)

    def draw(self, axes: Axes, rows: pl.DataFrame) -> None:
        labels = {
            "first_norm": "first term",
            "second_norm": "second term",
            "share_env": "environment",
            "share_learner": "learner",
            "share_leader": "leader",
        }
        curves = {column: _curve(rows, column) for column in self.columns}
        curves = {column: curve for column, curve in curves.items() if len(curve[0])}
        if self.log:
            curves = {column: (x, np.where(y > 0, y, np.nan)) for column, (x, y) in curves.items()}
        if self.percent:
            curves = {column: (x, np.clip(y, 0, 1)) for column, (x, y) in curves.items()}
        if self.stacked:
            _stack(axes, {labels[column]: curve for column, curve in curves.items()})
        else:
            for color, (column, (x, y)) in zip(PALETTE, curves.items(), strict=False):
                # A lone point has no line to be seen by.
                marker = "o" if len(x) < 3 else None
                axes.plot(x, y, color=color, label=labels.get(column), marker=marker, markersize=4)
        if self.spread:
            self._draw_spread(axes, rows)
        if self.reference is not None:
            axes.axhline(self.reference, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.6)
        if self.log and any(np.isfinite(y).any() for _, y in curves.values()):
            axes.set_yscale("log")
            # The usual labels are formulas, which `_STYLE` turns off.
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        if self.percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        if self.limits:
            axes.set_ylim(*self.limits)
        if self.from_zero:
            axes.set_ylim(bottom=0)
        axes.set_ylabel(self.ylabel)
        if len(curves) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.1, handlelength=1.2)

    def _draw_spread(self, axes: Axes, rows: pl.DataFrame) -> None:
        both = rows.drop_nulls([self.columns[0], str(self.spread)])
        x, mean = _curve(both, self.columns[0])
        spread_x, spread = _curve(both, str(self.spread))
        if len(x) and np.array_equal(x, spread_x):
            axes.fill_between(
                x, mean - spread, mean + spread, color=PALETTE[0], alpha=0.2, linewidth=0, label="± 1 s.d."
            )
            axes.legend(loc="best")


_FIGURES = {
    "True return": [_Panel("return of an episode", ["true_return"], spread="true_return_std")],
    "Preferences": [
        _Panel("accuracy", ["preference_accuracy"], percent=True, reference=0.5),
        _Panel("loss (nats)", ["preference_loss"]),
    ],
    "Hyper-gradient": [
        _Panel("norm of a term", ["first_norm", "second_norm"], log=True),
        _Panel("cosine", ["cosine"], reference=0.0, limits=(-1.05, 1.05)),
    ],
    "How far to trust it": [
        _Panel("effective share", ["effective_share"], from_zero=True),
        _Panel("updates a leader step", ["step_ratio"], from_zero=True),
    ],
    "Has the policy answered?": [
        _Panel("Bellman residual", ["bellman_residual"], from_zero=True),
        _Panel("KL to longer (nats)", ["kl_to_longer"], from_zero=True),
    ],
    "Policy": [_Panel("temperature τ", ["temperature"]), _Panel("entropy (nats)", ["entropy"])],
    "Learner": [
        _Panel("critic loss", ["critic_loss"]),
        _Panel("actor loss", ["actor_loss"]),
        _Panel("mean Q", ["q_mean"]),
    ],
    "Time": [
        _Panel("share", ["share_env", "share_learner", "share_leader"], percent=True, stacked=True),
        _Panel("steps per second", ["steps_per_second"], from_zero=True),
    ],
}


def _stack(axes: Axes, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    steps = np.unique(np.concatenate([x for x, _ in curves.values()]))
    layers = [np.interp(steps, x, y) for x, y in curves.values()]
    axes.stackplot(steps, layers, labels=list(curves), colors=PALETTE[: len(layers)], alpha=0.85, linewidth=0)
    axes.set_ylim(0, 1)


def _draw(figure: Figure, panels: list[_Panel], rows: pl.DataFrame) -> None:
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axes, panel in zip(grid, panels, strict=True):
        panel.draw(axes, rows)
    count_axis(grid[-1], "environment steps")
    figure.align_ylabels(list(grid))


def _inline(svg: str, title: str, name: str) -> str:
    """An SVG file as an element of a page: no prologue, no fixed size, ids of its own, page's text colour."""
    svg = svg[svg.index("<svg") :]
    prefix = re.sub(r"\W+", "-", name.lower()).strip("-")
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
    for index, color in enumerate(PALETTE):
        svg = svg.replace(color, f"var(--curve-{index}, {color})")
    return svg.replace(INK, "currentColor")


def _curve(rows: pl.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    table = rows.select("step", column).drop_nulls()
    return clean(table["step"].to_numpy(), table[column].to_numpy())
