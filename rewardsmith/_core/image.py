"""What an image is here: height × width × channels, the newest frame of a stack last."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import InputError


@dataclass(frozen=True)
class ImageSpec:
    """Observations that are pictures: uint8 arrays of shape (height, width, channels · stack).

    There is one layout in this house and this type names it, so that a network, a replay or a film is never
    built from a bare shape that could as well be channels × height × width.

    Attributes:
        height, width: pixels.
        channels: of one frame; 1 is grey, 3 is red, green, blue.
        stack: frames of one observation, the newest last; channels of the same frame lie together. Before an
            episode has had so many, its first frame stands for those that are missing.

    Raises:
        InputError: a size below 1.
    """

    height: int
    width: int
    channels: int
    stack: int = 1

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.channels, self.stack) < 1:
            raise InputError(f"no image has the size {self}: give at least 1 of each")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one observation."""
        return self.height, self.width, self.channels * self.stack

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Of one frame."""
        return self.height, self.width, self.channels

    def newest(self, observations: Any) -> Any:
        """The newest frame (..., H, W, channels) of observations (..., H, W, channels · stack)."""
        return observations[..., -self.channels :]

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise InputError unless `shape` is that of one observation."""
        if tuple(shape) != self.shape:
            hint = (
                ", channels × height × width instead of"
                if shape == self.shape[2:] + self.shape[:2]
                else ": pass"
            )
            raise InputError(
                f"an image has shape {tuple(shape)}{hint} height × width × channels {self.shape}"
            )


def stacked(frames: Any, stack: int) -> Any:
    """Observations (..., L, H, W, stack · c) of frames (..., stack − 1 + L, H, W, c), NumPy or JAX arrays.

    Each frame from the stack-th on, behind those before it.
    """
    if stack == 1:
        return frames
    length = frames.shape[-4] - stack + 1
    windows = np.arange(length)[:, None] + np.arange(stack)
    # (..., L, stack, H, W, c), then the stack beside the channels.
    found = frames[..., windows, :, :, :]
    found = found.swapaxes(-4, -3).swapaxes(-3, -2)
    return found.reshape(*found.shape[:-2], found.shape[-2] * found.shape[-1])
