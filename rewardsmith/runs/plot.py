"""Learning curves: several runs overlaid; and the look of all figures."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

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
def house_style(ink: str = "#222222") -> Generator[None, None, None]:
    """The look of all figures; `ink` colours text and axes."""
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    settings: Any = _STYLE | dict.fromkeys(inked, ink)
    with mpl.rc_context(settings):
        yield
