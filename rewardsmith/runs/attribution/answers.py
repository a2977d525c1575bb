"""The answers that a run has learned from, with who gave them, as its newest checkpoint holds them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..._core import InputError
from ...preferences.store import Record, Store, standing
from ..choices import HUMAN
from ..clip_arrays import PLAIN
from ..config import TrainConfig
from ..folder import RunFolder
from ..people import store_of
from ..stored_queue import stored_queue

_FALLBACK, _UNKNOWN = "fallback teacher", "unknown"


@dataclass(frozen=True)
class Answers:
    """n answered comparisons, oldest first.

    Attributes:
        number: (n,) of the comparison in the run, from 0.
        step: (n,) environment steps when it was answered.
        label: (n,) probability that the first is preferred.
        labeller: (n,) number of who answered; 0: a synthetic teacher.
        pairs: "observations" (of pictures frames) and "actions", (n, 2, H …, ...).
        who: who answered.
        clips: ids of both clips in the store; "" where there is none.
    """

    number: np.ndarray
    step: np.ndarray
    label: np.ndarray
    labeller: np.ndarray
    pairs: Mapping[str, np.ndarray]
    who: list[str]
    clips: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class HeldOut:
    """m answers of people that were never trained on: `pairs` and `label` as of `Answers`."""

    label: np.ndarray
    pairs: Mapping[str, np.ndarray]


def read_answers(
    folder: RunFolder, config: TrainConfig, newest: int | None = None
) -> tuple[Answers, HeldOut | None]:
    """The newest answers in a run's last checkpoint, and those that its store holds out.

    Args:
        folder: of the run.
        config: its settings.
        newest: so many at most; None: all that the queue holds.

    Raises:
        InputError: a run that learns no reward, no checkpoint, or fewer than two answers in it.
    """
    if not config.learns_reward:
        raise InputError(
            f"{folder.path} learned no reward ({config.method}): give a run that asks for answers"
        )
    arrays = stored_queue(folder, config)
    total, capacity = int(arrays["total"]), len(arrays["label"])
    held = min(total, capacity, newest or capacity)
    if held < 2:
        raise InputError(f"{folder.path} holds {held} answers: let it go on until there are some")
    number = np.arange(total - held, total)
    slots = number % capacity
    length = _lengths(arrays, config)
    pairs = {name: np.asarray(arrays[name][slots][:, :, :steps]) for name, steps in length.items()}
    labeller = np.asarray(arrays["labeller"][slots])
    who, clips, held_out = _people(folder, config, labeller, np.asarray(arrays["record"][slots]), length)
    label, step = (np.asarray(arrays[name][slots]) for name in ("label", "step"))
    return Answers(number, step, label, labeller, pairs, who, clips), held_out


def _lengths(arrays: Mapping[str, np.ndarray], config: TrainConfig) -> dict[str, int]:
    """Steps, of pictures frames, that are compared."""
    more = arrays["observations"].shape[2] - arrays["actions"].shape[2]
    return {"observations": config.clip_length + more, "actions": config.clip_length}


def _people(
    folder: RunFolder,
    config: TrainConfig,
    labeller: np.ndarray,
    record: np.ndarray,
    length: Mapping[str, int],
) -> tuple[list[str], list[tuple[str, str]], HeldOut | None]:
    nobody = [("", "")] * len(labeller)
    if config.teacher != HUMAN:
        return [config.teacher] * len(labeller), nobody, None
    where, clips = store_of(config, folder.path)
    with Store.open(where, clips=clips if isinstance(where, str) else Path(clips), create=False) as store:
        names = {0: _FALLBACK} | {one.id: one.name for one in store.labellers()}
        records = {line.sequence: line for line in store.records()}
        ids = [_clips_of(store, records.get(int(sequence))) for sequence in record]
        held_out = _held_out(store, standing(records.values()), length)
    return [names.get(int(one), _UNKNOWN) for one in labeller], ids, held_out


def _clips_of(store: Store, line: Record | None) -> tuple[str, str]:
    if line is None:
        return "", ""
    question = store.question(line.question)
    return question.first, question.second


def _held_out(store: Store, lines: list[Record], length: Mapping[str, int]) -> HeldOut | None:
    labels, sides = [], []
    for line in lines:
        if line.held_out and line.answer is not None and not np.isnan(line.answer.label):
            question = store.question(line.question)
            labels.append(line.answer.label)
            sides.append([store.load_clip(one) for one in (question.first, question.second)])
    if not labels:
        return None
    pairs = {
        name: np.stack([[side[name][: length[name]] for side in both] for both in sides])
        for name in PLAIN
        if name in length
    }
    return HeldOut(np.array(labels, np.float32), pairs)
