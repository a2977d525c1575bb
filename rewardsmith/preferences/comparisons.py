"""Comparisons: pairs of clips with an answer, in a queue of bounded memory."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from .._core import ImageSpec, InputError
from .._core.atomic import writing
from .clips import Clips, frames_stored


class ComparisonQueue:
    """The last `capacity` answered pairs of clips; the oldest leave first.

    Holds no true reward: once the teacher has answered, the answer is all that is kept.

    Args:
        capacity: pairs kept.
        horizon: H, steps compared.
        further: T, steps kept behind each clip for the estimators.
        observation_shape, action_shape: shapes of one.
        observation_dtype, action_dtype: what to store them as.
        extras: what else of `Clips.extras` to keep, by name: an array of the shape that one clip has.
        image: what one observation is, where it is one: then frames are stored, as in `Clips`.
    """

    def __init__(
        self,
        capacity: int,
        horizon: int,
        further: int,
        observation_shape: tuple[int, ...],
        action_shape: tuple[int, ...],
        observation_dtype: np.typing.DTypeLike = np.float32,
        action_dtype: np.typing.DTypeLike = np.float32,
        extras: Mapping[str, np.ndarray] | None = None,
        image: ImageSpec | None = None,
    ):
        length = horizon + further
        self.stack = 1 if image is None else image.stack
        self._image = image
        stored, dtype = frames_stored(observation_shape, observation_dtype, image)
        self.capacity, self.horizon, self.further = capacity, horizon, further
        self._arrays: dict[str, np.ndarray] = {
            "observations": np.zeros((capacity, 2, self.stack - 1 + length, *stored), dtype),
            "actions": np.zeros((capacity, 2, length, *action_shape), action_dtype),
            "valid": np.zeros((capacity, 2, length), bool),
            "label": np.zeros((capacity,), np.float32),
            "step": np.zeros((capacity,), np.int64),
            "labeller": np.zeros((capacity,), np.int32),
            "record": np.zeros((capacity,), np.int64),
        }
        self.extras = tuple(extras or ())
        for name, like in (extras or {}).items():
            self._arrays[name] = np.zeros((capacity, 2, *like.shape), like.dtype)
        self.total = 0

    def __len__(self) -> int:
        return min(self.total, self.capacity)

    def append(
        self,
        first: Clips,
        second: Clips,
        label: np.ndarray,
        step: int,
        labeller: np.ndarray | int = 0,
        record: np.ndarray | int = 0,
    ) -> None:
        """Store n answered pairs.

        Args:
            first, second: n clips each.
            label: (n,) probability that the first is preferred; pairs with NaN ("cannot tell") are dropped.
            step: environment steps when the answers were given.
            labeller: (n,) numbers of the people who answered; 0 is a synthetic teacher.
            record: (n,) numbers of the answers in a store, by which `remove` finds them; 0: in none.

        Raises:
            InputError: clips of images that hold no frames of the right size.
        """
        if self._image is not None:
            self._check_frames(first)
            self._check_frames(second)
        kept = np.flatnonzero(~np.isnan(label))
        if not len(kept):
            return
        slots = (self.total + np.arange(len(kept))) % self.capacity
        for name in ("observations", "actions", "valid"):
            pair = np.stack([getattr(first, name)[kept], getattr(second, name)[kept]], axis=1)
            self._arrays[name][slots] = pair
        for name in self.extras:
            self._arrays[name][slots] = np.stack(
                [clip.extras[name][kept] for clip in (first, second)], axis=1
            )
        self._arrays["label"][slots] = label[kept]
        self._arrays["step"][slots] = step
        for name, numbers in (("labeller", labeller), ("record", record)):
            self._arrays[name][slots] = np.broadcast_to(numbers, len(label))[kept]
        self.total += len(kept)

    def remove(self, records: Collection[int]) -> int:
        """Forget the pairs whose answers were taken back; how many were here. The others keep their order.

        Args:
            records: numbers of the answers in the log.
        """
        order = self._order()
        kept = order[~np.isin(self._arrays["record"][order], list(records))]
        removed = len(order) - len(kept)
        if removed:
            for array in self._arrays.values():
                array[: len(kept)] = array[kept]
            # As if the others alone had ever been stored.
            self.total = len(kept)
        return removed

    def arrays(self) -> dict[str, np.ndarray]:
        """The whole ring by name, (capacity, ...); only slots that were filled mean anything."""
        return self._arrays

    def get_state(self) -> dict[str, np.ndarray]:
        """All it holds, for a checkpoint."""
        return {**self._arrays, "total": np.asarray(self.total)}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `get_state` returned, of a queue of the same shapes."""
        for name, array in self._arrays.items():
            array[:] = state[name]
        self.total = int(np.asarray(state["total"]))

    def write_parquet(self, path: Path) -> None:
        """One row per comparison, oldest first: step, label, and each clip's H observations and actions.

        Clips are flat float32 lists in C order, (H, *obs) and (H, *act). Observations that are images are
        bytes instead, zstd-compressed: frames (stack − 1 + H, height, width, channels) uint8 in C order, read
        back by ``np.frombuffer(row, np.uint8).reshape(...)`` and turned into observations by ``stacked``.

        Args:
            path: of the file.
        """
        # Here: polars starts threads when it is loaded, and `keep_freed_memory` must come before them.
        from .parquet import write_comparisons

        with writing(path) as temporary:
            write_comparisons(self._arrays, self._order(), self.horizon, self.stack, temporary)

    def _order(self) -> np.ndarray:
        """The slots that are filled, oldest first."""
        return (np.arange(len(self)) + self.total - len(self)) % self.capacity

    def _check_frames(self, clips: Clips) -> None:
        stored = self._arrays["observations"]
        found, needed = clips.observations.shape[1:], stored.shape[2:]
        if found != needed or clips.observations.dtype != stored.dtype:
            raise InputError(
                f"clips of {clips.observations.dtype} {found} cannot be kept as frames of {stored.dtype} "
                f"{needed}: pass unstacked(observations, image)"
            )
