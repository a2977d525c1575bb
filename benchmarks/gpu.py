"""Our sides alone on the first GPU: rates, and the memory that each of them took."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import polars as pl

from . import atari_learner, end_to_end, page, sac_learner, scaling
from .rounds import Say, count_for, summary, turn
from .subject import OURS, Side, Subject
from .worker import Worker

NAME = "benchmarks-gpu"
PACKAGES = ("jax", "jaxlib")
SEEDS = (1, 2, 4, 8, 16, 32)
# Patches are what a processor needs; a GPU has its own convolutions, and takes them by itself.
_NOT_HERE = ("processes", "XLA's convolutions", "freed memory")
_ROUNDS = 5


class NoGPU(Exception):
    """JAX sees none; the text says what to do."""


@dataclass(frozen=True)
class Point:
    """One side: rates, round by round, and the most bytes in use on the device while its process lived."""

    subject: str
    unit: str
    label: str
    rates: tuple[float, ...]
    memory: int | None


def build():
    """The child that tells which GPU there is."""

    def measure() -> str | None:
        try:
            return jax.devices("gpu")[0].device_kind
        except RuntimeError:
            return None

    return measure


def hardware() -> str:
    """The first GPU that JAX sees, with its driver's version where that can be told.

    Raises:
        NoGPU: there is none.
    """
    with Worker(sys.executable, None, ("benchmarks.gpu",), "gpu") as worker:
        kind = worker.measure()
    if kind is None:
        raise NoGPU("JAX sees no GPU here: install jax[cuda13] beside a driver, or leave --device out")
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
        told = subprocess.run(query, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return kind
    return f"{kind}, driver {told}"


def subjects(quick: bool) -> list[Subject]:
    """What runs on a GPU, without its peers."""
    of_seeds = scaling.seeds(quick, SEEDS, alone=False).subject
    every = [module.subject(quick) for module in (sac_learner, atari_learner, end_to_end)] + [of_seeds]
    return [
        replace(subject, sides=_ours(subject), ratios=(), how=f"{subject.how.split('. ')[0]}.")
        for subject in every
    ]


def measure(subjects: Sequence[Subject], say: Say) -> tuple[list[Point], dict[str, dict[str, str]]]:
    """Every side in a process of its own, one after another, so that memory is its own; and versions."""
    points, versions = [], {}
    for subject in subjects:
        for side in subject.sides:
            with Worker(sys.executable, None, side.program, "gpu") as worker:
                versions |= worker.versions
                rates = _rates(worker, side, subject.seconds)
                points.append(Point(subject.name, subject.unit, side.label, rates, worker.memory()))
            say(f"{subject.name}: {side.label} {page.rate(summary(rates)[0])} {subject.unit}")
    return points, {OURS: versions}


def render(subjects: Sequence[Subject], points: Sequence[Point], gpu: str, where: page.Circumstances) -> str:
    """The page."""
    versions = ", ".join(f"{name} {version}" for name, version in where.versions[OURS].items())
    lines = [
        "# On a GPU",
        "",
        "Our sides of the [benchmarks](benchmarks.md), on one GPU: medians, least and greatest of "
        f"{_ROUNDS} rounds, after warm-up and compilation. Memory is the most that was in use on the GPU "
        "during the life of a process that did nothing else. Environments are stepped on the processor.",
        "",
        f"* GPU: {gpu}",
        f"* machine: {where.machine}, {where.cores} cores, not pinned; load before the run {where.load:.1f}",
        f"* date: {where.date}",
        f"* made by `{where.command}`; the numbers of every round are in `{NAME}.parquet`",
        f"* {versions}",
    ]
    for subject in subjects:
        lines += ["", f"## {subject.title}", "", subject.how, ""]
        lines += [f"| what | {subject.unit} | spread | GPU memory, MiB |", "|---|---:|---:|---:|"]
        lines += [_line(point) for point in points if point.subject == subject.name]
    return "\n".join(lines) + "\n"


def table(points: Sequence[Point], gpu: str, where: page.Circumstances) -> pl.DataFrame:
    """One row a side."""
    shared = {"gpu": gpu, "machine": where.machine, "date": where.date, "command": where.command}
    shared["versions"] = ", ".join(f"{name} {version}" for name, version in where.versions[OURS].items())
    records = [vars(point) | {"rates": list(point.rates)} | shared for point in points]
    schema = {"rates": pl.List(pl.Float64), "memory": pl.Int64}
    return pl.DataFrame(records, schema_overrides=schema)


def _ours(subject: Subject) -> tuple[Side, ...]:
    return tuple(
        side
        for side in subject.sides
        if side.home == OURS and not any(word in side.label for word in _NOT_HERE)
    )


def _rates(worker: Worker, side: Side, seconds: float) -> tuple[float, ...]:
    turn([worker], side, side.multiple)  # It compiles.
    count = count_for([worker], side, seconds)
    return tuple(count / turn([worker], side, count) for _ in range(_ROUNDS))


def _line(point: Point) -> str:
    median, least, most = (page.rate(value) for value in summary(point.rates))
    memory = "not told" if point.memory is None else f"{point.memory / 2**20:,.0f}"
    return f"| {point.label} | {median} | {least} – {most} | {memory} |"
