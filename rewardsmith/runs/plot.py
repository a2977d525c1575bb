"""Learning curves: several runs overlaid, and the small figures of one run's report."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from rewardsmith._core import InputError
from rewardsmith._core.atomic import writing

from .folder import RunFolder
from .metrics import read_metrics
from .statistics import clean, summarise

# Okabe and Ito's colours, told apart by colour-blind eyes; yellow left out, too faint on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
_METHODS = {
    "sobirl": "SoBiRL",
    "stoc-sobirl": "Stoc-SoBiRL",
    "drlhf": "DRLHF",
    "hpgd": "HPGD",
    "bc-hg": "BC-HG",
    "pbrl": "PBRL",
    "parl": "PARL",
    "itd": "ITD",
    "sac": "SAC on the true reward",
}

# Stands for the colour of the text of the page that an SVG is put into.
_INK = "#010203"
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    # Names of environments are the user's, and a `$` in one is no formula.
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class _Run:
    env: str
    label: str
    seed: Any
    evaluations: pl.DataFrame

    def curve(self, x: str) -> tuple[np.ndarray, np.ndarray]:
        table = self.evaluations.select(
            pl.col(x, "true_return").cast(pl.Float64).fill_null(float("nan"))
        ).to_numpy()
        return clean(table[:, 0], table[:, 1])


def method_label(config: Mapping[str, Any]) -> str:
    """What a run is called in pictures: its method, and its estimator and clips if they tell runs apart."""
    method = str(config.get("method", "unknown method"))
    told = []
    if method in ("sobirl", "stoc-sobirl") and config.get("estimator"):
        told.append(str(config["estimator"]))
    if method not in ("sac", "drlhf", "pbrl") and config.get("clips", "queue") != "queue":
        told.append(f"{config['clips']} clips")
    label = _METHODS.get(method, method)
    return f"{label} ({', '.join(told)})" if told else label


def plot_runs(paths: Sequence[Path | str], out: Path | str, labels: Mapping[Path, str] | None = None) -> Path:
    """Draw true return against steps and against comparisons, runs of one kind in one colour.

    Runs that share environment, method and estimator are seeds of one another: their mean is drawn, with
    a 95 % bootstrap interval from three seeds on, and each of them faintly. Every environment has its own
    row, since returns of different ones do not compare. A method without comparisons appears beside the
    others as a dashed line, the mean of its last evaluations.

    Args:
        paths: run folders; the same one twice counts once.
        out: the picture, of a format by its suffix (``.png``, ``.svg``, ``.pdf``).
        labels: of resolved paths: what makes runs seeds of one another, instead of method and estimator.

    Returns:
        `out`.

    Raises:
        InputError: no runs, no evaluations in them, or a suffix of no known format.
    """
    out = Path(out)
    if out.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"cannot draw to {out}: give a name that ends in .png, .svg or .pdf")
    unique = dict.fromkeys(Path(path).resolve() for path in paths)
    runs = [_load(path, (labels or {}).get(path)) for path in unique]
    if not runs:
        raise InputError("nothing to plot: give one or more run folders")
    environments = sorted({run.env for run in runs})
    columns = ["step", "comparisons"] if any(len(_positive(run)) for run in runs) else ["step"]
    names = sorted({run.label for run in runs})
    colors = {label: PALETTE[index % len(PALETTE)] for index, label in enumerate(names)}
    with house_style():
        size = (6.2 * len(columns), 4.2 * len(environments))
        figure = Figure(figsize=size, dpi=150, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(environments), len(columns), squeeze=False, sharey="row")
        for row, env in zip(grid, environments, strict=True):
            _draw_environment(row, columns, [run for run in runs if run.env == env], colors)
            row[0].set_title(env, loc="left", fontweight="bold")
        with writing(out) as temporary:
            figure.savefig(temporary)
    return out


def run_figures(path: Path | str) -> dict[str, str]:
    """The figures of one run as inline SVG, by title, in reading order; those without data are left out.

    Text and frames take the colour of the page's text (``currentColor``) and a curve that of the page's
    ``--curve-0``, ``--curve-1``, ... if it sets them, so a figure suits light and dark pages. No two
    figures share an ``id``.
    """
    metrics = read_metrics(path)
    figures = {}
    with house_style(ink=_INK):
        for title, wanted in _FIGURES.items():
            present = [panel for panel in wanted if panel.has_data(metrics)]
            if present:
                figures[title] = _svg(title, present, metrics)
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
            axes.axhline(self.reference, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.6)
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


def _svg(title: str, panels: list[_Panel], rows: pl.DataFrame) -> str:
    # Few points wide, for text legible on a phone; of one height, for cards in even rows.
    figure = Figure(figsize=(4.7, 3.3), layout="constrained")
    FigureCanvasSVG(figure)
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axes, panel in zip(grid, panels, strict=True):
        panel.draw(axes, rows)
    count_axis(grid[-1], "environment steps")
    figure.align_ylabels(list(grid))
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline(buffer.getvalue(), title)


def _inline(svg: str, title: str) -> str:
    """An SVG file as an element of a page: no prologue, no fixed size, ids of its own, page's text colour."""
    svg = svg[svg.index("<svg") :]
    prefix = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
    for index, color in enumerate(PALETTE):
        svg = svg.replace(color, f"var(--curve-{index}, {color})")
    return svg.replace(_INK, "currentColor")


