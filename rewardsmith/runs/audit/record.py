"""What an audit found, as it lies in ``audit.json``."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from ..._core import InputError, read_json
from ..._core.atomic import writing
from ..statistics import Interval
from ..typed import fitted
from .measures import Calibration

VERSION = 1
_DAMAGED = "damaged: delete it and report again"


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Whole episodes of one policy in the environment that judges, actions sampled from it.

    Attributes:
        step: environment steps when the policy was kept; None: uniformly random actions.
        comparisons: answered by then; None where unknown.
        true_returns: (e,) undiscounted.
        learned_returns: (e,) the same sums under the newest learned reward; empty where none is learned.
        lengths: (e,) steps.
        terminated: (e,) whether the episode came to an end of its own.
    """

    step: int | None
    comparisons: int | None
    true_returns: tuple[float, ...]
    learned_returns: tuple[float, ...]
    lengths: tuple[int, ...]
    terminated: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class Hacking:
    """Whether the learned return rises while the true one falls, over the policies of the snapshots.

    Attributes:
        correlation: Spearman's, of mean learned and mean true returns; None below three snapshots.
        snapshots: k, the newest third of the snapshots, at least four of them.
        learned_trend, true_trend: by how much the return changed over these k along a straight line; None
            where there are fewer than four.
    """

    correlation: Interval | None
    snapshots: int
    learned_trend: Interval | None
    true_trend: Interval | None


@dataclasses.dataclass(frozen=True)
class Judged:
    """Comparisons that were never trained on, judged by the newest reward.

    Attributes:
        name: where the clips come from.
        pairs: told apart by the answer.
        ties: left out: neither clip is better, or nobody could tell.
        accuracy: share in which the reward foresees the better clip.
        calibration: of its probabilities against the answers of the run's own teacher.
    """

    name: str
    pairs: int
    ties: int
    accuracy: Interval
    calibration: Calibration | None


@dataclasses.dataclass(frozen=True)
class Along:
    """The reward of one snapshot on the same comparisons and clips as all others.

    Attributes:
        step: environment steps.
        comparisons: answered by then.
        accuracy: on pairs of clips of all policies.
        on_policy: on pairs of the newest policy; None where it has none.
        clip_distance: Pearson distance √((1 − ρ)/2) of clip returns under learned and true reward.
        distance: STARC distance to the true reward; None where it was not measured.
    """

    step: int
    comparisons: int | None
    accuracy: Interval | None
    on_policy: Interval | None
    clip_distance: Interval | None
    distance: Interval | None


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Learned against true reward of single steps.

    Attributes:
        name: whose steps.
        steps: how many.
        pearson, spearman: of both rewards over steps.
        episodes: how many.
        episode_pearson, episode_spearman: of both returns over episodes.
        learned, true: some of the steps, for a picture.
    """

    name: str
    steps: int
    pearson: float | None
    spearman: float | None
    episodes: int
    episode_pearson: float | None
    episode_spearman: float | None
    learned: tuple[float, ...]
    true: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """A clip that learned and true reward see differently.

    Attributes:
        film: name of the MP4 in the folder ``audit``.
        learned, true: returns of the clip, in standard deviations from the mean of all clips.
        true_return: in the environment's units.
        policy: environment steps of the policy; None: random actions.
        at: step of the episode at which the clip begins.
    """

    film: str
    learned: float
    true: float
    true_return: float
    policy: int | None
    at: int


@dataclasses.dataclass(frozen=True)
class RewardAudit:
    """What was asked of a learned reward.

    Attributes:
        hacking: see `Hacking`.
        judged: comparisons by where the clips come from.
        along: the rewards of all snapshots.
        gain: by how much accuracy rose over the last third of them, on the same pairs; None below four.
        agreement: learned against true reward, by whose steps.
        distance_states, distance_steps: state-actions of the STARC distances, and steps played on from each.
        distance_note, films_note: why there are none; "" where there are.
        films: where learned and true reward disagree most.
    """

    hacking: Hacking
    judged: tuple[Judged, ...]
    along: tuple[Along, ...]
    gain: Interval | None
    agreement: tuple[Agreement, ...]
    distance_states: int
    distance_steps: int
    distance_note: str
    films: tuple[Disagreement, ...]
    films_note: str


@dataclasses.dataclass(frozen=True)
class Audit:
    """All of it.

    Attributes:
        version: of this record.
        step: environment steps of the checkpoint that was judged.
        seed: of the audit.
        clip_length: H.
        longest: steps after which an episode was cut off.
        policies: of the snapshots, the newest (the checkpoint's) last.
        random: uniformly random actions.
        reward: None where none is learned.
    """

    version: int
    step: int
    seed: int
    clip_length: int
    longest: int
    policies: tuple[Episodes, ...]
    random: Episodes
    reward: RewardAudit | None


def write_audit(path: Path, audit: Audit) -> None:
    """Write ``audit.json``; numbers that are not finite become null."""
    text = json.dumps(_plain(dataclasses.asdict(audit)), allow_nan=False)
    with writing(path) as temporary:
        temporary.write_text(text)


def read_audit(path: Path) -> Audit | None:
    """The audit at `path`; None where there is none, or one of another version.

    Raises:
        InputError: a damaged file.
    """
    if not path.is_file():
        return None
    try:
        found = read_json(path, f"is {_DAMAGED}")
        return fitted(Audit, found, null=math.nan) if found["version"] == VERSION else None
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is {_DAMAGED}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
