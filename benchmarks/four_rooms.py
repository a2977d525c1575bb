"""``python -m benchmarks.four_rooms``: `search` on Four-Rooms from many seeds, beside the published scores.

Writes docs/four-rooms.md and docs/images/four-rooms.png. One process a core, each pinned to its own; some
ten minutes on two cores for ten seeds.
"""

import argparse
import os
import queue
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rewardsmith as rs
from rewardsmith._core import write_atomically
from rewardsmith.problems import Task, make
from rewardsmith.runs.exact.picture import draw_grid

from . import page
from .worker import Worker, run_program

PACKAGES = ("rewardsmith", "jax", "equinox", "optax", "numpy")
_ROOT = Path(__file__).resolve().parents[1]
TEMPERATURES, PENALTIES, _DRAWN = (0.001, 0.003, 0.005), (1, 3, 5), 3
SETTINGS = {"rungs": 6, "ratio": 1.5, "steps": 300, "hold": 20, "keep": 2, "polish": 200}
_STEP_SIZE, _TOLERANCE, _SCALE = 0.2, 1e-9, 0.1
Cell = tuple[float, int]

# (τ, penalty) -> mean and standard error over ten seeds, as printed: HPGD, Thoma et al., NeurIPS 2024.
METHODS = ("HPGD", "AMD", "zeroth order")
PUBLISHED: dict[Cell, tuple[str, str, str]] = {
    (0.001, 1): ("0.91 ± 0.088", "0.58 ± 0.000", "0.59 ± 0.059"),
    (0.001, 3): ("0.51 ± 0.006", "0.51 ± 0.000", "0.50 ± 0.005"),
    (0.001, 5): ("0.46 ± 0.006", "0.46 ± 0.003", "0.46 ± 0.007"),
    (0.003, 1): ("0.95 ± 0.002", "1.00 ± 0.000", "0.91 ± 0.048"),
    (0.003, 3): ("0.73 ± 0.001", "0.39 ± 0.000", "0.40 ± 0.028"),
    (0.003, 5): ("0.29 ± 0.003", "0.32 ± 0.000", "0.32 ± 0.002"),
    (0.005, 1): ("1.17 ± 0.011", "1.28 ± 0.003", "1.15 ± 0.026"),
    (0.005, 3): ("1.01 ± 0.002", "1.13 ± 0.004", "1.02 ± 0.027"),
    (0.005, 5): ("0.87 ± 0.003", "0.97 ± 0.009", "0.79 ± 0.027"),
}


@dataclass(frozen=True)
class Run:
    """One search from one seed.

    Attributes:
        temperature, penalty, seed: which.
        leader_return: F of the best x, exact, mean over both contexts.
        steps: of the leader, all runs of the search together.
        seconds: of those steps, compilation left out.
        x: the best.
    """

    temperature: float
    penalty: int
    seed: int
    leader_return: float
    steps: int
    seconds: float
    x: Sequence[float]

    @property
    def cell(self) -> Cell:
        return self.temperature, self.penalty


def best_published(cell: Cell) -> float:
    """The highest published mean."""
    return max(float(told.split()[0]) for told in PUBLISHED[cell])


# --- in the child


def build() -> Callable[..., dict[str, Any]]:
    jax.config.update("jax_enable_x64", True)
    # Made once: a new optimiser would compile anew.
    method = rs.ImplicitGradient(_STEP_SIZE, optimiser=optax.adam(1.0), tolerance=_TOLERANCE)
    tasks = cache(make_task)

    def measure(temperature: float, penalty: int, seed: int) -> dict[str, Any]:
        return asdict(run(tasks((temperature, penalty)), method, (temperature, penalty), seed, SETTINGS))

    return measure


def make_task(cell: Cell) -> Task:
    """Four-Rooms of that temperature and penalty, all else as in the source but where x starts."""
    return make("four-rooms", temperature=cell[0], penalty=float(cell[1]), scale=_SCALE)


