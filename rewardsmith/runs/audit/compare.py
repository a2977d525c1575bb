"""Comparisons that no one trained on: fresh pairs of clips, or what people answered and was set aside."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from ..._core import InputError, TrueReward
from ...agents import SACState
from ...preferences import Clips, Teacher
from ...preferences.store import Store, standing
from ...rewards import LearnedReward
from ..clip_arrays import PLAIN, unknown_reward
from ..collect import some
from ..config import TrainConfig
from ..experiment import Experiment
from ..people import store_of
from .measures import calibrate, proportion
from .play import Played
from .record import Judged

Predict = Callable[[Clips, Clips], np.ndarray]


@dataclass(frozen=True)
class Pairs:
    """n pairs of clips with answers.

    Attributes:
        first, second: the clips.
        better: (n,) 1 where the first is better, 0 where the second is, ½ where neither.
        answer: (n,) what the run's own teacher says; NaN where it cannot tell.
    """

    first: Clips
    second: Clips
    better: Float[np.ndarray, " n"]
    answer: Float[np.ndarray, " n"]

    @property
    def told(self) -> Bool[np.ndarray, " n"]:
        """Pairs of which one is better."""
        return ~np.isnan(self.better) & (self.better != 0.5)

    def upto(self, count: int) -> "Pairs":
        """The first `count` of them."""
        first, second = (some(side, slice(count)) for side in (self.first, self.second))
        return Pairs(first, second, self.better[:count], self.answer[:count])


def gather(played: Played, which: Int[np.ndarray, "n 2"], stack: int) -> Clips:
    """The clips at (block, copy), their true reward sealed again."""
    of = [(played.blocks[block], copy) for block, copy in which]
    return Clips(
        np.stack([block.observations[copy] for block, copy in of]),
        np.stack([block.actions[copy] for block, copy in of]),
        np.stack([block.valid[copy] for block, copy in of]),
        TrueReward(np.stack([block.true[copy] for block, copy in of])),
        stack=stack,
    )


def clip_rewards(played: Played, which: Int[np.ndarray, "n 2"]) -> Float[np.ndarray, "n H"]:
    """True rewards of the steps of clips."""
    return np.stack([played.blocks[block].true[copy] for block, copy in which])


def fresh_pairs(
    played: Played,
    which: Int[np.ndarray, "n 2"],
    count: int,
    config: TrainConfig,
    teacher: Teacher | None,
    stack: int,
    rng: np.random.Generator,
) -> Pairs | None:
    """`count` pairs of different clips among those at `which`; None where there are not two.

    Args:
        played: the episodes.
        which: (block, copy) of clips.
        count: how many pairs, with replacement.
        config: of the run.
        teacher: whose answers a calibrated reward foretells; None: the better clip is the answer.
        stack: frames of one observation.
        rng: all randomness.
    """
    if len(which) < 2:
        return None
    first = rng.integers(len(which), size=count)
    second = (first + rng.integers(1, len(which), size=count)) % len(which)
    clips = [gather(played, which[rows], stack) for rows in (first, second)]
    seen = [_taught(played, which[rows], config) for rows in (first, second)]
    better = 0.5 + 0.5 * np.sign(seen[0].sum(axis=1) - seen[1].sum(axis=1))
    answer = better
    if teacher is not None:
        usual = TrueReward(np.sign(played.true) if config.clip_rewards else played.true)[played.valid]
        answer = teacher.calibrated(usual).answer(TrueReward(seen[0]), TrueReward(seen[1]), rng)
    return Pairs(clips[0], clips[1], better, answer)


def _taught(played: Played, which: Int[np.ndarray, "n 2"], config: TrainConfig) -> Float[np.ndarray, "n H"]:
    """True rewards of clips as the teacher of the run sees them."""
    true = clip_rewards(played, which)
    return np.sign(true) if config.clip_rewards else true


def held_out_pairs(config: TrainConfig, folder: Path, stack: int) -> Pairs | None:
    """What people answered of the questions that were set aside; None where there is nothing.

    Raises:
        InputError: a clip is gone or damaged.
    """
    where, clips = store_of(config, folder)
    with contextlib.ExitStack() as held:
        try:
            store = held.enter_context(Store.open(where, clips=clips, create=False))
        except InputError:
            return None
        kept = [record for record in standing(store.records()) if record.held_out]
        if not kept:
            return None
        questions = [store.question(record.question) for record in kept]
        sides = [
            [
                _cut(store.load_clip(getattr(question, side)), config.clip_length, stack)
                for question in questions
            ]
            for side in ("first", "second")
        ]
    label = np.array([record.answer.label for record in kept if record.answer is not None])
    first, second = (_clips(side, config.clip_length, stack) for side in sides)
    return Pairs(first, second, label, label)


def _clips(stored: list[dict[str, np.ndarray]], length: int, stack: int) -> Clips:
    observations, actions, valid = (np.stack([clip[name] for clip in stored]) for name in PLAIN)
    return Clips(observations, actions, valid, unknown_reward(len(stored), length), stack=stack)


def _cut(arrays: dict[str, np.ndarray], length: int, stack: int) -> dict[str, np.ndarray]:
    """A stored clip without what lies behind it."""
    ends = {"observations": stack - 1 + length}
    return {name: arrays[name][: ends.get(name, length)] for name in PLAIN}


def predicting(experiment: Experiment, x: LearnedReward, follower: SACState | None) -> Predict:
    """How a reward foresees answers; a model by regret wants the values of a follower, too."""
    return lambda first, second: np.asarray(experiment.predict(x, first, second, follower), np.float64)


def right(pairs: Pairs, predict: Predict) -> Bool[np.ndarray, " t"]:
    """Whether each pair that is told apart is foreseen."""
    told = pairs.told
    return (predict(pairs.first, pairs.second)[told] > 0.5) == (pairs.better[told] > 0.5)


def judge(name: str, pairs: Pairs, predict: Predict, seed: int) -> Judged:
    """Accuracy and calibration of a reward on these pairs."""
    probability, told = predict(pairs.first, pairs.second), pairs.told
    agreed = (probability[told] > 0.5) == (pairs.better[told] > 0.5)
    answered = ~np.isnan(pairs.answer) & (pairs.answer != 0.5)
    found = calibrate(probability[answered], pairs.answer[answered], seed) if answered.sum() > 1 else None
    return Judged(name, int(told.sum()), int((~told).sum()), proportion(agreed), found)
