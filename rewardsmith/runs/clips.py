"""The clips of a run's newest comparisons, as films for people."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from .._core import InputError
from .._core.serialise import load_arrays, writing
from ..envs import film_clip
from .collect import START
from .config import TrainConfig
from .finish import newest_checkpoint
from .folder import RunFolder
from .parts import boxes_to_hide

_QUEUE = "['collector']['queue']"


def film_comparisons(path: Path | str, count: int, out: Path | None = None) -> Path:
    """Film both clips of the `count` newest comparisons of a run; the folder they are in.

    In colour where the environment has colours, without what the run hides; replayed from the simulator's
    state at the start of each clip. Beside the films, ``comparisons.json`` holds what was answered.

    Raises:
        InputError: no run, no checkpoint, fewer than one comparison, or a run without --film-clips.
    """
    if count < 1:
        raise InputError(f"--count is {count}: give a whole number of at least 1")
    folder = RunFolder.open(path)
    config = TrainConfig.from_json(folder.config)
    if not config.film_clips or not config.learns_reward:
        raise InputError(f"{path} did not keep what its films take: train with --film-clips")
    arrays = load_arrays(newest_checkpoint(folder), _QUEUE)
    total, capacity = int(arrays["total"]), len(arrays["label"])
    starts = {name.removeprefix(START): array for name, array in arrays.items() if name.startswith(START)}
    out = folder.path / "clips" if out is None else out
    out.mkdir(parents=True, exist_ok=True)
    told: list[dict[str, Any]] = []
    for number in range(max(0, total - min(count, capacity)), total):
        slot = number % capacity
        films = []
        for side, word in enumerate(("first", "second")):
            row = {name: array[slot, side] for name, array in starts.items()}
            actions = arrays["actions"][slot, side, : config.clip_length]
            film = out / f"{number:06d}-{word}.mp4"
            film_clip(
                config.env,
                row,
                np.asarray(actions),
                film,
                options=config.env_options(),
                boxes=boxes_to_hide(config),
            )
            films.append(film.name)
        told.append(
            {
                "number": number,
                "step": int(arrays["step"][slot]),
                "first_preferred": float(arrays["label"][slot]),
                "films": films,
            }
        )
    with writing(out / "comparisons.json") as temporary:
        temporary.write_text(json.dumps(told, indent=2))
    return out
