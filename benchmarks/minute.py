"""Where a minute of training goes: short runs of the command line, from start to report, part by part."""

import sys
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rewardsmith._core import write_atomically
from rewardsmith.runs.plot import PALETTE, house_style

from .profiled import PARTS
from .rounds import Row, Say
from .worker import Worker, first_to_answer

NAME, PICTURE = "minute", Path("images") / "profile.png"
# About how many seconds all runs take, two at a time; for the plan that is printed.
PLANNED = 170.0
# Longest first. Those of vectors get --steps and --comparisons, too.
RUNS: dict[str, tuple[str, ...]] = {
    "SoBiRL, one-step": (),
    "SoBiRL, suffix": ("--estimator", "suffix"),
    "SoBiRL, Atari": (
        *("--env", "ALE/BeamRider-v5", "--preset", "atari", "--comparisons", "40"),
        *("--leader-warmup-steps", "2", "--leader-steps", "2", "--eval-episodes", "1"),
    ),
    "DRLHF": ("--method", "drlhf"),
    "SAC": ("--method", "sac"),
}
# Drawn without a graphics card a film takes longer than all else, and the same in every run: once is enough.
_FILMED = "SoBiRL, one-step"
# One a part. A share is written where it is wide enough, of the longest bar.
_COLOURS = (
    *("#444444", "#999999", PALETTE[5], PALETTE[4], "#8c6d31"),
    *(PALETTE[3], PALETTE[1], PALETTE[2], "#66c2a5", PALETTE[0], "#cccccc"),
)
_LEGIBLE = 0.03
_STEPS, _QUICK_STEPS, _PICTURES_STEPS = 4000, 400, 480


def measure(cores: Sequence[int | None], say: Say, *, quick: bool) -> tuple[list[Row], dict[str, str]]:
    """Seconds of each part of each run, a row each, and the versions of what ran.

    Args:
        cores: as many runs at once, each on a core of its own.
        say: prints a line of progress.
        quick: shorter runs.
    """
    waiting, free = deque(RUNS), deque(cores)
    found: dict[str, dict[str, float]] = {}
    running: dict[Worker, tuple[str, int | None]] = {}
    versions: dict[str, str] = {}
    with ExitStack() as living:
        while waiting or running:
            while waiting and free:
                name, core = waiting.popleft(), free.popleft()
                worker = Worker(sys.executable, core, ("benchmarks.profiled", _kind(name)))
                living.callback(worker.close)
                versions = worker.versions
                worker.start(options=_options(name, quick))
                running[worker] = name, core
                say(f"{NAME}: {name} has begun")
            worker = first_to_answer(running)
            name, core = running.pop(worker)
            found[name] = worker.finish()
            free.append(core)
            say(f"{NAME}: {name} took {sum(found[name].values()):.0f} s")
    rows = [
        Row(NAME, "s", part, None, (found[name].get(part, 0.0),), series=name, x=_steps(name, quick))
        for name in reversed(RUNS)
        for part in PARTS
    ]
    return rows, versions


def _kind(name: str) -> str:
    if _pictures(name):
        return "pictures"
    return "whole" if name == _FILMED else "no film"


def _pictures(name: str) -> bool:
    return "atari" in RUNS[name]


def _steps(name: str, quick: bool) -> int:
    if _pictures(name):
        return _PICTURES_STEPS
    return _QUICK_STEPS if quick else _STEPS


def _options(name: str, quick: bool) -> list[str]:
    steps = _steps(name, quick)
    options = [*RUNS[name], "--steps", str(steps)]
    # As many for each step as in a run of the default length.
    return options if _pictures(name) else [*options, "--comparisons", str(max(10, steps // 100))]


# --- what is written


def section(rows: Sequence[Row]) -> list[str]:
    """Of the page: the picture, what it shows, and the shares."""
    runs = list(dict.fromkeys(row.series for row in rows))
    told = [
        f"{series}: {', '.join(f'{row.ours} {share:.0%}' for row, share in _shares(rows, series)[:3])}"
        for series in runs
    ]
    return [
        "",
        "## Where a minute goes",
        "",
        f"![Seconds of short runs by what they were spent on]({PICTURE})",
        "",
        "Short runs of `rewardsmith train`, default settings but for their length, on HalfCheetah-v5, or "
        "with `--preset atari` on BeamRider (2 gradient steps on the reward a session, one episode an "
        "evaluation), from the command to the report; one core each. Nothing compiled was at hand; a second "
        "run finds it. The stack of the thread that trains is looked at two hundred times a second, while "
        "programs run where they are called (no asynchronous dispatch). The largest parts: "
        f"{'; '.join(told)}. Imports and compilation do not grow with the length of a run, and neither does "
        f"the film, drawn without a graphics card; it was made in {_FILMED} alone, and takes as long in the "
        "others.",
        "",
        f"| seconds | {' | '.join(f'{_told(rows, series)}' for series in runs)} |",
        "|---|" + "---:|" * len(runs),
        *(
            f"| {part} | {' | '.join(f'{_seconds(rows, series, part):.1f}' for series in runs)} |"
            for part in PARTS
        ),
        f"| all | {' | '.join(f'{_whole(rows, series):.1f}' for series in runs)} |",
    ]


def draw(rows: Sequence[Row], out: Path) -> None:
    """A bar a run, its parts side by side."""
    runs = list(dict.fromkeys(row.series for row in rows))
    with house_style():
        figure = Figure(figsize=(10.5, 4.4), dpi=150, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        left = dict.fromkeys(runs, 0.0)
        for part, colour in zip(PARTS, _COLOURS, strict=True):
            seconds = [_seconds(rows, series, part) for series in runs]
            bars = axes.barh(range(len(runs)), seconds, 0.7, list(left.values()), color=colour, label=part)
            shares = [value / _whole(rows, series) for value, series in zip(seconds, runs, strict=True)]
            longest = max(_whole(rows, series) for series in runs)
            told = [
                f"{share:.0%}" if value >= _LEGIBLE * longest else ""
                for value, share in zip(seconds, shares, strict=True)
            ]
            axes.bar_label(bars, told, label_type="center", fontsize=7, color="white")
            for series, value in zip(runs, seconds, strict=True):
                left[series] += value
        axes.set_yticks(range(len(runs)), [_told(rows, series) for series in runs])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("seconds")
        figure.legend(loc="outside lower center", ncols=6, fontsize=8)
        with write_atomically(out) as temporary:
            figure.savefig(temporary, format="png")


def _told(rows: Sequence[Row], series: str | None) -> str:
    steps = next(row.x for row in rows if row.series == series)
    return f"{series}, {steps:,} steps"


def _seconds(rows: Sequence[Row], series: str | None, part: str) -> float:
    return sum(row.our_rates[0] for row in rows if (row.series, row.ours) == (series, part))


def _whole(rows: Sequence[Row], series: str | None) -> float:
    return sum(row.our_rates[0] for row in rows if row.series == series)


def _shares(rows: Sequence[Row], series: str | None) -> list[tuple[Row, float]]:
    """Of one run, the largest first."""
    mine = sorted((row for row in rows if row.series == series), key=lambda row: -row.our_rates[0])
    return [(row, row.our_rates[0] / _whole(rows, series)) for row in mine]