def _draw_environment(row: np.ndarray, columns: list[str], runs: list[_Run], colors: dict[str, str]) -> None:
    labels = sorted({run.label for run in runs})
    for axes, column in zip(row, columns, strict=True):
        levels: list[Line2D] = []
        for label in labels:
            group = [run for run in runs if run.label == label]
            if column == "comparisons" and not any(len(_positive(run)) for run in group):
                levels += _draw_level(axes, group, colors[label])
            else:
                _draw_group(axes, column, group, colors[label])
        if levels:
            axes.legend(handles=levels, loc="lower right")
        count_axis(axes, "environment steps" if column == "step" else "comparisons used")
    row[0].set_ylabel("true return of an episode")
    row[0].legend(loc="best", frameon=True, framealpha=0.85, edgecolor="none")


def _draw_level(axes: Axes, group: list[_Run], color: str) -> list[Line2D]:
    finals = [values[-1] for _, values in (run.curve("step") for run in group) if len(values)]
    if not finals:
        return []
    label = f"{group[0].label}, at its end"
    return [
        axes.axhline(float(np.mean(finals)), color=color, linestyle=(0, (5, 3)), linewidth=1.4, label=label)
    ]


def _draw_group(axes: Axes, column: str, group: list[_Run], color: str) -> None:
    curves = [run.curve(column) for run in group]
    summary = summarise(curves)
    label = f"{group[0].label}, {_count(group)}"
    if len(group) > 1:
        for x, y in curves:
            axes.plot(
                x, y, color=color, alpha=0.3, linewidth=0.9, marker="o" if len(x) < 2 else None, markersize=3
            )
    if summary.low is not None and summary.high is not None:
        axes.fill_between(summary.steps, summary.low, summary.high, color=color, alpha=0.18, linewidth=0)
        label += ", 95 % interval"
    marker = "o" if len(summary.steps) < 3 else None
    axes.plot(summary.steps, summary.mean, color=color, label=label, marker=marker, markersize=4)


def _count(group: list[_Run]) -> str:
    seeds = {str(run.seed) for run in group}
    noun = "seed" if len(seeds) == len(group) else "run"
    return f"{len(group)} {noun}{'s' if len(group) > 1 else ''}"


def _load(path: Path, label: str | None) -> _Run:
    config = RunFolder.open(path).config
    evaluations = read_metrics(path).filter(pl.col("kind") == "eval", pl.col("true_return").is_not_null())
    if evaluations.is_empty():
        raise InputError(f"{path} has no evaluation yet: let it run on, or leave it out")
    env = str(config.get("env", "unknown environment"))
    return _Run(env, label or method_label(config), config.get("seed"), evaluations)


def _positive(run: _Run) -> pl.DataFrame:
    return run.evaluations.filter(pl.col("comparisons") > 0)


def _curve(rows: pl.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    table = rows.select("step", column).drop_nulls()
    return clean(table["step"].to_numpy(), table[column].to_numpy())


def count_axis(axes: Axes, label: str) -> None:
    """Ticks at whole numbers, large ones with k or M."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(_short))


def _short(value: float, position: int | None = None) -> str:
    """1000 as 1k, 2,500,000 as 2.5M."""
    del position
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


@contextmanager
def house_style(ink: str = "#222222") -> Iterator[None]:
    """The look of all figures; `ink` colours text and axes."""
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    settings: Any = _STYLE | dict.fromkeys(inked, ink)
    with mpl.rc_context(settings):
        yield
