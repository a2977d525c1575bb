"""The clips of a run's newest comparisons: as films in a folder, or as questions for people in a store."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from .._core import InputError
from .._core.atomic import writing
from ..envs import ClipFilmer
from ..preferences import Clips
from ..preferences.store import Store
from .clip_arrays import PLAIN, stored_arrays, unknown_reward
from .collect import START
from .config import TrainConfig
from .folder import RunFolder
from .loading import load_reward
from .parts import boxes_to_hide
from .stored_queue import stored_queue


@dataclass(frozen=True)
class Compared:
    """One comparison of a run's queue.

    Attributes:
        number: of the comparison, from 0.
        step: environment steps when it was answered.
        label: the answer.
        clips: of each of the two clips what the queue holds, by name.
        states: of each the simulator's state at its start, by name.
    """

    number: int
    step: int
    label: float
    clips: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]
    states: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]


def film_comparisons(path: Path | str, count: int, out: Path | None = None) -> Path:
    """Film both clips of the `count` newest comparisons of a run; the folder they are in.

    In colour where the environment has colours, without what the run hides; replayed from the simulator's
    state at the start of each clip. Beside the films, ``comparisons.json`` holds what was answered.

    Raises:
        InputError: no run, no checkpoint, fewer than one comparison, or a run without --film-clips.
    """
    folder, config, compared = newest_comparisons(path, count)
    out = folder.path / "clips" if out is None else out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out} ({error.strerror}): give another --out") from error
    told: list[dict[str, Any]] = []
    with _filmer(config) as filmer:
        for pair in compared:
            films = []
            for word, state, clip in zip(("first", "second"), pair.states, pair.clips, strict=True):
                film = out / f"{pair.number:06d}-{word}.mp4"
                filmer.film(state, clip["actions"][: config.clip_length], film)
                films.append(film.name)
            told.append(
                {"number": pair.number, "step": pair.step, "first_preferred": pair.label, "films": films}
            )
    with writing(out / "comparisons.json") as temporary:
        temporary.write_text(json.dumps(told, indent=2))
    return out


def ask_people(path: Path | str, store: Store, count: int) -> int:
    """Put the `count` newest comparisons of a run into `store`, as questions with films; how many.

    With what the run's reward says of each, so that it can be held against the answers.

    Raises:
        InputError: as `film_comparisons`.
    """
    folder, config, compared = newest_comparisons(path, count)
    experiment, x, step = load_reward(folder, config)
    stack = 1 if experiment.spec.image is None else experiment.spec.image.stack
    sides = []
    for side in (0, 1):
        of = {name: np.stack([pair.clips[side][name] for pair in compared]) for name in PLAIN}
        unknown = unknown_reward(len(compared), config.clip_length)
        sides.append(Clips(of["observations"], of["actions"], of["valid"], unknown, stack=stack))
    predicted = experiment.predict(x, sides[0], sides[1])
    with _filmer(config) as filmer:

        def keep(state: Mapping[str, np.ndarray], clip: Mapping[str, np.ndarray]) -> str:
            def film(to: Path) -> None:
                filmer.film(state, clip["actions"][: config.clip_length], to)

            return store.add_clip(stored_arrays(clip), env=config.env, length=config.clip_length, film=film)

        asked_by = f"{folder.path.resolve().name}@{step}"
        for pair, probability in zip(track(compared, "filming clips"), predicted, strict=True):
            first, second = (keep(*side) for side in zip(pair.states, pair.clips, strict=True))
            # Drawn with replacement, a clip may stand on both sides: there is nothing to ask then.
            if first != second:
                (number,) = store.ask([(first, second)], asked_by=asked_by, step=step)
                store.predict({number: float(probability)}, step=step)
    return len(compared)


def newest_comparisons(path: Path | str, count: int) -> tuple[RunFolder, TrainConfig, list[Compared]]:
    """The `count` newest comparisons in the last checkpoint of a run, the oldest of them first.

    Raises:
        InputError: as `film_comparisons`.
    """
    if count < 1:
        raise InputError(f"--count is {count}: give a whole number of at least 1")
    folder = RunFolder.open(path)
    config = TrainConfig.from_json(folder.config)
    if not config.films or not config.learns_reward:
        raise InputError(f"{path} did not keep what its films take: train with --film-clips")
    arrays = stored_queue(folder, config)
    total, capacity = int(arrays.pop("total")), len(arrays["label"])
    paired = {name: array for name, array in arrays.items() if array.ndim > 1}
    found = []
    for number in range(max(0, total - min(count, capacity)), total):
        slot = number % capacity
        sides = [{name: np.asarray(array[slot, side]) for name, array in paired.items()} for side in (0, 1)]
        states = [
            {name.removeprefix(START): array for name, array in side.items() if name.startswith(START)}
            for side in sides
        ]
        found.append(
            Compared(
                number,
                int(arrays["step"][slot]),
                float(arrays["label"][slot]),
                (sides[0], sides[1]),
                (states[0], states[1]),
            )
        )
    return folder, config, found


def _filmer(config: TrainConfig) -> ClipFilmer:
    return ClipFilmer(config.env, options=config.env_options(), boxes=boxes_to_hide(config))
