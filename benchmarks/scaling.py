"""Curves: speed against environments, reward networks, transitions in a batch, seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from rewardsmith._core import write_atomically
from rewardsmith.runs.plot import PALETTE, house_style

from .rounds import Row, summary
from .subject import Side, Subject

NAME, PICTURE = "scaling", Path("images") / "scaling.png"
ENVIRONMENTS, ENSEMBLES = (1, 2, 4, 8, 16, 32, 64), (1, 3, 5, 10, 20)
BATCHES, SEEDS = (32, 64, 128, 256, 512, 1024, 2048), (1, 2, 4, 8)
_TOGETHER, _BESIDE = "one program", "two processes"
# Gradient steps of the leader and of the learner in one compiled call; environments of a seed.
_LEADER_STEPS, _FUSED, _NUM_ENVS = 10, 8, 8


@dataclass(frozen=True)
class Curve:
    """One panel: sides that are measured in turn, and where each of them is drawn.

    Args:
        subject: without ratios.
        points: by label of a side, the series it belongs to and the x of its point.
        x: what is varied.
    """

    subject: Subject
    points: Mapping[str, tuple[str, int]]
    x: str

    def rows(self, rates: Mapping[str, tuple[float, ...]]) -> list[Row]:
        """One a point."""
        name, unit = self.subject.name, self.subject.unit
        return [
            Row(name, unit, label, None, rates[label], series=series, x=x)
            for label, (series, x) in self.points.items()
        ]


def curves(quick: bool) -> list[Curve]:
    """All four."""
    return [_environments(quick), _ensembles(quick), _batches(quick), seeds(quick)]


def seeds(quick: bool, counts: Sequence[int] = SEEDS, *, alone: bool = True) -> Curve:
    """Several seeds in one program; `alone`: also one in each of two processes."""
    sides = [
        Side(f"{count} in one program", _run_of(_NUM_ENVS, count), {}, _NUM_ENVS * count) for count in counts
    ]
    points = {side.label: (_TOGETHER, count) for side, count in zip(sides, counts, strict=True)}
    how = (
        f"Training as above, {_NUM_ENVS} environments a seed, against the seeds that are trained; steps of "
        "all seeds together. One program: `train --seeds`, one compiled call for all. "
    )
    if alone:
        pair = Side("1 in each of two processes", sides[0].program, {}, _NUM_ENVS, copies=2)
        sides.append(pair)
        points[pair.label] = (_BESIDE, 2)
        how += (
            "Two processes: one seed each, each on a core of its own. One after another, in one process or "
            "in two, seeds have the speed of the first point for any number of them (drawn dashed)."
        )
    return Curve(_subject("seeds", "Seeds", how, "steps/s", sides, quick, 1.0), points, "seeds")


def _environments(quick: bool) -> Curve:
    sides = [
        Side(_plural(count, "environment"), _run_of(count), {}, multiple=count) for count in ENVIRONMENTS
    ]
    how = (
        "Training end to end on the true reward, HalfCheetah-v5, against the copies of the environment that "
        "are stepped together; as many fused updates a call as there are copies, so one for each step."
    )
    return _along("environments", how, "steps/s", sides, ENVIRONMENTS, quick, 1.0)


def _ensembles(quick: bool) -> Curve:
    options = {"how": "compiled", "steps": _LEADER_STEPS}
    sides = [
        Side(
            _plural(count, "network"),
            ("benchmarks.reward_model",),
            options | {"members": count},
            multiple=_LEADER_STEPS,
        )
        for count in ENSEMBLES
    ]
    how = (
        f"Gradient steps of the leader as in *Reward model*, {_LEADER_STEPS} in a compiled call, against the "
        "size of the ensemble."
    )
    return _along("ensemble", how, "updates/s", sides, ENSEMBLES, quick, 0.5)


def _batches(quick: bool) -> Curve:
    options = {"fused": _FUSED}
    sides = [
        Side(f"batch of {size}", ("benchmarks.sac_learner",), options | {"batch": size}, _FUSED)
        for size in BATCHES
    ]
    how = f"SAC learner as above, {_FUSED} updates a call, against the transitions in a batch."
    return _along("batch", how, "updates/s", sides, BATCHES, quick, 0.5)


def _along(
    name: str, how: str, unit: str, sides: list[Side], values: Sequence[int], quick: bool, length: float
):
    points = {side.label: ("", value) for side, value in zip(sides, values, strict=True)}
    return Curve(_subject(name, name.capitalize(), how, unit, sides, quick, length), points, _AXES[name])


def _subject(name: str, title: str, how: str, unit: str, sides: list[Side], quick: bool, length: float):
    return Subject(
        f"{NAME}-{name}", title, how, unit, tuple(sides), (), rounds=5, seconds=0.1 if quick else length
    )


def _run_of(num_envs: int, seeds: int = 1) -> tuple[str, ...]:
    return ("benchmarks.end_to_end", "sac", str(num_envs), "100", str(seeds))


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("s" if count > 1 else "")


_AXES = {
    "environments": "environments stepped together",
    "ensemble": "reward networks",
    "batch": "transitions in a batch",
}


# --- what is written


def section(curves: Sequence[Curve], rows: Sequence[Row]) -> list[str]:
    """Of the page: the picture, and a line for each series."""
    lines = ["", "## Scaling", "", f"![Speed against environments, ensemble, batch, seeds]({PICTURE})"]
    for curve in curves:
        subject = curve.subject
        mine = [row for row in rows if row.subject == subject.name]
        values = sorted({row.x for row in mine if row.x is not None})
        lines += [
            "",
            f"**{subject.title}.** {subject.how} {subject.rounds} rounds; medians, below them the spread.",
            "",
            f"| {curve.x} | {' | '.join(f'{value:,}' for value in values)} |",
            "|---|" + "---:|" * len(values),
        ]
        for series in dict.fromkeys(row.series for row in mine):
            found = {row.x: row.our_rates for row in mine if row.series == series}
            told = f"{series}, {subject.unit}" if series else subject.unit
            lines.append(f"| {told} | {' | '.join(_cell(found.get(value, ())) for value in values)} |")
            if subject.name == f"{NAME}-batch":
                samples = {x: tuple(x * rate for rate in rates) for x, rates in found.items() if x}
                lines.append(f"| samples/s | {' | '.join(_cell(samples.get(x, ())) for x in values)} |")
    return lines


def draw(curves: Sequence[Curve], rows: Sequence[Row], out: Path) -> None:
    """One panel a curve: medians as points, least to greatest as bars."""
    with house_style(), mpl.rc_context({"axes.titlelocation": "left"}):
        figure = Figure(figsize=(10.5, 7.2), dpi=150, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        for axes, curve in zip(figure.subplots(2, 2).flat, curves, strict=False):
            _panel(axes, curve, [row for row in rows if row.subject == curve.subject.name])
        with write_atomically(out) as temporary:
            figure.savefig(temporary, format="png")


def _panel(axes: Axes, curve: Curve, rows: Sequence[Row]) -> None:
    if curve.subject.name == f"{NAME}-batch":
        # Samples rise where updates fall: both on one scale would hide both.
        _line(axes, rows, PALETTE[0], "updates/s")
        beside = axes.twinx()
        _line(beside, rows, PALETTE[1], "samples/s", times_x=True)
        beside.set_ylim(bottom=0)
        beside.grid(False)
        beside.spines["right"].set_visible(True)
        beside.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        beside.set_ylabel("samples/s", color=PALETTE[1])
        axes.set_ylabel("updates/s", color=PALETTE[0])
    else:
        for index, series in enumerate(dict.fromkeys(row.series for row in rows)):
            mine = [row for row in rows if row.series == series]
            _line(axes, mine, PALETTE[index], series or None)
            if curve.subject.name == f"{NAME}-seeds" and mine[0].our_rates:
                label = "one after another" if series == _TOGETHER else f"one after another, {series}"
                middle = summary(mine[0].our_rates)[0]
                axes.axhline(middle, color=PALETTE[index], lw=1, ls="--", zorder=1, label=label)
        axes.set_ylabel(curve.subject.unit)
        if len({row.series for row in rows}) > 1:
            axes.legend(fontsize=8, loc="best")
    axes.set_title(curve.subject.title, fontsize=10)
    axes.set_xlabel(curve.x)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({row.x for row in rows if row.x is not None}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(bottom=0)


def _line(axes: Axes, rows: Sequence[Row], colour: str, label: str | None, *, times_x: bool = False) -> None:
    points = []
    for row in rows:
        if row.our_rates and row.x is not None:
            points.append((row.x, *(value * (row.x if times_x else 1) for value in summary(row.our_rates))))
    if not points:
        return
    x, median, least, most = zip(*points, strict=True)
    below = [middle - low for middle, low in zip(median, least, strict=True)]
    above = [high - middle for middle, high in zip(median, most, strict=True)]
    axes.errorbar(x, median, (below, above), color=colour, marker="o", ms=4, capsize=2, label=label)


def _cell(rates: Sequence[float]) -> str:
    if not rates:
        return ""
    median, least, most = summary(rates)
    return f"{median:,.0f}<br>{least:,.0f} – {most:,.0f}"