def run(task: Task, method: rs.ImplicitGradient, cell: Cell, seed: int, settings: dict[str, Any]) -> Run:
    """Search from one seed."""
    found = rs.search(task.problem, method, task.start, key=jax.random.key(seed), ease=task.ease, **settings)
    value, _ = rs.hypergradient(task.problem, found.value)
    seconds, x = float(found.seconds[-1]), np.asarray(found.value).tolist()
    return Run(*cell, seed, -float(value), int(found.num_steps), seconds, x)


# --- in the parent


def measure(
    cells: Sequence[Cell], seeds: int, cores: Sequence[int | None], say: Callable[[str], None]
) -> tuple[list[Run], dict[str, str]]:
    """All runs, one process on each core, cell by cell; and the versions of what ran."""
    with ExitStack() as living:
        workers: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        versions: dict[str, str] = {}
        for core in cores:
            worker = living.enter_context(Worker(sys.executable, core, ("benchmarks.four_rooms",)))
            versions = worker.versions
            workers.put(worker)

        def one(cell: Cell, seed: int) -> Run:
            worker = workers.get()
            try:
                done = Run(**worker.measure(temperature=cell[0], penalty=cell[1], seed=seed))
            finally:
                workers.put(worker)
            say(
                f"τ={cell[0]} penalty {cell[1]} seed {seed}: F {done.leader_return:.4f}, {done.seconds:.1f} s"
            )
            return done

        with ThreadPoolExecutor(len(cores)) as pool:
            waiting = [pool.submit(one, cell, seed) for cell in cells for seed in range(seeds)]
            try:
                return [future.result() for future in waiting], versions
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def render(runs: Sequence[Run], cores: Sequence[int | None], where: page.Circumstances) -> str:
    """The page."""
    cells = list(dict.fromkeys(run.cell for run in runs))
    seeds = sorted({run.seed for run in runs})
    versions = ", ".join(f"{name} {version}" for name, version in where.versions["ours"].items())
    settings = ", ".join(f"{name}={value}" for name, value in SETTINGS.items())
    pinned = "not pinned" if None in cores else "each pinned to a core of its own"
    lines = [
        "# Four-Rooms",
        "",
        "![Payment, policy and occupancy of the best solutions at penalty 3](images/four-rooms.png)",
        "",
        "Two walkers, two goals, one set of charges: the incentive design problem of HPGD (Thoma et al., "
        "NeurIPS 2024, arXiv 2406.01575). F is the leader's discounted return, higher is better; τ is the "
        "followers' temperature, and the penalty is what a unit of charges costs the leader.",
        "",
        "| τ | penalty | HPGD | AMD | zeroth order | ours, mean | least | greatest | seeds ≥ published | "
        "leader steps | seconds a run |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(_line(cell, [run for run in runs if run.cell == cell]) for cell in cells),
        "",
        "*Published*: mean ± standard error over ten seeds, as printed in that paper; in bold the best mean "
        "of a cell. *Seeds ≥ published* are those of ours whose F is no less than that number. The "
        "published score is F of the context drawn in each leader step, by exact policy evaluation, averaged "
        "over the last 1,000 of 10,000 steps; learning rates were chosen for each cell by that same score. "
        "HPGD and zeroth order see sampled trajectories only; AMD and ours use the model.",
        "",
        "*Ours*: F at the x that the search ends with, exact, the mean over both contexts, episodes without "
        "a time limit; the same settings in every cell, and no seed left out. `search` with "
        f"`ImplicitGradient({_STEP_SIZE}, optimiser=optax.adam(1.0), tolerance={_TOLERANCE:g})`, {settings}, "
        f"and the penalty eased in; x0 ~ N(0, {_SCALE}²). Leader steps are of the whole search. Seconds: "
        "median (least – greatest) over seeds, compilation left out. The kernel is other-move, with which "
        "the published code plans and scores too.",
        "",
        f"* machine: {where.machine}, {where.cores} cores; CPU only, float64",
        f"* processes: {len(cores)}, {pinned}",
        f"* load before the run: {where.load:.1f}"
        + (" — the machine was busy with other work" if where.load > 0.5 else ""),
        f"* date: {where.date}",
        f"* made by `{where.command}`; seeds {seeds[0]} to {seeds[-1]}",
        f"* {versions}",
    ]
    return "\n".join(lines) + "\n"


