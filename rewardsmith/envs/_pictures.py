"""Observations of any layout, turned into those of this house: vectors, or pictures of `ImageSpec`."""

from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import FlattenObservation, FrameStackObservation, TransformObservation

from .._core import ImageSpec, InputError
from .options import EnvOptions, is_atari

_CHANNELS = (1, 3, 4)


def with_house_observations(
    env_id: str, env: gymnasium.Env[Any, Any], options: EnvOptions
) -> gymnasium.Env[Any, Any]:
    """Flatten if asked; pictures become uint8 (height, width, channels · stack).

    Raises:
        InputError: observations that are no Box, or pictures that cannot be told from their shape.
    """
    if options.flatten_observations:
        if is_atari(env_id):
            raise InputError(f"{env_id} observes stacked pictures: leave --flatten-observations out")
        env = _flattened(env_id, env)
    space = env.observation_space
    if not isinstance(space, Box):
        raise InputError(
            f"{env_id} observes a {type(space).__name__}, only Box is understood: "
            "give --flatten-observations to have it as one vector"
        )
    layout = _layout(env_id, space, options)
    stack = options.stack(env_id)
    if layout is None:
        if stack > 1:
            raise InputError(f"{env_id} observes no pictures: leave frame_stack at 1, it is for pictures")
        return env
    if layout == "hw":
        env = TransformObservation(
            env, lambda seen: seen[..., None], _pictures(space.shape[0], space.shape[1], 1)
        )
    elif layout == "chw":
        channels, height, width = space.shape
        env = TransformObservation(
            env,
            lambda seen: np.ascontiguousarray(np.moveaxis(seen, 0, -1)),
            _pictures(height, width, channels),
        )
    if stack == 1:
        return env
    height, width, channels = env.observation_space.shape  # pyright: ignore[reportGeneralTypeIssues]
    return TransformObservation(
        FrameStackObservation(env, stack), _merge, _pictures(height, width, channels * stack)
    )


def image_spec(space: Box, stack: int) -> ImageSpec | None:
    """Of an environment that `with_house_observations` made; None: its observations are no pictures."""
    if space.dtype != np.uint8 or len(space.shape) != 3:
        return None
    height, width, depth = space.shape
    return ImageSpec(height, width, depth // stack, stack)


def _merge(frames: np.ndarray) -> np.ndarray:
    """(stack, H, W, c) -> (H, W, stack · c)."""
    beside = np.moveaxis(frames, 0, -2)
    return beside.reshape(*beside.shape[:2], -1)


def _pictures(height: int, width: int, channels: int) -> Box:
    return Box(0, 255, (height, width, channels), np.uint8)


def _layout(env_id: str, space: Box, options: EnvOptions) -> Literal["hw", "hwc", "chw"] | None:
    shape = space.shape
    if space.dtype != np.uint8:
        if len(shape) == 3:
            raise InputError(
                f"{env_id} observes pictures of {space.dtype}, only uint8 from 0 to 255 is understood: "
                "register it with a gymnasium.wrappers.TransformObservation, or give --flatten-observations"
            )
        return None
    if len(shape) == 2:
        return "hw"
    if len(shape) != 3:
        return None
    if options.image_layout != "auto":
        return options.image_layout
    first, last = shape[0] in _CHANNELS, shape[2] in _CHANNELS
    if first == last:
        raise InputError(
            f"{env_id} observes pictures of shape {shape}, which may be height × width × channels or "
            "channels × height × width: give --image-layout hwc or --image-layout chw"
        )
    return "hwc" if last else "chw"


def _flattened(env_id: str, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    space = env.observation_space
    if isinstance(space, Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
        return env
    if not space.is_np_flattenable:
        raise InputError(f"{env_id} observes a {type(space).__name__}, which cannot be made one vector")
    flat = FlattenObservation(env)
    found = flat.observation_space
    if np.issubdtype(found.dtype, np.floating):
        return flat
    assert isinstance(found, Box)
    vector = Box(found.low.astype(np.float32), found.high.astype(np.float32), dtype=np.float32)
    return TransformObservation(flat, lambda seen: seen.astype(np.float32), vector)
