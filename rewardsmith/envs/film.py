"""One episode as a film."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .._core import InputError, write_atomically
from ._video import draw as _draw
from ._video import draw_plainly, encoder, pace
from ._video import make_drawable as _make_drawable
from ._video import windowless as _windowless
from .base import env_seeds
from .options import EnvOptions, is_native
from .single import read_spec, to_native


def film(
    env_id: str,
    act: Callable[[np.ndarray], Any],
    path: Path,
    *,
    seed: int,
    max_steps: int = 1000,
    size: tuple[int, int] = (480, 360),
    options: EnvOptions | None = None,
) -> Path:
    """Write one episode as an MP4 that browsers play (H.264, yuv420p), in real time; returns `path`.

    The episode is the first one of environment 0 of ``make(env_id, ...).reset(seed)``. Works without a
    screen: MuJoCo then draws through EGL unless the variable MUJOCO_GL says otherwise.

    Args:
        env_id: as for `make`.
        act: one observation (*obs) -> one action in the environment's units (an index if discrete).
        path: where to write; replaced in one step.
        seed: of the start.
        max_steps: stop after this many steps even if the episode goes on.
        size: width and height in pixels; tasks other than MuJoCo's have sizes of their own.
        options: as for `make`.

    Raises:
        InputError: unknown environment, or it cannot be drawn or encoded here.
    """
    if is_native(env_id):
        raise InputError(f"{env_id} is written in JAX and draws no pictures")
    with _windowless():
        env = _make_drawable(env_id, size, options)
        try:
            spec = read_spec(env_id, env, options)
            draw_plainly(env)
            observation, _ = env.reset(seed=int(env_seeds(seed, 1)[0]))
            frame = _draw(env_id, env)
            fps, stride = pace(env)
            with write_atomically(path) as temporary, encoder(env_id, temporary, fps) as write:
                write(frame)
                for step in range(1, max_steps + 1):
                    action = spec.checked_actions(np.asarray(act(observation))[None], 1)
                    observation, _, terminated, truncated, _ = env.step(
                        to_native(action, env.action_space)[0]
                    )
                    if step % stride == 0:
                        write(_draw(env_id, env))
                    if terminated or truncated:
                        break
        finally:
            env.close()
    return path