def best_at(runs: Sequence[Run], penalty: int) -> list[Run]:
    """The best run of each temperature at one penalty."""
    mine = [run for run in runs if run.penalty == penalty]
    return [
        max((run for run in mine if run.temperature == tau), key=lambda run: run.leader_return)
        for tau in dict.fromkeys(run.temperature for run in mine)
    ]


def draw(runs: Sequence[Run], out: Path) -> None:
    """One solution below the other: payment, policy, occupancy."""
    with tempfile.TemporaryDirectory() as folder, jax.enable_x64(True):
        pictures = []
        for run in runs:
            title = f"τ = {run.temperature}, penalty {run.penalty}: leader return {run.leader_return:.3f}"
            path = draw_grid(make_task(run.cell), jnp.asarray(run.x), title, Path(folder) / "one.png")
            pictures.append(_halved(imageio.imread(path)))
    width = max(picture.shape[1] for picture in pictures)
    padded = [
        np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)
        for picture in pictures
    ]
    with write_atomically(out) as temporary:
        imageio.imwrite(temporary, np.vstack(padded))


def _halved(picture: np.ndarray) -> np.ndarray:
    """Each pixel the mean of four."""
    height, width = (size // 2 for size in picture.shape[:2])
    blocks = picture[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def _line(cell: Cell, runs: Sequence[Run]) -> str:
    best = best_published(cell)
    told = [f"**{text}**" if float(text.split()[0]) == best else text for text in PUBLISHED[cell]]
    returns, seconds = [run.leader_return for run in runs], [run.seconds for run in runs]
    reached = sum(value >= best for value in returns)
    steps = sorted({run.steps for run in runs})
    counted = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} – {steps[-1]:,}"
    return (
        f"| {cell[0]} | {cell[1]} | {' | '.join(told)} | {statistics.fmean(returns):.3f} "
        f"| {min(returns):.3f} | {max(returns):.3f} | {reached} of {len(runs)} | {counted} "
        f"| {statistics.median(seconds):.1f} ({min(seconds):.1f} – {max(seconds):.1f}) |"
    )


def main() -> None:
    options = _options()
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"load is {load:.1f}: seconds of a busy machine are rough", flush=True)
    runs, versions = measure(
        list(PUBLISHED), options.seeds, options.cores, lambda text: print(text, flush=True)
    )
    command = f"python -m benchmarks.four_rooms --seeds {options.seeds} --processes {len(options.cores)}"
    where = page.circumstances(None, load, command, {"ours": versions})
    (options.out / "images").mkdir(parents=True, exist_ok=True)
    draw(best_at(runs, _DRAWN), options.out / "images" / "four-rooms.png")
    with write_atomically(options.out / "four-rooms.md") as temporary:
        temporary.write_text(render(runs, options.cores, where), encoding="utf-8")
    print(f"wrote {options.out / 'four-rooms.md'}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.four_rooms", description=__doc__)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    most = len(cores) or os.cpu_count() or 1
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=min(2, most), help=f"at most {most}")
    parser.add_argument("--out", type=Path, default=_ROOT / "docs", help="folder of the page and its picture")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds is {options.seeds}; give at least 1")
    if not 1 <= options.processes <= most:
        parser.error(f"--processes is {options.processes}; give 1 to {most}, one a core")
    options.cores = cores[: options.processes] or [None] * options.processes
    return options


if __name__ == "__main__":
    run_program(main, "benchmarks.four_rooms")
