"""Numbers for owners: answers over time, agreement among labellers and with the model, returns."""

import itertools
import math
import statistics
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardsmith.preferences.store import Answer, Record, Store, standing

_BUCKET_SECONDS = (60, 300, 900, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600, 30 * 24 * 3600)
_MOST_BUCKETS = 60
_MOST_STEPS = 40
_PAUSE = 120.0


class Statistics:
    """Reads the store's log as it grows, and says how things stand.

    Args:
        store: the answers and the model's predictions.
        run: folder whose ``metrics.parquet`` holds the returns; None: none.
    """

    def __init__(self, store: Store, run: Path | None = None):
        self._store, self._run = store, run
        self._records: list[Record] = []
        self._lock = threading.Lock()

    def read(self) -> dict[str, Any]:
        """All that the dashboard shows, as JSON."""
        with self._lock:
            last = self._records[-1].sequence if self._records else 0
            self._records.extend(self._store.records(last))
            records = list(self._records)
        given = standing(records)
        counts = self._store.counts()
        numbers, nothing = per_labeller(given), _of_labeller([], None)
        return {
            "counts": {
                "open": counts.open,
                "taken": counts.taken,
                "answered": counts.answered,
                "withdrawn": counts.withdrawn,
                "answers": counts.answers,
            },
            "answers": Counter(str(record.answer) for record in given),
            "undone": sum(record.undoes is not None for record in records),
            "over_time": over_time(given),
            "labellers": [
                {"name": one.name, "role": one.role, "active": one.active, **numbers.get(one.id, nothing)}
                for one in self._store.labellers()
            ],
            "between": between(given),
            "model": model_agreement(given, self._store.predictions()),
            "returns": read_returns(self._run),
        }


def over_time(given: Sequence[Record]) -> dict[str, Any]:
    """Answers in each stretch of time: `width` in seconds, the starts in ISO 8601 UTC."""
    if not given:
        return {"width": _BUCKET_SECONDS[0], "buckets": []}
    times = [record.at.timestamp() for record in given]
    first, last = min(times), max(times)
    fitting = (width for width in _BUCKET_SECONDS if (last - first) / width < _MOST_BUCKETS)
    width = next(fitting, _BUCKET_SECONDS[-1])
    start = math.floor(first / width)
    number = Counter(math.floor(time / width) for time in times)
    buckets = range(start, math.floor(last / width) + 1)[-_MOST_BUCKETS:]
    return {
        "width": width,
        "buckets": [{"start": index * width, "answers": number[index]} for index in buckets],
    }


def per_labeller(given: Sequence[Record]) -> dict[int, dict[str, Any]]:
    """By labeller: answers, answers a minute while at it, median seconds to respond, and shares of answers.

    Someone is at it while the time between two answers is under two minutes. `agreement` is with the other
    labellers of the same questions, as in `between`.
    """
    mine: dict[int, list[Record]] = defaultdict(list)
    agreed: dict[int, list[bool]] = defaultdict(list)
    for record in given:
        mine[record.labeller].append(record)
    for one, other in _compared(given):
        agreed[one.labeller].append(one.answer == other.answer)
        agreed[other.labeller].append(one.answer == other.answer)
    return {who: _of_labeller(records, agreed.get(who)) for who, records in mine.items()}


def _of_labeller(records: Sequence[Record], agreed: Sequence[bool] | None) -> dict[str, Any]:
    times = sorted(record.at.timestamp() for record in records)
    gaps = [gap for gap in (b - a for a, b in itertools.pairwise(times)) if gap < _PAUSE]
    seconds = [record.response_seconds for record in records if record.response_seconds is not None]
    answers = Counter(record.answer for record in records)
    return {
        "answers": len(records),
        "per_minute": 60 * len(gaps) / sum(gaps) if sum(gaps) > 0 else None,
        "median_seconds": statistics.median(seconds) if seconds else None,
        "agreement": sum(agreed) / len(agreed) if agreed else None,
        "equal": answers[Answer.EQUAL] / len(records) if records else None,
        "cannot_tell": answers[Answer.CANNOT_TELL] / len(records) if records else None,
    }


