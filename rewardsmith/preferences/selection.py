"""Query selection: which of many candidate pairs a teacher is asked about."""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .._core import InputError
from .clips import Clips

CANDIDATES = 10
"""Candidate pairs for each one asked about, unless told otherwise."""

# Numbers of the features looked at together: 16 MB of float32.
_TOGETHER = 2**22
# Of pictures about so many pixels a side tell clips apart well enough.
_SIDE = 10

Supply = Callable[[], np.ndarray]


class Candidates:
    """n pairs of clips to choose from. Each array is computed when a rule asks for it, once.

    Args:
        count: n.
        probabilities: gives (n, M), P(first preferred) as each of M reward models predicts it.
        features: gives (n, f), where a pair lies: see `pair_features`.
        influence: gives (n,), larger for pairs that would move the leader more.
        asked: gives (k, f), features of pairs asked before, which the k-centre rules keep away from; None:
            of none.
    """

    def __init__(
        self,
        count: int,
        *,
        probabilities: Supply | None = None,
        features: Supply | None = None,
        influence: Supply | None = None,
        asked: Supply | None = None,
    ):
        self.count, self.tells_asked = count, asked is not None
        self._supplies = {
            "probabilities": probabilities,
            "features": features,
            "influence": influence,
            "asked": asked,
        }

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(n, M)."""
        return self._supplied("probabilities", 2)

    @cached_property
    def features(self) -> np.ndarray:
        """(n, f)."""
        return self._supplied("features", 2)

    @cached_property
    def influence(self) -> np.ndarray:
        """(n,)."""
        return self._supplied("influence", 1)

    @cached_property
    def asked(self) -> np.ndarray:
        """(k, f)."""
        if not self.tells_asked:
            return np.zeros((0, self.features.shape[1]))
        return self._supplied("asked", 2, self.features.shape[1:])

    def _supplied(self, name: str, ndim: int, last: tuple[int, ...] | None = None) -> np.ndarray:
        supply = self._supplies[name]
        if supply is None:
            raise InputError(f"this selection needs {name} of the candidates: give Candidates({name}=...)")
        array = np.asarray(supply())
        if array.ndim != ndim or (array.shape[1:] != last if last else len(array) != self.count):
            raise InputError(
                f"{name} of {self.count} candidates have shape {array.shape}; give one row for each"
            )
        return array


Rule = Callable[[int, Candidates, np.random.Generator], np.ndarray]
"""rule(count, candidates, rng) -> (min(count, n),) different indices, the most wanted first.

