"""``python -m benchmarks``: measure, and write docs/benchmarks.md and docs/benchmarks.parquet."""

import argparse
import os
import sys
import time
from pathlib import Path

from . import atari_learner, end_to_end, environments, exact_world, page, reward_model, rounds, sac_learner
from .peer_environment import PeersAbsent, peers_python
from .subject import OURS, PEERS
from .worker import Worker, run_program

_ROOT = Path(__file__).resolve().parents[1]
_SUBJECTS = (sac_learner, atari_learner, end_to_end, reward_model, exact_world, environments)


def main() -> None:
    options = _options()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {text}", flush=True)

    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"load is {load:.1f}: ratios of a busy machine are rough")
    subjects = [subject for subject in _subjects(options.quick) if options.only in (None, subject.name)]
    peers = None
    if any(side.home == PEERS for subject in subjects for side in subject.sides):
        try:
            peers = options.peers_python or peers_python(_ROOT / ".bench" / "venv")
        except PeersAbsent as error:
            say(f"no peers: {error}")
    pythons = {OURS: Path(sys.executable), PEERS: peers}
    core = options.core if hasattr(os, "sched_setaffinity") else None
    rows, shares, versions = [], {}, {}
    for subject in subjects:
        measured, ran = rounds.measure(subject, pythons, core, say)
        rows += measured
        for home, found in ran.items():
            versions.setdefault(home, {}).update(found)
        if subject.name == "end-to-end":
            say("end-to-end: a short sobirl run")
            with Worker(sys.executable, core, end_to_end.SHARES) as worker:
                shares = worker.measure(steps=1600 if options.quick else 8000)
    command = "python -m benchmarks" + (" --quick" if options.quick else "")
    command += f" --only {options.only}" if options.only else ""
    where = page.circumstances(core, load, command, versions)
    path = page.write(options.out, subjects, rows, shares, where)
    print(page.render(subjects, rows, shares, where))
    say(f"wrote {path} and {path.with_suffix('.parquet').name}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short turns: does it run, not how fast it is")
    parser.add_argument("--only", choices=[subject.name for subject in _subjects(True)], help="one subject")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the results; docs, or .bench with --quick or --only, which are no full results",
    )
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    parser.add_argument("--core", type=int, choices=cores, default=cores[-1], help="the core of both sides")
    parser.add_argument("--peers-python", type=Path, help="an interpreter that has the peers already")
    options = parser.parse_args()
    if options.out is None:
        options.out = _ROOT / (".bench" if options.quick or options.only else "docs")
    return options


def _subjects(quick: bool):
    return [module.subject(quick) for module in _SUBJECTS]


if __name__ == "__main__":
    run_program(main, "benchmarks")
