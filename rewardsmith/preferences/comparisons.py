"""Comparisons: pairs of clips with an answer, in a queue of bounded memory."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from .._core.serialise import writing
from .clips import Clips


class ComparisonQueue:
    """The last `capacity` answered pairs of clips; the oldest leave first.

    Holds no true reward: once the teacher has answered, the answer is all that is kept.

    Args:
        capacity: pairs kept.
        horizon: H, steps compared.
        further: T, steps kept behind each clip for the estimators.
        observation_shape, action_shape: shapes of one.
        observation_dtype, action_dtype: what to store them as.
        extras: what else of `Clips.extras` to keep, by name: an array like one clip's.
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
    ):
        length = horizon + further
        self.capacity, self.horizon, self.further = capacity, horizon, further
        self._arrays: dict[str, np.ndarray] = {
            "observations": np.zeros((capacity, 2, length, *observation_shape), observation_dtype),
            "actions": np.zeros((capacity, 2, length, *action_shape), action_dtype),
            "valid": np.zeros((capacity, 2, length), bool),
            "label": np.zeros((capacity,), np.float32),
            "step": np.zeros((capacity,), np.int64),
        }
        self._extras = tuple(extras or ())
        for name, like in (extras or {}).items():
            self._arrays[name] = np.zeros((capacity, 2, *like.shape), like.dtype)
        self.total = 0

    def __len__(self) -> int:
        return min(self.total, self.capacity)

    def append(self, first: Clips, second: Clips, label: np.ndarray, step: int) -> None:
        """Store n answered pairs.

        Args:
            first, second: n clips each.
            label: (n,) probability that the first is preferred; pairs with NaN ("cannot tell") are dropped.
            step: environment steps when the answers were given.
        """
        kept = np.flatnonzero(~np.isnan(label))
        slots = (self.total + np.arange(len(kept))) % self.capacity
        for name in ("observations", "actions", "valid"):
            pair = np.stack([getattr(first, name)[kept], getattr(second, name)[kept]], axis=1)
            self._arrays[name][slots] = pair
        for name in self._extras:
            self._arrays[name][slots] = np.stack(
                [clip.extras[name][kept] for clip in (first, second)], axis=1
            )
        self._arrays["label"][slots] = label[kept]
        self._arrays["step"][slots] = step
        self.total += len(kept)

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

        Clips are flat float32 lists in C order, (H, *obs) and (H, *act).
        """
        order = (np.arange(len(self)) + self.total - len(self)) % self.capacity
        columns: dict[str, pl.Series | np.ndarray] = {
            "step": self._arrays["step"][order],
            "label": self._arrays["label"][order],
        }
        for name in ("observations", "actions"):
            for side, word in enumerate(("first", "second")):
                clip = self._arrays[name][order, side, : self.horizon]
                flat = clip.reshape(len(order), clip[0].size if len(order) else 0).astype(np.float32)
                columns[f"{word}_{name}"] = pl.Series(flat.tolist(), dtype=pl.List(pl.Float32))
        with writing(path) as temporary:
            pl.DataFrame(columns).write_parquet(temporary)
