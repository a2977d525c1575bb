"""``python -m benchmarks.scale``: seconds and memory of the exact world against the number of states.

Writes docs/scale.md and docs/images/scale.png. Every point lives in a process of its own, so that its peak
memory is its own. About twenty minutes up to a million states.
"""

import argparse
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from jaxtyping import Array, Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

import rewardsmith as rs
from rewardsmith._core import write_atomically
from rewardsmith.runs.plot import PALETTE, house_style

from . import page
from .exact_world import check_iterates, m_sobirl, random_task
from .random_world import make as random_world
from .worker import Worker, run_program

PACKAGES = ("rewardsmith", "jax", "equinox", "numpy")
_ROOT = Path(__file__).resolve().parents[1]
_WORLDS = ("grid", "random")
_ACTIONS, _SUCCESSORS, _DISCOUNT, _TAU, _SLIP = 4, 4, 0.95, 0.1, 0.1
_RESIDUAL = 1e-6
_DENSE = (10, 50, 200, 1000)
_DENSE_CHECK = 1000
_GIB = 2**30


@dataclass(frozen=True)
class Point:
    """One world of one size.

    Attributes:
        world: "grid" or "random".
        states: S.
        solve_first, solve: seconds of `solve_follower`, with compilation and without.
        gradient_first, gradient: the same of `hypergradient`.
        residual: max|TV − V|.
        products: with P^π, of the solve.
        memory: peak of the process, bytes, before the check.
        error: of the gradient, relative.
        check: what it was held against.
    """

    world: str
    states: int
    solve_first: float
    solve: float
    gradient_first: float
    gradient: float
    residual: float
    products: int
    memory: int
    error: float
    check: str


class _Table(eqx.Module):
    """A reward that is a table, raised in each state by x. Its arrays are arguments of what is compiled."""

    table: Float[Array, "S A"]

    def __call__(self, x: Float[Array, " S"]) -> Float[Array, "S A"]:
        return self.table + x[:, None]


class _Fixed(eqx.Module):
    table: Float[Array, "S A"]

    def __call__(self, x: Array) -> Float[Array, "S A"]:
        return self.table


