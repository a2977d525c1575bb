"""People answer a run's questions through a store, whenever they do; the run goes on meanwhile."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from .._core import TrueReward, TrueRewardReader
from ..envs import ClipFilmer
from ..preferences import Clips, Teacher
from ..preferences.store import Record, Store, standing
from .asking import Desk, Heard, Moment, foreseen, share
from .clip_arrays import clip_arrays, clips_from_arrays
from .collect import START, Collector, some
from .config import TrainConfig
from .parts import boxes_to_hide

# Answers that are made clips at once; of pictures, some tens of megabytes.
_TOGETHER = 64
_LOOK_EVERY = 0.25


def store_of(config: TrainConfig, folder: Path) -> tuple[str | Path, Path]:
    """Where a run's questions and answers are, and the folder of their clips."""
    where = config.store if config.store is not None else folder / "answers"
    if isinstance(where, str) and "://" in where:
        return where, folder / "clips"
    return Path(where), Path(where) / "clips"


def open_store(config: TrainConfig, folder: Path) -> Store:
    """The store of a run; made where there is none."""
    where, clips = store_of(config, folder)
    return Store.open(where, clips=clips)


class PeoplesDesk(Desk):
    """Questions go to a store, as films; answers come back from it.

    Answers are read in the order in which the store got them, from where the last checkpoint stopped reading:
    none is lost while the run is not there, and those of before it are learned from too. One that is taken
    back leaves the queue. Those held out judge the reward and never reach the queue.

    Args:
        config: settings.
        folder: of the run.
        name: of the run, for the questions it asks.
        fallback: answers what no one did by the deadline; None: no one does.
        tell: prints a line for the person at the terminal.
        stopping: whether the run was asked to stop.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        name: str,
        fallback: Teacher | None,
        tell: Callable[[str], None],
        stopping: Callable[[], bool],
    ):
        self._config, self._name, self._fallback = config, name, fallback
        self._tell, self._stopping = tell, stopping
        self._store = open_store(config, folder)
        self._films: ClipFilmer | None = None
        self._read = self._asked = 0
        # Of this run's own questions that wait: the true rewards, for the fallback alone.
        self._pending: dict[int, TrueReward] = {}
        # When they were asked, by the clock that nobody sets.
        self._asked_at: dict[int, float] = {}
        self._held_out: dict[int, tuple[Clips, Clips, float]] = {}
        self._recalled = False
        self._last_answer: float | None = None

    def ask(self, collector: Collector, moment: Moment) -> Heard:
        """See `Desk.ask`: waits for people as long as they are answering."""
        self._retire(collector, moment)
        self._post(collector, moment)
        agreed = self._wait(collector, moment)
        waiting = self._store.counts().open
        return Heard(share(np.array(agreed)), self._judge(moment), waiting)

    # ---- questions ------------------------------------------------------------------------------

    def _post(self, collector: Collector, moment: Moment) -> None:
        config = self._config
        room = config.max_waiting - len(self._pending)
        count = min(collector.due(moment.step, self._asked), room)
        if count <= 0:
            return
        if self._last_answer is None:
            self._tell("the first questions wait for answers: see docs/label.md, or rewardsmith label --help")
        first, second = collector.pairs(
            count, moment.act, moment.rng, fresh=moment.fresh, choose=moment.choose
        )
        pairs, rows = [], []
        for index in range(len(first.valid)):
            ids = [self._keep(side, index, collector) for side in (first, second)]
            # Drawn with replacement, a clip may stand on both sides: there is nothing to ask then.
            if ids[0] != ids[1]:
                pairs.append((ids[0], ids[1]))
                rows.append(index)
        aside = moment.rng.random(len(pairs)) < config.held_out
        numbers = self._store.ask(
            pairs,
            asked_by=f"{self._name}@{moment.step}",
            step=moment.step,
            overlap=config.overlap,
            held_out=[bool(one) for one in aside],
        )
        for index, number in zip(rows, numbers, strict=True):
            self._pending[number] = TrueReward.stack([first.true_reward[index], second.true_reward[index]])
            self._asked_at[number] = time.monotonic()
        self._asked += len(numbers)
        if self._last_answer is None:
            self._last_answer = time.monotonic()

    def _keep(self, clips: Clips, index: int, collector: Collector) -> str:
        """Clip `index` in the store, with its film."""
        config = self._config
        starts = {
            name.removeprefix(START): array[index]
            for name, array in clips.extras.items()
            if name.startswith(START)
        }

        def film(path: Path) -> None:
            if self._films is None:
                self._films = ClipFilmer(
                    config.env, options=config.env_options(), boxes=boxes_to_hide(config)
                )
            self._films.film(starts, clips.actions[index, : config.clip_length], path)

        return self._store.add_clip(
            clip_arrays(clips, index, collector), env=config.env, length=config.clip_length, film=film
        )

    def _retire(self, collector: Collector, moment: Moment) -> None:
        """Questions that waited too long are withdrawn, and answered by the fallback if there is one."""
        deadline = self._config.answer_deadline
        if deadline is None or not self._pending:
            return
        late = [number for number in self._pending if self._age(number) > deadline]
        withdrawn = self._store.withdraw(late)
        rewards = [self._pending.pop(number) for number in withdrawn]
        # Whoever was not answered was not asked: the budget is for answers.
        self._asked -= len(withdrawn)
        if self._fallback is None or not withdrawn:
            return
        questions = [self._store.question(number) for number in withdrawn]
        first, second = (
            self._clips([getattr(question, side) for question in questions], collector)
            for side in ("first", "second")
        )
        sums = TrueReward.stack(rewards, axis=1)
        fallback = self._fallback.calibrated(collector.records[0].recent_true_reward)
        label = fallback.answer(sums[0], sums[1], moment.rng)
        # What was set aside for judging trains nothing, whoever answers it.
        aside = np.array([question.held_out for question in questions])
        collector.put(first, second, np.where(aside, np.nan, label), moment.step)
        self._asked += len(withdrawn)

    def _age(self, question: int) -> float:
        """Seconds for which a question has waited.

        The wall clock tells of the time before this process alone: it may be set at any moment, and must
        neither withdraw what people have just been asked nor leave a question open for ever.
        """
        now = time.monotonic()
        if question not in self._asked_at:
            before = datetime.now(UTC) - self._store.question(question).asked_at
            self._asked_at[question] = now - max(0.0, before.total_seconds())
        return now - self._asked_at[question]

    # ---- answers --------------------------------------------------------------------------------

    def _wait(self, collector: Collector, moment: Moment) -> list[bool]:
        """Take answers until half are there, no one has answered for so long, or the run is to stop."""
        agreed = self._adopt(collector, moment)
        # Half of them, so that people have something to answer while the policy learns.
        enough = len(self._pending) // 2
        while (
            len(self._pending) > enough
            and time.monotonic() - (self._last_answer or 0.0) < self._config.answer_wait
            and not self._stopping()
        ):
            time.sleep(_LOOK_EVERY)
            agreed += self._adopt(collector, moment)
        return agreed

    def _adopt(self, collector: Collector, moment: Moment) -> list[bool]:
        """Put what was answered since the last look into the queue; whether each was foreseen."""
        self._recall(collector)
        records = self._store.records(after=self._read)
        if not records:
            return []
        self._last_answer = time.monotonic()
        agreed: list[bool] = []
        taken_back = {record.undoes for record in records if record.undoes is not None}
        collector.queue.remove(taken_back)
        self._held_out = {
            number: known for number, known in self._held_out.items() if number not in taken_back
        }
        answered = standing(records)
        for begin in range(0, len(answered), _TOGETHER):
            agreed += self._learn(answered[begin : begin + _TOGETHER], collector, moment).tolist()
        still_open = {question.id for question in self._store.open_questions()}
        self._pending = {number: pair for number, pair in self._pending.items() if number in still_open}
        self._read = records[-1].sequence
        return agreed

    def _learn(self, records: Sequence[Record], collector: Collector, moment: Moment) -> np.ndarray:
        questions = [self._store.question(record.question) for record in records]
        first, second = (
            self._clips([getattr(question, side) for question in questions], collector)
            for side in ("first", "second")
        )
        label = np.array([record.answer.label for record in records if record.answer is not None])
        predicted = moment.predict(first, second)
        self._store.predict(
            {record.question: float(p) for record, p in zip(records, predicted, strict=True)},
            step=moment.step,
        )
        aside = np.array([record.held_out for record in records])
        for index in np.flatnonzero(aside).tolist():
            self._held_out[records[index].sequence] = (
                some(first, slice(index, index + 1)),
                some(second, slice(index, index + 1)),
                float(label[index]),
            )
        collector.put(
            first,
            second,
            np.where(aside, np.nan, label),
            moment.step,
            np.array([record.labeller for record in records]),
            np.array([record.sequence for record in records]),
        )
        return foreseen(predicted, label)

    def _recall(self, collector: Collector) -> None:
        """Behind a stop: the answers held out that were read before it."""
        if self._recalled:
            return
        self._recalled = True
        for record in standing(record for record in self._store.records() if record.sequence <= self._read):
            if record.held_out and record.answer is not None:
                question = self._store.question(record.question)
                pair = [self._clips([side], collector) for side in (question.first, question.second)]
                self._held_out[record.sequence] = (pair[0], pair[1], record.answer.label)

    def _judge(self, moment: Moment) -> float | None:
        """Share of the answers held out that the reward of now foresees."""
        agreed = [
            foreseen(moment.predict(first, second), np.array([label]))
            for first, second, label in self._held_out.values()
        ]
        return share(np.concatenate(agreed)) if agreed else None

    def _clips(self, ids: Sequence[str], collector: Collector) -> Clips:
        return clips_from_arrays([self._store.load_clip(one) for one in ids], collector)

    # ---- stop and go on -------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """See `Desk.get_state`."""
        size, horizon = self._config.max_waiting, self._config.clip_length
        numbers, rewards = np.zeros(size, np.int64), np.zeros((size, 2, horizon))
        for index, (number, reward) in enumerate(self._pending.items()):
            numbers[index], rewards[index] = number, reward.reveal(TrueRewardReader.CHECKPOINT)
        return {
            "read": np.asarray(self._read),
            "asked": np.asarray(self._asked),
            "pending": numbers,
            "true_reward": rewards,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """See `Desk.set_state`."""
        self._read, self._asked = int(state["read"]), int(state["asked"])
        pairs = zip(state["pending"], state["true_reward"], strict=True)
        self._pending = {int(number): TrueReward(reward) for number, reward in pairs if number}

    def close(self) -> None:
        """See `Desk.close`."""
        if self._films is not None:
            self._films.close()
        self._store.close()
