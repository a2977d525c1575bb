"""Who is asked to compare clips in a session of a run: a synthetic teacher at once."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..preferences import Clips, Teacher
from .collect import ActInStreams, Choose, Collector


@dataclass(frozen=True)
class Moment:
    """What a session knows when it asks.

    Attributes:
        step: environment steps by now.
        predict: (first, second) -> (n,) the probability that the first is preferred, by the reward of now.
        act: how the policy of now acts in roll-outs.
        rng: all randomness on the host.
        fresh: whether clips are drawn by the policy of now.
        choose: picks pairs from candidates; None: all are asked about.
    """

    step: int
    predict: Callable[[Clips, Clips], np.ndarray]
    act: ActInStreams
    rng: np.random.Generator
    fresh: bool
    choose: Choose | None = None


@dataclass(frozen=True)
class Heard:
    """What came of it.

    Attributes:
        accuracy: share of the new answers that the reward foresaw; None where there was none to foresee.
        held_out_accuracy: the same of all answers that are set aside for judging.
        waiting: questions that still wait for an answer; None where no one is waited for.
    """

    accuracy: float | None
    held_out_accuracy: float | None = None
    waiting: int | None = None


def foreseen(predicted: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Whether each answer that says which is better was predicted; ties and "cannot tell" are left out."""
    told = ~np.isnan(label) & (label != 0.5)
    return np.sign(predicted[told] - 0.5) == np.sign(label[told] - 0.5)


def share(agreed: np.ndarray) -> float | None:
    """Their mean; None where there are none."""
    return float(np.mean(agreed)) if len(agreed) else None


class Desk(abc.ABC):
    """Where a run puts its questions and gets its answers."""

    @abc.abstractmethod
    def ask(self, collector: Collector, moment: Moment) -> Heard:
        """Put the questions that are due, and what answers there are into the collector's queue."""

    def get_state(self) -> Any:
        """What a checkpoint must keep of it."""
        return {}

    def set_state(self, state: Any) -> None:
        """Put back what `get_state` gave."""
        del state

    def close(self) -> None:
        """Release what it holds."""
        return None


class TeachersDesk(Desk):
    """A synthetic teacher answers at once.

    Args:
        teacher: sees true rewards.
    """

    def __init__(self, teacher: Teacher):
        self._teacher = teacher

    def ask(self, collector: Collector, moment: Moment) -> Heard:
        """See `Desk.ask`."""
        due = collector.due(moment.step, collector.queue.total)
        if due <= 0:
            return Heard(None)
        first, second, label = collector.ask(
            due,
            moment.step,
            self._teacher.calibrated(collector.records[0].recent_true_reward),
            moment.act,
            moment.rng,
            fresh=moment.fresh,
            choose=moment.choose,
        )
        return Heard(share(foreseen(moment.predict(first, second), label)))
