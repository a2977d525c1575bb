"""An audit as the page shows it: figures, tables, films and a line that says what was played."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..statistics import Interval
from .draw import Drawn, audit_figures
from .films import OVER
from .record import Agreement, Audit, Disagreement, Judged, RewardAudit
from .warn import spelt

CHECKED = "reward hacking, variable horizon, too few labels, calibration, drift of τ"
_DASH = "–"
_READING = (
    ("Returns", "both should rise together; a learned one that rises alone is being hacked."),
    ("Accuracy", "of the newest policy's clips it matters most: there the next answers are needed."),
    ("Calibration", "below the diagonal the reward is surer than it is right, so its margins mislead."),
    ("Steps", "a cloud along a rising line; vertical stripes are what the learned reward makes up."),
    ("Distance", "what accuracy leaves out: 0 means that every policy is ranked as by the true reward."),
)


@dataclass(frozen=True)
class Film:
    """A clip of the page: its MP4 as base64, and what it is."""

    data: str
    what: str


@dataclass(frozen=True)
class AuditPart:
    """What the template gets of an audit."""

    title: str
    lead: str
    figures: list[Drawn]
    comparisons: list[list[str]]
    agreement: list[list[str]]
    films: list[tuple[str, list[Film]]]
    reading: list[tuple[str, str]]
    notes: list[str]


def audit_part(audit: Audit, films: Path | None, prefix: str = "") -> AuditPart:
    """The part of a page that is about an audit.

    Args:
        audit: of one run.
        films: folder of its films; None: leave them out.
        prefix: of the ids of its figures, unique on the page.
    """
    reward = audit.reward
    return AuditPart(
        "Is the learned reward any good?" if reward else "The policies of the run",
        _lead(audit),
        audit_figures(audit, prefix),
        [] if reward is None else [_comparison_row(one) for one in reward.judged],
        [] if reward is None else [_agreement_row(one) for one in reward.agreement],
        [] if reward is None or films is None else list(_films(reward.films, films)),
        [] if reward is None else list(_READING),
        [] if reward is None else _notes(reward),
    )


def audit_cells(audit: Audit | None) -> list[str]:
    """Foreseen pairs, calibration error, distance, and Spearman of returns: a row of a table of runs."""
    if audit is None or audit.reward is None:
        return [_DASH] * 4
    reward = audit.reward
    asked = reward.judged[-1] if reward.judged else None
    last = reward.along[-1] if reward.along else None
    return [
        _DASH if asked is None else spelt(asked.accuracy, percent=True),
        _DASH if asked is None or asked.calibration is None else f"{asked.calibration.error:.1%}",
        _value(None if last is None else last.distance or last.clip_distance),
        _value(reward.hacking.correlation),
    ]


def audit_rows(audit: Audit) -> list[tuple[str, str]]:
    """What a card tells of an audit: (what it is, the number)."""
    reward = audit.reward
    if reward is None:
        return []
    rows = []
    for one in reward.judged:
        rows.append((f"pairs foreseen, {one.name}", f"{spelt(one.accuracy, percent=True)} of {one.pairs:,}"))
        if one.calibration is not None:
            told = f"{one.calibration.error:.1%} (by chance alone {one.calibration.by_chance:.1%})"
            rows.append((f"calibration error, {one.name}", told))
    last = reward.along[-1] if reward.along else None
    if last is not None and last.distance is not None:
        rows.append(("STARC distance to the true reward (unrelated: 1.4)", spelt(last.distance)))
    if last is not None and last.clip_distance is not None:
        rows.append(("Pearson distance of clip returns (unrelated: 0.7)", spelt(last.clip_distance)))
    if reward.hacking.correlation is not None:
        told = spelt(reward.hacking.correlation)
        rows.append(("rank correlation of learned and true return along the run", told))
    return rows


def _lead(audit: Audit) -> str:
    episodes = sum(len(one.lengths) for one in (*audit.policies, audit.random))
    text = (
        f"{len(audit.policies)} policies along the run, and uniformly random actions, under the true reward: "
        f"{episodes} episodes of up to {audit.longest:,} steps, actions sampled, seed {audit.seed}."
    )
    if audit.reward is not None:
        text += f" The reward is that of step {audit.step:,}; clips have {audit.clip_length} steps."
    return text


def _comparison_row(one: Judged) -> list[str]:
    found = one.calibration
    numbers = [_DASH] * 3
    if found is not None:
        numbers = [f"{found.error:.1%}", f"{found.by_chance:.1%}", spelt(found.brier)]
    return [one.name, f"{one.pairs:,}", spelt(one.accuracy, percent=True), *numbers]


def _agreement_row(one: Agreement) -> list[str]:
    steps = (one.pearson, one.spearman)
    # Of a handful of episodes a correlation is noise.
    episodes = (one.episode_pearson, one.episode_spearman) if one.episodes >= 8 else (None, None)
    return [
        one.name,
        f"{one.steps:,}",
        *(_number(value) for value in steps),
        str(one.episodes),
        *(_number(value) for value in episodes),
    ]


def _number(value: float | None) -> str:
    return _DASH if value is None else f"{value:.2f}".replace("-", "−")


def _value(value: Interval | None) -> str:
    return _number(None if value is None else value.value)


def _films(clips: Sequence[Disagreement], folder: Path) -> Iterator[tuple[str, list[Film]]]:
    titles = {
        True: "The learned reward sees more in these than the true one",
        False: "The true reward sees more in these than the learned one",
    }
    # A name with a path in it, or a link, would put any file of this machine into a page that is passed on.
    own = [clip for clip in clips if (folder / clip.film).resolve().parent == folder.resolve()]
    for over, title in titles.items():
        found = [
            Film(base64.b64encode((folder / clip.film).read_bytes()).decode(), _what(clip))
            for clip in own
            if clip.film.startswith(OVER) == over and (folder / clip.film).is_file()
        ]
        if found:
            yield title, found


def _what(clip: Disagreement) -> str:
    whose = "random actions" if clip.policy is None else f"policy of step {clip.policy:,}"
    scores = f"learned {clip.learned:+.1f}, true {clip.true:+.1f}".replace("-", "−")
    return f"{scores} · {whose}, from step {clip.at} of an episode"


def _notes(reward: RewardAudit) -> list[str]:
    alike = "" if reward.judged else "No two clips differ in true return: there is nothing to compare."
    return [note for note in (alike, reward.distance_note, reward.films_note) if note]
