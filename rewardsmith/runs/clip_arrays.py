"""A clip as a store keeps it, by name of array, and back; no true reward is among them."""

from collections.abc import Mapping, Sequence

import numpy as np

from .._core import InputError, TrueReward
from ..preferences import Clips
from .collect import START, Collector

PLAIN = ("observations", "actions", "valid")
_EXTRA = "extra "


def clip_arrays(clips: Clips, index: int, collector: Collector) -> dict[str, np.ndarray]:
    """Clip `index`: its observations, actions and `valid`, and of the rest what the queue keeps."""
    kept = {name: np.asarray(getattr(clips, name)[index]) for name in PLAIN}
    extras = {name: np.asarray(clips.extras[name][index]) for name in collector.queue.extras}
    return stored_arrays(kept | extras)


def stored_arrays(clip: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of one clip as a queue names them, as a store does."""
    return {name if name in PLAIN else _EXTRA + name: array for name, array in clip.items()}


def clips_from_arrays(stored: Sequence[Mapping[str, np.ndarray]], collector: Collector) -> Clips:
    """Clips of a store, as the queue of this run keeps them; their true reward is not known: NaN.

    Steps behind the clip that were not stored are not valid.

    Raises:
        InputError: they are of another task, or lack what the run's method needs.
    """
    queue = collector.queue
    columns: dict[str, list[np.ndarray]] = {name: [] for name in (*PLAIN, *queue.extras)}
    for arrays in stored:
        for name in PLAIN:
            columns[name].append(_fitted(name, arrays, queue.arrays()[name], queue.horizon))
        for name in queue.extras:
            columns[name].append(_extra(name, arrays, queue.arrays()[name]))
    whole = {name: np.stack(column) for name, column in columns.items()}
    return Clips(
        whole["observations"],
        whole["actions"],
        whole["valid"],
        unknown_reward(len(stored), queue.horizon),
        {name: whole[name] for name in queue.extras},
        queue.stack,
    )


def unknown_reward(count: int, horizon: int) -> TrueReward:
    """The true reward of clips that come from a store: NaN."""
    return TrueReward(np.full((count, horizon), np.nan))


def _fitted(name: str, arrays: Mapping[str, np.ndarray], kept: np.ndarray, horizon: int) -> np.ndarray:
    """One array of a clip, cut or filled to the length that the queue keeps."""
    needed, found = kept.shape[2:], arrays.get(name)
    missing = 0 if found is None else needed[0] - len(found)
    fits = found is not None and found.dtype == kept.dtype and found.shape[1:] == needed[1:]
    if found is None or not fits or "valid" not in arrays:
        raise InputError(f"the store holds clips of another task ({name} do not fit): give another --store")
    if len(arrays["valid"]) < horizon or not arrays["valid"][:horizon].all():
        raise InputError(
            f"the store holds clips of fewer than {horizon} steps: give a shorter --clip-length or another "
            "--store"
        )
    if missing <= 0:
        return found[: needed[0]]
    return np.concatenate([found, np.zeros((missing, *needed[1:]), found.dtype)])


def _extra(name: str, arrays: Mapping[str, np.ndarray], kept: np.ndarray) -> np.ndarray:
    found = arrays.get(_EXTRA + name)
    if found is None and name.startswith(START):
        # For films alone, and this clip has its own.
        return np.zeros(kept.shape[2:], kept.dtype)
    if found is None or found.shape != kept.shape[2:] or found.dtype != kept.dtype:
        raise InputError(
            f"the clips in the store were kept without {name!r}, which this run needs: give "
            "--clips queue and --estimator one-step or suffix, or another --store"
        )
    return found
