"""A grid world at one x: what the leader pays, what the follower does, where it goes."""

import re
import string
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure

from ..._core.atomic import writing
from ...mdp import MDP, expect, state_occupancy
from ...problems.task import Grid, Task
from ..plot import house_style
from .measure import policy_of

_POLICY = "policy, and its entropy / log A"
_WALL = "#3a4048"
# Light enough for dark arrows.
_PALE = LinearSegmentedColormap.from_list("pale", ["#fffdf2", "#8fbfdf"])
# Of the widest map, in inches: small maps need not be huge, nor large ones have arrows too small to see.
_LEAST, _MOST, _CELL = 2.6, 4.6, 0.34


def draw_grid(task: Task, x: PyTree, title: str, out: Path) -> Path:
    """Draw payment, policy and occupancy side by side, one row a follower.

    An arrow is Σ_a π(a|s) u_a, with u_a the unit direction in which action a moves on average: its length
    tells how sure the follower is. Behind it, the entropy of π. Occupancy is the expected number of
    discounted visits from the problem's start. Walls are dark, marks are letters explained below; terminal
    states have no arrow. Each column has one scale.

    Args:
        task: with a grid.
        x: where.
        title: behind the task's name.
        out: the picture, of a format by its suffix.

    Returns:
        `out`.
    """
    grid = task.grid
    assert grid is not None
    world, policy = task.problem.world_at(x), policy_of(task.problem, x)
    visits = np.asarray(state_occupancy(world, policy))
    payment = None if task.payment is None else np.asarray(task.payment(x))
    directions = _directions(world, grid)
    probabilities, ends = np.asarray(policy), np.asarray(world.terminal)
    logs = np.log(np.where(probabilities > 0, probabilities, 1.0))
    entropy = -np.sum(probabilities * logs, axis=1) / max(np.log(probabilities.shape[1]), 1e-12)
    columns: list[tuple[str, np.ndarray, Any, Any]] = []
    if payment is not None:
        columns.append(("payment", payment, *_payment_colours(payment[: _states(grid)])))
    columns.append((_POLICY, np.where(ends, np.nan, entropy), _PALE, Normalize(0, 1)))
    top = float(visits[: _states(grid)].max()) or 1.0
    columns.append(("occupancy (discounted visits)", visits, "YlOrRd", PowerNorm(0.5, 0, top)))
    letters = _letters(list(grid.marks))
    with house_style():
        figure = _figure(grid, len(columns))
        every = figure.subplots(len(grid.contexts), len(columns), squeeze=False)
        for row, context in enumerate(grid.contexts):
            mine = slice(row * len(grid.cells), (row + 1) * len(grid.cells))
            for axes, (name, values, colours, norm) in zip(every[row], columns, strict=True):
                _map(axes, grid, values[mine], colours, norm)
                if name == _POLICY:
                    _arrows(axes, grid, (probabilities @ directions)[mine], ends[mine])
                for mark, place in grid.marks.items():
                    _letter(axes, letters[mark], place, beside=name == _POLICY)
            every[row][0].set_ylabel(context, fontsize=10)
        for below, (name, _, colours, norm) in zip(every.T, columns, strict=True):
            below[0].set_title(name, loc="left", fontsize=10)
            _bar(figure, list(below), colours, norm)
        figure.suptitle(f"{task.name} · {title}", x=0.01, ha="left", fontweight="bold")
        if grid.marks:
            explained = "    ".join(f"{letter}  {mark}" for mark, letter in letters.items())
            figure.supxlabel(explained, x=0.01, ha="left", fontsize=9)
        with writing(out) as temporary:
            figure.savefig(temporary)
    return out