def sparse_table(world: str, states: int) -> tuple[np.ndarray, np.ndarray]:
    """Successors and weights, (S, 4, 4): a grid with slips, as square as S allows, or all at random."""
    shape = (states, _ACTIONS, _SUCCESSORS)
    if world == "random":
        rng = np.random.default_rng(0)
        return rng.integers(0, states, shape, np.int32), rng.dirichlet(np.ones(_SUCCESSORS), shape[:2])
    rows = max(n for n in range(1, int(states**0.5) + 1) if states % n == 0)
    row, column = np.divmod(np.arange(states), states // rows)
    to = [
        np.clip(row + down, 0, rows - 1) * (states // rows) + np.clip(column + right, 0, states // rows - 1)
        for down, right in ((-1, 0), (0, 1), (1, 0), (0, -1))
    ]
    chances = np.full((_ACTIONS, _SUCCESSORS), _SLIP / (_SUCCESSORS - 1))
    np.fill_diagonal(chances, 1 - _SLIP)
    return np.broadcast_to(np.stack(to, 1)[:, None].astype(np.int32), shape), np.broadcast_to(chances, shape)


def make_problem(transition: Any, residual: float = _RESIDUAL) -> rs.BilevelProblem:
    """Follower and leader with random tables of reward; x adds to the follower's in each state."""
    states = transition.shape[0] if isinstance(transition, Array) else transition.num_states
    world = rs.MDP(transition, np.full(states, 1 / states), _DISCOUNT)
    rng = np.random.default_rng(1)
    follower, leader = (jnp.asarray(rng.standard_normal((states, _ACTIONS))) for _ in range(2))
    loss = rs.LeaderReturn(world, _Fixed(leader), tolerance=residual)
    return rs.BilevelProblem(world, _Table(follower), loss, _TAU)


# --- in the child


def build(what: str, *arguments: str) -> Callable[..., Any]:
    jax.config.update("jax_enable_x64", True)
    states = int(arguments[-1])
    if what == "iteration":
        return lambda: iteration_seconds(states)
    return SparseWorld(arguments[0], states).measure


class SparseWorld:
    """What is measured of one `Point`, part by part, as a child's answer may not take too long."""

    parts = ("solve", "gradient", "check")

    def __init__(self, name: str, states: int):
        self._to, self._weights = sparse_table(name, states)
        self._problem = make_problem(rs.SparseTransition(self._to, self._weights))
        self._x, self._gradient = jnp.zeros(states), jnp.zeros(states)

    def measure(self, part: str) -> dict[str, Any]:
        """Some fields of the `Point`."""
        problem, x = self._problem, self._x
        if part == "solve":
            table, solve = problem.reward(x), eqx.filter_jit(rs.solve_follower)
            answer, first, later = _timed(
                lambda: solve(problem.world, table, problem.tau, tolerance=_RESIDUAL / _TAU)
            )
            counts = {"residual": float(answer.residual), "products": int(answer.linear_iterations)}
            return {"solve_first": first, "solve": later} | counts
        if part == "gradient":
            answer, first, later = _timed(lambda: rs.hypergradient(problem, x, tolerance=_RESIDUAL))
            self._gradient = answer[1]
            return {"gradient_first": first, "gradient": later, "memory": peak_memory()}
        if len(x) <= _DENSE_CHECK:
            return {
                "error": _against_dense(self._to, self._weights, x, self._gradient),
                "check": "dense table",
            }
        return {"error": _against_differences(problem, self._gradient), "check": "finite difference"}


def iteration_seconds(states: int) -> float:
    """Seconds of one M-SoBiRL iteration on a dense random world, A = 5."""
    task, method = random_task(states), m_sobirl(states)
    check_iterates(task, method, states)
    x, steps = jnp.asarray(random_world(states).start), 50
    state = method.init(task.problem, x, jax.random.key(0))
    # No more than 500: x would come to rest, and sweeps end early.
    while True:
        taken = [rs.solve(task.problem, method, x, steps, state=state).seconds[-1] for _ in range(5)]
        if steps == 500 or sum(taken) > 2:
            return statistics.median(float(seconds) for seconds in taken) / steps
        steps *= 10


def peak_memory() -> int:
    """Most memory this process has held, bytes."""
    try:
        # Unlike `ru_maxrss`, it does not begin with what the parent held.
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most


def _timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """The answer; seconds of the first call; median of up to five later ones."""
    times = []
    while True:
        started = time.perf_counter()
        answer = jax.block_until_ready(call())
        times.append(time.perf_counter() - started)
        if len(times) == 6 or (len(times) > 1 and sum(times[1:]) > 10):
            return answer, times[0], statistics.median(times[1:])


def _against_dense(to: np.ndarray, weights: np.ndarray, x: Array, gradient: Array) -> float:
    """Relative error against the gradient in the same world as a table, to 1e-12."""
    states = len(to)
    P = np.zeros((states, _ACTIONS, states))
    np.add.at(P, (np.arange(states)[:, None, None], np.arange(_ACTIONS)[:, None], to), weights)
    _, wanted = rs.hypergradient(make_problem(jnp.asarray(P), 1e-12), x)
    return float(jnp.max(jnp.abs(gradient - wanted)) / jnp.max(jnp.abs(wanted)))


def _against_differences(problem: rs.BilevelProblem, gradient: Array) -> float:
    """Relative error of ∇φ·d against [φ(hd) − φ(−hd)] / 2h, with d of random sizes and the signs of ∇φ.

    So no two entries cancel, and a wrong one shows.
    """
    loss = rs.LeaderReturn(problem.world, problem.upper_loss.reward, tolerance=1e-11)  # pyright: ignore
    h, size = 1e-4, np.random.default_rng(2).random(gradient.shape)
    direction = jnp.sign(gradient) * size

    def phi(x: Array) -> float:
        policy = rs.solve_follower(problem.world, problem.reward(x), _TAU, tolerance=1e-9).policy
        return float(loss(x, policy))

    wanted = (phi(h * direction) - phi(-h * direction)) / (2 * h)
    return abs(float(jnp.vdot(gradient, direction)) - wanted) / abs(wanted)


# --- in the parent


def measure_point(core: int | None, name: str, states: int) -> tuple[Point, dict[str, str]]:
    """One point, from a process of its own, and the versions of what ran there."""
    with Worker(sys.executable, core, ("benchmarks.scale", "sparse", name, str(states))) as worker:
        fields: dict[str, Any] = {"world": name, "states": states}
        for part in SparseWorld.parts:
            fields |= worker.measure(part=part)
        return Point(**fields), worker.versions


def render(points: list[Point], iterations: dict[int, float], where: page.Circumstances) -> str:
    """The page."""
    pinned = "not pinned" if where.core is None else f"pinned to core {where.core}"
    versions = ", ".join(f"{name} {version}" for name, version in where.versions["ours"].items())
    lines = [
        "# Scale",
        "",
        "![Seconds and memory against the number of states](images/scale.png)",
        "",
        f"Exact φ and ∇φ in sparse worlds of S states, {_ACTIONS} actions and {_SUCCESSORS} successors, "
        f"γ = {_DISCOUNT}, τ = {_TAU}, float64. Rewards of follower and leader are normal tables; x ∈ R^S is "
        "added to the follower's, state by state; the leader wants its own discounted return. *grid*: moves "
        f"in four directions, one of the other three with probability {_SLIP}. *random*: successors uniform "
        "among all states, weights uniform on the simplex.",
        "",
        f"The follower is solved from V = 0 until max|TV − V| ≤ {_RESIDUAL:g} (`solve_follower` under `jit`; "
        "residual and products with P^π are of that solve). The hyper-gradient (`hypergradient`) includes a "
        f"solve to {_RESIDUAL:g}·τ, and linear solves to a relative residual of {_RESIDUAL:g}. First: with "
        "compilation; then: the median of one to five more calls. Each line is of a fresh process; peak "
        "memory is all it ever held: Python, JAX, the making of the world and its check, compilation. A "
        "factorisation, up to 300 states here, counts as one product.",
        "",
        "Error of the gradient, relative: against the same world as a table (largest entry), or against a "
        "central difference of φ along one direction.",
        "",
        f"* machine: {where.machine}, {where.cores} cores; {pinned}; CPU only, one thread",
        f"* load before the run: {where.load:.1f}"
        + (" — the machine was busy with other work" if where.load > 0.5 else ""),
        f"* date: {where.date}",
        f"* made by `{where.command}`",
        f"* {versions}",
        "",
        "| world | S | solve, s: first | then | hyper-gradient, s: first | then | residual | products "
        "| peak memory | error | against |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
        *(_line(point) for point in points),
    ]
    if iterations:
        lines += [
            "",
            "## M-SoBiRL",
            "",
            "One iteration in a dense random world, A = 5, x ∈ R^100, γ = 0.5, τ = 1, 10 sweeps; median of "
            "5 runs of `solve`. [Benchmarks](benchmarks.md) has its peers.",
            "",
            "| S | ms an iteration |",
            "|---:|---:|",
            *(f"| {states:,} | {1000 * seconds:.3g} |" for states, seconds in iterations.items()),
        ]
    return "\n".join(lines) + "\n"


def draw(points: list[Point], iterations: dict[int, float], out: Path) -> None:
    """Seconds and memory against S, both on log scales."""
    # Powers of ten are formulas, which the house style leaves unread.
    with house_style(), mpl.rc_context({"text.parse_math": True}):
        figure = Figure(figsize=(10.5, 4.2), dpi=150, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        for world, dashes in zip(_WORLDS, ("-", "--"), strict=True):
            mine = [point for point in points if point.world == world]
            sizes = [point.states for point in mine]
            for name, colour, values in (
                ("hyper-gradient", PALETTE[0], [point.gradient for point in mine]),
                ("follower solve", PALETTE[1], [point.solve for point in mine]),
            ):
                left.plot(sizes, values, dashes, color=colour, marker="o", ms=4, label=f"{name}, {world}")
            memory = [point.memory / _GIB for point in mine]
            right.plot(sizes, memory, dashes, color=PALETTE[0], marker="o", ms=4, label=world)
        if iterations:
            left.plot(
                list(iterations),
                list(iterations.values()),
                color=PALETTE[2],
                marker="s",
                ms=4,
                label="M-SoBiRL iteration, dense",
            )
        for axes, title in ((left, "seconds"), (right, "peak memory of the process, GiB")):
            axes.set(xscale="log", yscale="log", xlabel="states")
            axes.set_title(title, loc="left", fontsize=10)
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.legend(fontsize=8, handlelength=3)
        right.set_ylim(0.1, 10 ** np.ceil(np.log10(max(point.memory for point in points) / _GIB) + 0.1))
        with write_atomically(out) as temporary:
            figure.savefig(temporary, format="png")


def _line(point: Point) -> str:
    times = (point.solve_first, point.solve, point.gradient_first, point.gradient)
    told = " | ".join(f"{seconds:.3g}" for seconds in times)
    return (
        f"| {point.world} | {point.states:,} | {told} | {point.residual:.1e} | {point.products:,} "
        f"| {point.memory / _GIB:.2f} GiB | {point.error:.0e} | {point.check} |"
    )


def main() -> None:
    options = _options()
    core, load = options.core if hasattr(os, "sched_setaffinity") else None, os.getloadavg()[0]
    if load > 0.5:
        print(f"load is {load:.1f}: seconds of a busy machine are rough", flush=True)
    sizes = [10**k for k in range(2, 10) if 10**k <= options.largest]
    points, iterations, versions = [], {}, {}
    for states in sizes:
        for name in _WORLDS:
            point, versions = measure_point(core, name, states)
            points.append(point)
            print(_line(points[-1]), flush=True)
    for states in (size for size in _DENSE if size <= options.largest):
        with Worker(sys.executable, core, ("benchmarks.scale", "iteration", str(states))) as worker:
            iterations[states] = worker.measure()
        print(f"M-SoBiRL, S={states}: {1000 * iterations[states]:.3g} ms an iteration", flush=True)
    command = "python -m benchmarks.scale"
    command += f" --largest {options.largest}" if options.largest != 10**6 else ""
    where = page.circumstances(core, load, command, {"ours": versions})
    (options.out / "images").mkdir(parents=True, exist_ok=True)
    draw(points, iterations, options.out / "images" / "scale.png")
    with write_atomically(options.out / "scale.md") as temporary:
        temporary.write_text(render(points, iterations, where), encoding="utf-8")
    print(f"wrote {options.out / 'scale.md'}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--largest", type=int, default=10**6, help="states of the largest world")
    parser.add_argument("--out", type=Path, default=_ROOT / "docs", help="folder of scale.md and its picture")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    parser.add_argument("--core", type=int, choices=cores, default=cores[-1], help="the core to measure on")
    options = parser.parse_args()
    if options.largest < 100:
        parser.error(f"--largest is {options.largest}; give at least 100")
    return options


if __name__ == "__main__":
    run_program(main, "benchmarks.scale")
