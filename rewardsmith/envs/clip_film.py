"""A recorded clip as a film in colour: the simulator goes back to where the clip began and plays it again."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from .._core import InputError, write_atomically
from ._rows import is_restorable, read_row, write_row
from ._video import draw, draw_plainly, encoder, make_drawable, pace, windowless
from .base import check_state
from .hide import Box, hide, visible_mask
from .options import EnvOptions
from .single import read_spec, to_native

_SIZE = (480, 360)


class ClipFilmer:
    """Films clips of one environment, which is made once and kept; `close` it, or use it in ``with``.

    Args:
        env_id: as for `make`.
        options: those the clips were recorded with.
        boxes: made black, in pixels of what is drawn; see `hidden_boxes`.
        size: width and height in pixels; tasks other than MuJoCo's have sizes of their own.

    Raises:
        InputError: unknown environment, or it cannot be restored or drawn.
    """

    def __init__(
        self,
        env_id: str,
        *,
        options: EnvOptions | None = None,
        boxes: tuple[Box, ...] = (),
        size: tuple[int, int] = _SIZE,
    ):
        self._env_id, self._options, self._boxes = env_id, options, boxes
        with windowless():
            self._env = make_drawable(env_id, size, options)
        draw_plainly(self._env)

    def film(
        self, state_row: Mapping[str, Any], actions: np.ndarray, path: Path, *, pause: float = 0.5
    ) -> Path:
        """Write a clip as an MP4; arguments, errors and result as of `film_clip`.

        Args:
            state_row: the state before the clip's first step.
            actions: (L, *action), in the environment's units.
            path: of the MP4.
            pause: seconds that the last picture stands.

        Raises:
            InputError: as of `film_clip`.
        """
        if pause < 0:
            raise InputError(f"pause is {pause}: choose 0 seconds or more")
        with windowless():
            fps, stride = pace(self._env)
            played = self._frames(state_row, actions)
            shown = played[stride - 1 :: stride] or played[-1:]
            with write_atomically(path) as temporary, encoder(self._env_id, temporary, fps) as write:
                for frame in shown + shown[-1:] * round(pause * fps):
                    write(frame)
        return path

    def frames(self, state_row: Mapping[str, Any], actions: np.ndarray) -> np.ndarray:
        """The clip in colour, (L, H, W, 3) uint8; as `clip_frames`.

        Args:
            state_row: the state before the clip's first step.
            actions: (L, *action), in the environment's units.
        """
        with windowless():
            return np.stack(self._frames(state_row, actions))

    def _frames(self, state_row: Mapping[str, Any], actions: np.ndarray) -> list[np.ndarray]:
        played = replay(self._env_id, self._env, state_row, actions, self._options)
        return [_hidden(frame, self._boxes) for _, frame in played]

    def close(self) -> None:
        """Release the environment."""
        self._env.close()

    def __enter__(self) -> "ClipFilmer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def film_clip(
    env_id: str,
    state_row: Mapping[str, Any],
    actions: np.ndarray,
    path: Path,
    *,
    options: EnvOptions | None = None,
    boxes: tuple[Box, ...] = (),
    pause: float = 0.5,
    size: tuple[int, int] = _SIZE,
) -> Path:
    """Write a clip as an MP4 that browsers play (H.264, yuv420p), in real time; returns `path`.

    Args:
        env_id: as for `make`.
        state_row: the state before the clip's first step: row i of what `VectorEnv.get_state` gave,
            ``{name: array[i] for name, array in state.items()}``.
        actions: (L, *act) as the learner stores them: in [-1, 1], or indices.
        path: where to write; replaced in one step.
        options: those the clip was recorded with.
        boxes: made black, in pixels of what is drawn; see `hidden_boxes`.
        pause: seconds for which the last frame stands still.
        size: width and height in pixels; tasks other than MuJoCo's have sizes of their own.

    Raises:
        InputError: unknown environment, it cannot be restored, drawn or encoded, or the row is not one of it.
    """
    with ClipFilmer(env_id, options=options, boxes=boxes, size=size) as filmer:
        return filmer.film(state_row, actions, path, pause=pause)


def clip_frames(
    env_id: str,
    state_row: Mapping[str, Any],
    actions: np.ndarray,
    *,
    options: EnvOptions | None = None,
    boxes: tuple[Box, ...] = (),
    size: tuple[int, int] = _SIZE,
) -> np.ndarray:
    """The clip in colour, (L, H, W, 3) uint8: frame i is what action i led to.

    Behind the end of an episode the last frame is repeated.

    Args:
        env_id: as for `make`.
        state_row: the state before the clip's first step, as for `film_clip`.
        actions: (L, *act) as the learner stores them: in [-1, 1], or indices.
        options: those the clip was recorded with.
        boxes: made black, in pixels of what is drawn; see `hidden_boxes`.
        size: width and height in pixels; tasks other than MuJoCo's have sizes of their own.

    Raises:
        InputError: as `film_clip`.
    """
    with ClipFilmer(env_id, options=options, boxes=boxes, size=size) as filmer:
        return filmer.frames(state_row, actions)


def replay(
    env_id: str,
    env: gymnasium.Env[Any, Any],
    state_row: Mapping[str, Any],
    actions: np.ndarray,
    options: EnvOptions | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """After each action, the observation and what is drawn, of an environment `make_drawable` made."""
    if not is_restorable(env):
        raise InputError(f"{env_id} cannot be restored to where a clip began: there is no film of its clips")
    if len(actions) == 0:
        raise InputError("a clip has at least one action")
    spec = read_spec(env_id, env, options)
    native = actions if spec.num_actions is not None else spec.from_unit(actions)
    native = to_native(spec.checked_actions(native, len(actions)), env.action_space)
    observation, _ = env.reset()
    needed = {name: array.shape for name, array in read_row(env).items()}
    row = {name: np.asarray(array) for name, array in state_row.items()}
    if spec.image is not None:
        needed["observation"] = spec.observation_shape
    else:
        row.pop("observation", None)
    if "bodies" not in row:
        needed.pop("bodies", None)
    check_state(env_id, row, needed)
    write_row(env, row)
    frame, ended = np.zeros(0, np.uint8), False
    for action in native:
        if not ended:
            observation, _, terminated, truncated, _ = env.step(action)
            frame, ended = draw(env_id, env), terminated or truncated
        yield observation, frame


def _hidden(frame: np.ndarray, boxes: tuple[Box, ...]) -> np.ndarray:
    if not boxes:
        return frame
    height, width = frame.shape[:2]
    return hide(frame, visible_mask(boxes, (height, width), height, width))
