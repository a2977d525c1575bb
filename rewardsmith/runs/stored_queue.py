"""The comparisons in a run's newest checkpoint, read without the rest of it."""

import contextlib

import numpy as np

from .._core import InputError
from .._core.serialise import load_arrays
from ..preferences import ComparisonQueue
from .config import TrainConfig
from .folder import RunFolder
from .loading import newest_checkpoint
from .parts import make_env

_QUEUE = "['collector']['queue']"


def stored_queue(folder: RunFolder, config: TrainConfig) -> dict[str, np.ndarray]:
    """The ring of comparisons, by name of array, (capacity, ...), and how many were ever put into it: total.

    Args:
        folder: of the run.
        config: its settings.

    Raises:
        InputError: no checkpoint, or arrays that are not those of a run with these settings.
    """
    checkpoint = newest_checkpoint(folder)
    arrays = load_arrays(checkpoint, _QUEUE)
    with contextlib.closing(make_env(config, 1)) as env:
        spec = env.spec
    kinds = np.uint8 if spec.image else np.float32, np.float32 if spec.num_actions is None else np.int32
    shapes = spec.observation_shape, spec.action_shape
    expected = ComparisonQueue(1, config.clip_length, 0, *shapes, *kinds, image=spec.image).get_state()
    total = arrays.get("total")
    capacity = len(arrays["label"]) if arrays.get("label", np.zeros(())).ndim else 0
    fits = total is not None and total.shape == () and total.dtype.kind == "i" and total >= 0 and capacity > 0
    fits = fits and expected.keys() <= arrays.keys()
    for name, found in arrays.items() if fits else ():
        if name == "total":
            continue
        fits = fits and found.ndim > 0 and len(found) == capacity
        like = expected.get(name)
        if like is None:
            # What the method keeps beside the clips: of both clips of each pair.
            fits = fits and found.ndim > 1 and found.shape[1] == 2
        else:
            # Some methods keep steps behind the clip.
            longer = found.ndim > 2 and found.shape[2] >= like.shape[2]
            fits = fits and found.dtype == like.dtype and found.ndim == like.ndim
            fits = fits and found.shape[1:2] + found.shape[3:] == like.shape[1:2] + like.shape[3:]
            fits = fits and (longer or found.ndim <= 2)
    if not fits:
        raise InputError(
            f"{checkpoint} holds no comparisons of a run with these settings: restore it or start anew"
        )
    return arrays
