"""The audit of a run: its policies played again, its reward asked about what they did."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..._core import InputError
from ..folder import RunFolder
from ..metrics import read_metrics
from ..parts import make_env
from .play import Played, learned, play
from .progress import AuditProgress
from .question import question
from .record import VERSION, Audit, Episodes, read_audit, write_audit
from .subject import OF_VECTORS, Subject, load_subject

_LEAST_STEPS, _CHEAP_SECONDS = 10_000, 60.0


def audit_run(path: Path | str, *, seed: int = 0, again: bool = False) -> Audit:
    """Audit the newest checkpoint of a run; writes ``audit.json`` and the films of ``audit/`` beside it.

    What is there already of that checkpoint and seed is read back instead.

    Args:
        path: folder of the run.
        seed: of everything random.
        again: measure even if it was measured.

    Raises:
        InputError: no run, no checkpoint, or a disk that cannot be written.
    """
    if seed < 0:
        raise InputError(f"--seed is {seed}: give 0 or a positive whole number")
    folder = RunFolder.open(path)
    known = None if again else current_audit(folder)
    if known is not None and known.seed == seed:
        return known
    with AuditProgress(folder.path.resolve().name) as progress:
        progress.part("reading snapshots")
        audit = measure(load_subject(folder, seed), progress)
    write_audit(folder.audit_path, audit)
    return audit


def measure(subject: Subject, progress: AuditProgress) -> Audit:
    """Play the policies of a run and ask its rewards; the films go into its folder.

    Args:
        subject: the run.
        progress: is told.
    """
    budget = subject.budget
    copies = budget.episodes * (len(subject.policies) + budget.newest)
    limit = min(subject.spec.max_episode_steps or budget.longest, budget.longest)
    progress.part(f"playing {len(subject.policies)} policies, {copies} episodes", copies * limit)
    repeated = [*subject.policies, *subject.policies[-1:] * (budget.newest - 1)]
    with contextlib.closing(make_env(subject.config, copies, judged=True)) as env:
        played = play(subject.experiment, env, repeated, limit, subject.seed, progress.done)
    gains = None
    if subject.rewards:
        progress.part("asking the learned reward")
        gains = learned(subject.rewards[-1], played, subject.stack)
    *episodes, random = _episodes(subject, played, gains)
    found = None if gains is None else question(subject, played, gains, episodes, progress)
    length = subject.config.clip_length
    return Audit(VERSION, subject.steps[-1], subject.seed, length, limit, tuple(episodes), random, found)


def current_audit(folder: RunFolder) -> Audit | None:
    """The audit in the run's folder if it is of its newest checkpoint."""
    audit, numbered = read_audit(folder.audit_path), folder.steps()
    return audit if audit is not None and numbered and audit.step == max(numbered) else None


def is_cheap(folder: RunFolder) -> bool:
    """Whether an audit is a small thing beside the run itself: at least 10,000 steps, in a simulator so fast
    that the episodes of the audit take no longer than a minute."""
    metrics = read_metrics(folder.path).select("step", "seconds", "share_env").drop_nulls()
    if metrics.is_empty() or (steps := int(metrics["step"][-1])) < _LEAST_STEPS:
        return False
    a_step = float(metrics["seconds"][-1]) * float(metrics["share_env"][-1]) / steps
    budget = OF_VECTORS
    branched = 2 * budget.states * budget.repeats * budget.horizon
    played = (budget.policies + budget.newest) * budget.episodes * budget.longest
    return a_step * (branched + played) < _CHEAP_SECONDS


def _episodes(subject: Subject, played: Played, gains: np.ndarray | None) -> Iterator[Episodes]:
    """Those of each policy, then those of random actions."""
    true, lengths = played.true.sum(axis=1), played.valid.sum(axis=1)
    for owner in (*range(len(subject.policies)), None):
        rows = [copy for copy, of in enumerate(subject.owners) if of == owner]
        yield Episodes(
            None if owner is None else subject.steps[owner],
            None if owner is None else subject.comparisons[owner],
            tuple(true[rows].tolist()),
            () if gains is None else tuple(gains[rows].sum(axis=1).tolist()),
            tuple(lengths[rows].tolist()),
            tuple(played.terminated[rows].tolist()),
        )
