"""Drawing environments without a screen, and writing what was drawn as MP4."""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v2 as imageio
import numpy as np

from .._core import InputError
from .options import EnvOptions
from .single import make_single

# Hopper takes 125 steps a second: more pictures than a screen shows.
_FPS = 30
_FOLLOWING_CAMERA = "track"
# MuJoCo's mjGEOM_PLANE.
_PLANE = 0


def make_drawable(
    env_id: str, size: tuple[int, int], options: EnvOptions | None = None
) -> gymnasium.Env[Any, Any]:
    """One environment that `draw` can draw; `size` is width and height where they are free.

    Raises:
        InputError: as `make_single`, or the environment draws no pictures.
    """
    probe = make_single(env_id, options)
    is_mujoco = hasattr(probe.unwrapped, "mujoco_renderer")
    modes = probe.metadata.get("render_modes") or []
    if "rgb_array" not in modes:
        raise InputError(f"{env_id} draws no pictures: skip the film")
    width, height = size
    kwargs: dict[str, Any] = {"width": width, "height": height} if is_mujoco else {}
    # Gymnasium's default camera stands still, and a robot that runs is out of the picture in two seconds.
    if is_mujoco and _FOLLOWING_CAMERA in _cameras(probe):
        kwargs["camera_name"] = _FOLLOWING_CAMERA
    probe.close()
    env = make_single(env_id, options, render_mode="rgb_array", **kwargs)
    if is_mujoco:
        _let_floors_go_on(env.unwrapped.model)  # pyright: ignore[reportAttributeAccessIssue]
    return env


def _let_floors_go_on(model: Any) -> None:
    """Draw planes without an end, their pattern as large as before; collisions never knew one.

    Gymnasium's floors end after some tens of metres, and above nothing no one can see how fast a robot is.
    """
    for index in np.flatnonzero(model.geom_type == _PLANE):
        size, material = model.geom_size[index, :2], model.geom_matid[index]
        if (size > 0).all():
            if material >= 0:
                model.mat_texrepeat[material] /= 2.0 * size
            model.geom_size[index, :2] = 0.0


def _cameras(env: gymnasium.Env[Any, Any]) -> set[str]:
    model = getattr(env.unwrapped, "model")  # noqa: B009 (only MuJoCo's tasks have one)
    return {model.camera(index).name for index in range(model.ncam)}


def draw_plainly(env: gymnasium.Env[Any, Any]) -> None:
    """From now on without shadows and reflections, which take most of the time where a processor draws."""
    model: Any = getattr(env.unwrapped, "model", None)
    if hasattr(model, "light_castshadow") and hasattr(model, "mat_reflectance"):
        model.light_castshadow[:] = False
        model.mat_reflectance[:] = 0.0


def draw(env_id: str, env: gymnasium.Env[Any, Any]) -> np.ndarray:
    """The environment as it is now: (H, W, 3) uint8, both sides even.

    Raises:
        InputError: it cannot be drawn on this machine.
    """
    try:
        frame = np.asarray(env.render())
    # Drivers and their bindings fail in every way there is, down to AttributeError.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"cannot draw {env_id} here ({reason}): install EGL and set MUJOCO_GL=egl, or skip the film"
        ) from error
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise InputError(f"{env_id} draws arrays of shape {frame.shape}, not pictures: skip the film")
    # yuv420p keeps one colour for 2 x 2 pixels, so both sides must be even.
    return np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2], np.uint8)


def pace(env: gymnasium.Env[Any, Any]) -> tuple[float, int]:
    """Pictures a second of a film in real time, and steps from one to the next."""
    steps_per_second = float(env.metadata.get("render_fps") or _FPS)
    stride = max(1, round(steps_per_second / _FPS))
    return steps_per_second / stride, stride


@contextlib.contextmanager
def encoder(env_id: str, path: Path, fps: float) -> Generator[Callable[[np.ndarray], None], None, None]:
    """A function that adds one frame to an MP4 (H.264, yuv420p) at `path`.

    Raises:
        InputError: ffmpeg is missing or fails.
    """
    try:
        writer = imageio.get_writer(
            path,
            format="FFMPEG",
            mode="I",
            fps=fps,
            codec="libx264",
            pixelformat="yuv420p",
            macro_block_size=2,
            output_params=["-movflags", "+faststart"],
        )
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise _cannot_encode(env_id, error) from error

    def write(frame: np.ndarray) -> None:
        try:
            with warnings.catch_warnings():
                # The encoder starts with the first frame. JAX warns of every fork, for what the child might
                # do with its threads; this one is replaced by ffmpeg at once.
                warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
                writer.append_data(frame)
        except (OSError, RuntimeError) as error:
            raise _cannot_encode(env_id, error) from error

    try:
        yield write
    finally:
        writer.close()


def _cannot_encode(env_id: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(f"cannot write a film of {env_id} ({reason}): install ffmpeg, or skip the film")


@contextlib.contextmanager
def windowless() -> Generator[None, None, None]:
    """While it lasts, let drawing libraries work without a screen, unless the user chose how.

    Not at import: with MUJOCO_GL set, ``import mujoco`` itself fails where that library is missing.
    """
    wanted = {"PYGAME_HIDE_SUPPORT_PROMPT": "1"}
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        wanted |= {"MUJOCO_GL": "egl", "SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    added = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