The same arguments give the same answer; among equals the first candidate comes first.
"""


def uniform(count: int, candidates: Candidates, rng: np.random.Generator) -> np.ndarray:
    """Any, each as likely."""
    return rng.permutation(candidates.count)[: _wanted(count, candidates)]


def disagreement(count: int, candidates: Candidates, rng: np.random.Generator) -> np.ndarray:
    """Where the members' P differ most, by their standard deviation.

    Source: Christiano et al., NeurIPS 2017 (arXiv 1706.03741), who use the variance of the members' answers.
    """
    del rng
    return _largest(_wanted(count, candidates), candidates.probabilities.std(axis=1))


def entropy(count: int, candidates: Candidates, rng: np.random.Generator) -> np.ndarray:
    """Where the mean P is least certain. Source: Lee, Smith and Abbeel, *PEBBLE*, ICML 2021."""
    del rng
    return _largest(_wanted(count, candidates), _entropy(candidates.probabilities.mean(axis=1)))


def influence(count: int, candidates: Candidates, rng: np.random.Generator) -> np.ndarray:
    """Where an answer is expected to move the leader most; `expected_influence` computes it."""
    del rng
    return _largest(_wanted(count, candidates), candidates.influence)


def k_centre(count: int, candidates: Candidates, rng: np.random.Generator) -> np.ndarray:
    """Spread out: each next is the farthest from those chosen and those asked before; the first is any."""
    everything = np.arange(candidates.count)
    count = _wanted(count, candidates)
    if count and not candidates.tells_asked:
        first = int(rng.integers(candidates.count))
        everything = np.roll(everything, -first)
    return _spread(count, candidates, everything)


def k_centre_after_disagreement(count: int, candidates: Candidates, rng: np.random.Generator) -> np.ndarray:
    """Spread out among that half of the candidates which `disagreement` likes best."""
    count = _wanted(count, candidates)
    return _spread(count, candidates, disagreement(_half(count, candidates), candidates, rng))


def k_centre_after_entropy(count: int, candidates: Candidates, rng: np.random.Generator) -> np.ndarray:
    """Spread out among that half of the candidates which `entropy` likes best."""
    count = _wanted(count, candidates)
    return _spread(count, candidates, entropy(_half(count, candidates), candidates, rng))


class Selection(NamedTuple):
    """A rule, and in a few words what it prefers."""

    rule: Rule
    meaning: str


SELECTIONS: dict[str, Selection] = {
    "uniform": Selection(uniform, "any pair"),
    "disagreement": Selection(disagreement, "where the members of the ensemble differ"),
    "entropy": Selection(entropy, "where the ensemble's mean is uncertain"),
    "k-centre": Selection(k_centre, "clips that are far apart"),
    "k-centre-disagreement": Selection(k_centre_after_disagreement, "far apart, of the disputed half"),
    "k-centre-entropy": Selection(k_centre_after_entropy, "far apart, of the uncertain half"),
    "influence": Selection(influence, "answers that are expected to move the hyper-gradient most"),
}
"""The rules by name, each with what it prefers."""


def make_selection(name: str) -> Rule:
    """The rule of that name.

    Args:
        name: one of `SELECTIONS`.

    Raises:
        InputError: there is none.
    """
    if name not in SELECTIONS:
        raise InputError(f'no selection is called "{name}"; choose one of {", ".join(SELECTIONS)}')
    return SELECTIONS[name].rule


# ---- features and distances ---------------------------------------------------------------------


def pair_features(first: Clips, second: Clips, num_actions: int | None = None) -> np.ndarray:
    """(n, f) float32: observations and actions of both clips' compared steps, one after another.

    Of pictures every frame's pixels on a coarse grid, from 0 to 1.

    Args:
        first, second: n clips each.
        num_actions: where actions are indices: how many there are; each becomes a one-hot vector.
    """
    parts = []
    for clips in (first, second):
        horizon, count = clips.true_reward.shape[1], len(clips.valid)
        seen, actions = clips.observations, clips.actions[:, :horizon]
        if seen.dtype == np.uint8:
            frames = seen[:, clips.stack - 1 : clips.stack - 1 + horizon]
            height, width = (max(1, -(-size // _SIDE)) for size in frames.shape[2:4])
            seen = frames[:, :, ::height, ::width].astype(np.float32) / 255.0
        if num_actions is not None:
            actions = np.eye(num_actions, dtype=np.float32)[actions]
        parts += [np.asarray(part, np.float32).reshape(count, -1) for part in (seen[:, :horizon], actions)]
    return np.concatenate(parts, axis=1)


def farthest_points(points: np.ndarray, count: int, near: np.ndarray) -> np.ndarray:
    """`count` of the points (n, f), each next the farthest from those before and from `near` (k, f).

    Without `near` the first point is the first centre. The largest distance of a point to its nearest centre
    is then at most twice the least possible with as many centres. Time n·f·(count + k), memory n.

    Source: Gonzalez, *Theoretical Computer Science* 38, 1985.
    """
    nearest = np.full(len(points), np.inf)
    for centre in near:
        np.minimum(nearest, _squared_distances(points, centre), out=nearest)
    chosen = []
    for _ in range(count):
        index = int(np.argmax(nearest))
        chosen.append(index)
        np.minimum(nearest, _squared_distances(points, points[index]), out=nearest)
        # Behind its copies, so that nothing is chosen twice.
        nearest[chosen] = -1.0
    return np.array(chosen, int)


def _squared_distances(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    found, rows = np.empty(len(points)), max(1, _TOGETHER // max(1, points.shape[1]))
    for begin in range(0, len(points), rows):
        apart = points[begin : begin + rows] - centre
        found[begin : begin + rows] = np.einsum("ij,ij->i", apart, apart)
    return found


def _spread(count: int, candidates: Candidates, among: np.ndarray) -> np.ndarray:
    if count == 0:
        return np.zeros(0, int)
    near = candidates.asked
    return among[farthest_points(candidates.features[among], count, near)]


def _half(count: int, candidates: Candidates) -> int:
    return max(count, candidates.count // 2)


def _wanted(count: int, candidates: Candidates) -> int:
    if count < 0:
        raise InputError(f"{count} pairs to select; give a number >= 0")
    return min(count, candidates.count)


def _largest(count: int, scores: np.ndarray) -> np.ndarray:
    """Indices of the `count` largest; what is not a number comes last."""
    return np.argsort(np.where(np.isnan(scores), np.inf, -scores), kind="stable")[:count]


def _entropy(probability: np.ndarray) -> np.ndarray:
    """In nats."""
    either = np.stack([probability, 1.0 - probability])
    return -np.sum(either * np.log(np.where(either > 0.0, either, 1.0)), axis=0)