def between(given: Iterable[Record]) -> dict[str, Any]:
    """How often two labellers of one question gave the same answer; "cannot tell" is left out.

    `expected` is the share that would agree by chance, were answers drawn from the same frequencies;
    `kappa` = (agreement − expected) / (1 − expected), as Scott's π (1955) has it.
    """
    pairs = list(_compared(given))
    if not pairs:
        return {"questions": 0, "pairs": 0, "agreement": None, "expected": None, "kappa": None}
    agreement = sum(one.answer == other.answer for one, other in pairs) / len(pairs)
    frequency = Counter(record.answer for pair in pairs for record in pair)
    expected = sum((count / frequency.total()) ** 2 for count in frequency.values())
    kappa = (agreement - expected) / (1 - expected) if expected < 1 else None
    return {
        "questions": len({one.question for one, _ in pairs}),
        "pairs": len(pairs),
        "agreement": agreement,
        "expected": expected,
        "kappa": kappa,
    }


def _compared(given: Iterable[Record]) -> Iterator[tuple[Record, Record]]:
    """All pairs of answers of two labellers to one question, without "cannot tell"."""
    answers: dict[int, list[Record]] = defaultdict(list)
    for record in given:
        if record.answer != Answer.CANNOT_TELL:
            answers[record.question].append(record)
    for group in answers.values():
        yield from itertools.combinations(group, 2)


def model_agreement(
    given: Iterable[Record], predictions: Iterable[tuple[int, int, float]]
) -> dict[str, list[dict[str, Any]]]:
    """Share of answers that the reward model foretold, by step of the model, for two kinds of questions.

    A prediction is right when it puts more than half on the film that was preferred; answers that prefer
    neither say nothing here. "trained_on" are answers it had not seen yet, "held_out" those it never sees.
    """
    labels: dict[int, list[Record]] = defaultdict(list)
    for record in given:
        if record.answer in (Answer.LEFT, Answer.RIGHT):
            labels[record.question].append(record)
    right: dict[str, dict[int, list[bool]]] = {"trained_on": defaultdict(list), "held_out": defaultdict(list)}
    for question, step, probability in predictions:
        for record in labels.get(question, ()):
            kind = "held_out" if record.held_out else "trained_on"
            right[kind][step].append((probability > 0.5) == (record.answer == Answer.LEFT))
    return {kind: _by_step(steps) for kind, steps in right.items()}


def _by_step(steps: Mapping[int, list[bool]]) -> list[dict[str, Any]]:
    """At most 40 points: neighbouring steps are put together, each point at its last step."""
    ordered = sorted(steps)
    together = math.ceil(len(ordered) / _MOST_STEPS) or 1
    points = []
    for start in range(0, len(ordered), together):
        group = ordered[start : start + together]
        hits = [hit for step in group for hit in steps[step]]
        points.append({"step": group[-1], "agreement": sum(hits) / len(hits), "answers": len(hits)})
    return points


def read_returns(run: Path | None) -> list[dict[str, Any]]:
    """Mean return of each evaluation of a run and its standard deviation, by environment step."""
    path = None if run is None else run / "metrics.parquet"
    if path is None or not path.is_file():
        return []
    # Not at the top: polars starts threads, and most servers never show a run.
    import polars as pl

    columns = ["step", "true_return", "true_return_std"]
    try:
        frame = pl.read_parquet(path.read_bytes())
        frame = frame.filter(pl.col("kind") == "eval", pl.col("true_return").is_finite())
        rows = frame.select(columns).sort("step").to_dicts()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        # The run may be writing for the first time, or be of another version: its answers still show.
        return []
    return [{"step": row["step"], "mean": row["true_return"], "std": row["true_return_std"]} for row in rows]
