"""``python -m benchmarks``: measure, and write docs/benchmarks.md, its numbers and its pictures.

With ``--device gpu``: our sides alone, on the first GPU; writes docs/benchmarks-gpu.md.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import (
    atari_learner,
    end_to_end,
    environments,
    exact_world,
    gpu,
    minute,
    page,
    reward_model,
    rounds,
    sac_learner,
    scaling,
)
from .peer_environment import PeersAbsent, peer_pythons
from .subject import OURS, PEERS, Subject
from .worker import run_program

_ROOT = Path(__file__).resolve().parents[1]
_SUBJECTS = (sac_learner, atari_learner, end_to_end, reward_model, exact_world, environments)
# Seconds that all of it may take on two cores.
_BUDGET = 900


def main() -> None:
    options = _options()
    load = os.getloadavg()[0]
    if options.device == "gpu":
        _on_gpu(options, load, _teller())
    else:
        _on_cpu(options, load, _teller(_BUDGET))


def _on_cpu(options: argparse.Namespace, load: float, say: rounds.Say) -> None:
    chosen = lambda *names: options.only is None or options.only in names  # noqa: E731
    cores = _cores(options.core)
    if load > 0.5:
        say(f"load is {load:.1f}: ratios of a busy machine are rough")
    subjects = [subject for subject in _subjects(options.quick) if chosen(subject.name)]
    curves = [curve for curve in scaling.curves(options.quick) if chosen(scaling.NAME, curve.subject.name)]
    every = [*subjects, *(curve.subject for curve in curves)]
    plan = {subject.name: subject.planned for subject in every}
    if chosen(minute.NAME):
        plan[minute.NAME] = minute.PLANNED
    told = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in plan.items())
    say(f"plan, once peers are installed: {told}; together {sum(plan.values()):.0f} s")
    pythons = _pythons(every, options.peers_python, say)
    started, found = time.monotonic(), []
    versions: dict[str, dict[str, str]] = {}

    def measure(subject: Subject) -> rounds.Measured:
        began = time.monotonic()
        measured = rounds.measure(subject, pythons, cores, say)
        for home, told in measured.versions.items():
            versions.setdefault(home, {}).update(told)
        say(f"{subject.name}: {time.monotonic() - began:.0f} s of {plan[subject.name]:.0f} s planned")
        return measured

    for subject in subjects:
        found += measure(subject).rows(subject)
    for curve in curves:
        found += curve.rows(measure(curve.subject).rates)
    images, more = options.out / "images", []
    images.mkdir(parents=True, exist_ok=True)
    if curves:
        scaling.draw(curves, found, options.out / scaling.PICTURE)
        more += scaling.section(curves, found)
    if chosen(minute.NAME):
        parts, ran = minute.measure(cores, say, quick=options.quick)
        versions.setdefault(OURS, {}).update(ran)
        minute.draw(parts, options.out / minute.PICTURE)
        more += minute.section(parts)
        found += parts
    where = page.circumstances(cores[0], load, _command(options), versions, time.monotonic() - started)
    text = page.render(subjects, found, more, where)
    path = page.write(options.out, "benchmarks", text, page.table(found, where))
    print(text)
    say(f"wrote {path} and {path.with_suffix('.parquet').name}")


def _on_gpu(options: argparse.Namespace, load: float, say: rounds.Say) -> None:
    try:
        hardware = gpu.hardware()
    except gpu.NoGPU as error:
        sys.exit(f"benchmarks: {error}")
    every = gpu.subjects(options.quick)
    subjects = [subject for subject in every if options.only in (None, subject.name)]
    if not subjects:
        told = ", ".join(subject.name for subject in every)
        sys.exit(f"benchmarks: --only {options.only} is not for a GPU: choose one of {told}")
    say(f"on {hardware}")
    points, versions = gpu.measure(subjects, say)
    where = page.circumstances(None, load, _command(options), versions)
    text = gpu.render(subjects, points, hardware, where)
    options.out.mkdir(parents=True, exist_ok=True)
    path = page.write(options.out, gpu.NAME, text, gpu.table(points, hardware, where))
    print(text)
    say(f"wrote {path} and {path.with_suffix('.parquet').name}")


def _pythons(subjects: list[Subject], given: Path | None, say: rounds.Say) -> dict[str, Path | None]:
    """The interpreter of each side's home; None where its peers are absent."""
    homes = {side.home for subject in subjects for side in subject.sides}
    pythons: dict[str, Path | None] = {OURS: Path(sys.executable)}
    if given is not None:
        pythons[PEERS] = given
    for home, found in peer_pythons(homes - pythons.keys(), _ROOT / ".bench").items():
        absent = isinstance(found, PeersAbsent)
        if absent:
            say(f"no {home}: {found}")
        pythons[home] = None if absent else found
    return pythons


def _teller(budget: int | None = None) -> Callable[[str], None]:
    began = time.monotonic()
    of = "" if budget is None else f" of {budget}"
    return lambda text: print(f"[{time.monotonic() - began:4.0f}{of} s] {text}", flush=True)


def _cores(first: int) -> list[int | None]:
    """The core where turns are measured, then the others."""
    if not hasattr(os, "sched_getaffinity"):
        return [None]
    return [first, *(core for core in sorted(os.sched_getaffinity(0), reverse=True) if core != first)]


def _command(options: argparse.Namespace) -> str:
    words = ["python -m benchmarks"]
    words += [f"--device {options.device}"] if options.device != "cpu" else []
    words += ["--quick"] if options.quick else []
    words += [f"--only {options.only}"] if options.only else []
    return " ".join(words)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short turns: does it run, not how fast it is")
    curves = [curve.subject.name for curve in scaling.curves(True)]
    names = [*(subject.name for subject in _subjects(True)), scaling.NAME, *curves, minute.NAME]
    parser.add_argument("--only", choices=names, help="one part")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the results; docs, or .bench with --quick or --only, which are no full results",
    )
    parser.add_argument(
        "--device", choices=("cpu", "gpu"), default="cpu", help="gpu: our sides alone, on the first one"
    )
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    parser.add_argument("--core", type=int, choices=cores, default=cores[-1], help="the core of both sides")
    parser.add_argument("--peers-python", type=Path, help="an interpreter that has the peers already")
    options = parser.parse_args()
    if options.out is None:
        options.out = _ROOT / (".bench" if options.quick or options.only else "docs")
    return options


def _subjects(quick: bool) -> list[Subject]:
    return [module.subject(quick) for module in _SUBJECTS]


if __name__ == "__main__":
    run_program(main, "benchmarks")
