"""What a clip must not show: a score on the screen tells the true reward to whoever compares clips."""

import re
from typing import Any

import numpy as np

from .._core import InputError

Box = tuple[int, int, int, int]
"""top, bottom, left, right, in pixels of the screen; rows top .. bottom - 1 and columns left .. right - 1."""

# Read off rendered screens of 210 × 160. What is part of the play stays: the oxygen and the divers of
# Seaquest; of Space Invaders the saucer beside the score, and the lives, drawn where the cannon moves.
_BOXES: dict[str, tuple[Box, ...]] = {
    "BeamRider": ((0, 42, 0, 160), (182, 192, 0, 160)),
    "Breakout": ((0, 17, 0, 160),),
    "Enduro": ((158, 194, 0, 160),),
    "Pong": ((0, 22, 0, 160),),
    "Qbert": ((5, 29, 30, 73),),
    "Seaquest": ((7, 32, 0, 160),),
    "SpaceInvaders": ((9, 21, 0, 66),),
}
_PATTERN = re.compile(r"(\d+):(\d+),(\d+):(\d+)")


def hidden_boxes(env_id: str) -> tuple[Box, ...]:
    """Where a game of the Arcade Learning Environment draws score, lives and other counters.

    Args:
        env_id: registered name of the game, such as "ALE/Pong-v5".

    Raises:
        InputError: nobody has looked at this game yet.
    """
    name = env_id.removeprefix("ALE/").rsplit("-v", 1)[0]
    if name not in _BOXES:
        known = ", ".join(_BOXES)
        raise InputError(
            f"it is not known where {env_id} draws its score (it is for {known}): "
            "give boxes, as in 0:21,0:160;190:210,0:160"
        )
    return _BOXES[name]


def parse_boxes(text: str) -> tuple[Box, ...]:
    """Boxes from ``"top:bottom,left:right;..."``, as in ``"0:21,0:160;190:210,0:160"``.

    Args:
        text: rows and columns of each box, in pixels of a frame.

    Raises:
        InputError: the text is no such list, or a box is empty.
    """
    boxes = []
    for part in text.split(";"):
        found = _PATTERN.fullmatch(part.strip())
        if found is None:
            raise InputError(f"{part.strip()!r} is no box: write top:bottom,left:right, as in 0:21,0:160")
        top, bottom, left, right = (int(number) for number in found.groups())
        if top >= bottom or left >= right:
            raise InputError(f"the box {part.strip()} is empty: write the smaller number first")
        boxes.append((top, bottom, left, right))
    return tuple(boxes)


def visible_mask(
    boxes: tuple[Box, ...], screen_shape: tuple[int, int], height: int, width: int
) -> np.ndarray:
    """(height, width) bool of a screen drawn at another size; a pixel is hidden if any part of it is.

    Args:
        boxes: in pixels of the screen.
        screen_shape: height and width of the screen: (210, 160) for most Atari games.
        height: of the picture to be masked.
        width: likewise.

    Raises:
        InputError: a box reaches beyond the screen.
    """
    visible = np.ones((height, width), bool)
    for top, bottom, left, right in boxes:
        if bottom > screen_shape[0] or right > screen_shape[1]:
            raise InputError(
                f"the box {top}:{bottom},{left}:{right} reaches beyond the screen of "
                f"{screen_shape[0]} × {screen_shape[1]} pixels"
            )
        rows = _touched(top, bottom, screen_shape[0], height)
        columns = _touched(left, right, screen_shape[1], width)
        visible[np.ix_(rows, columns)] = False
    return visible


def hide(frames: Any, mask: np.ndarray) -> Any:
    """Frames with 0 wherever the mask is False; NumPy or JAX arrays.

    Args:
        frames: (..., H, W, c).
        mask: (H, W) bool, as `visible_mask` gives it.
    """
    return frames * mask[..., None].astype(frames.dtype)


def _touched(begin: int, end: int, screen: int, size: int) -> np.ndarray:
    """Pixels of a line of `size` that overlap with begin .. end of one of `screen`."""
    pixel = np.arange(size)
    return np.flatnonzero((pixel * screen < end * size) & ((pixel + 1) * screen > begin * size))