def _figure(grid: Grid, columns: int) -> Figure:
    rows, width = grid.shape
    cell = min(_MOST / max(rows, width), max(_LEAST / max(rows, width), _CELL))
    size = columns * (width * cell + 0.35) + 0.5, len(grid.contexts) * (rows * cell + 0.15) + 1.3
    figure = Figure(figsize=size, dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _states(grid: Grid) -> int:
    return len(grid.cells) * len(grid.contexts)


def _payment_colours(payment: Float[np.ndarray, " n"]) -> tuple[Any, Any]:
    """Two colours where it is given and taken, one where only one of them."""
    low, high = float(payment.min()), float(payment.max())
    if low < 0 < high:
        most = max(-low, high)
        return "RdBu", Normalize(-most, most)
    if low < 0:
        return "Reds_r", Normalize(low, 0.0)
    return "Blues", Normalize(0.0, high or 1.0)


def _bar(figure: Figure, column: list[Axes], colours: Any, norm: Any) -> None:
    scale = ScalarMappable(norm, colours)
    bar = figure.colorbar(scale, ax=column, location="bottom", shrink=0.85, aspect=28, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)


def _map(axes: Axes, grid: Grid, values: Float[np.ndarray, " n"], colours: Any, norm: Any) -> None:
    picture, walls = np.full(grid.shape, np.nan), np.ones(grid.shape)
    rows, columns = np.array(grid.cells).T
    picture[rows, columns], walls[rows, columns] = values, np.nan
    axes.imshow(walls, cmap=ListedColormap([_WALL]), interpolation="nearest")
    axes.imshow(picture, cmap=colours, norm=norm, interpolation="nearest")
    axes.grid(visible=False)
    axes.set_xticks(np.arange(grid.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(grid.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.4, alpha=0.7)
    axes.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _directions(world: MDP, grid: Grid) -> Float[np.ndarray, "A 2"]:
    """(row, column) unit vector of the mean move of each action; zero for one that goes nowhere.

    A world does not say which action is which way, but where it leads does.
    """
    cells = np.tile(np.array(grid.cells, float), (len(grid.contexts), 1))
    places = np.zeros((world.num_states, 2))
    places[: len(cells)] = cells
    # Ends lead to nowhere, which is no move to the origin; nor are states beyond the map a move on it.
    counted = ~np.asarray(world.terminal) & (np.arange(world.num_states) < len(cells))
    moves = np.stack(
        [np.asarray(expect(world.transition, jnp.asarray(axis))) - axis[:, None] for axis in places.T],
        axis=-1,
    )
    mean = moves[counted].mean(axis=0)
    lengths = np.linalg.norm(mean, axis=1, keepdims=True)
    # Half the longest: what a slip adds to an action that stays is no direction.
    return np.where(lengths > 0.5 * max(lengths.max(), 1e-12), mean / np.maximum(lengths, 1e-12), 0.0)


def _arrows(axes: Axes, grid: Grid, vectors: Float[np.ndarray, "n 2"], ends: np.ndarray) -> None:
    shown = ~ends & (np.linalg.norm(vectors, axis=1) > 0.05)
    if not shown.any():
        return
    rows, columns = np.array(grid.cells)[shown].T
    down, right = 0.85 * vectors[shown].T
    axes.quiver(
        columns, rows, right, down, angles="xy", scale_units="xy", scale=1.0, pivot="mid",
        units="xy", width=0.09, headwidth=3.6, headlength=3.6, headaxislength=3.2, minlength=0.2,
        color="#1c2430",
    )  # fmt: skip


def _letter(axes: Axes, letter: str, place: tuple[int, int], *, beside: bool) -> None:
    """The letter of a cell; in a corner of it where an arrow has its middle."""
    halo = [patheffects.withStroke(linewidth=2.2, foreground="white")]
    row, column = (at - 0.28 * beside for at in place)
    axes.text(
        column, row, letter, ha="center", va="center_baseline", color="#8a0f5c", fontweight="bold",
        fontsize=7 if beside else 9, path_effects=halo,
    )  # fmt: skip


def _letters(marks: list[str]) -> dict[str, str]:
    """A short name of its own for each mark: its first letter, with its number if it has one."""
    taken: dict[str, str] = {}
    for mark in marks:
        first, number = mark[:1].upper(), re.sub(r".*?(\d*)$", r"\1", mark)
        wanted = [first + number, *mark.upper(), *string.ascii_uppercase, *string.digits]
        free = [name for name in wanted if name.strip() and name not in taken.values()]
        taken[mark] = free[0] if free else "?"
    return taken
