"""Steps of a recorded episode as a film: the episode is played again from its seed."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from .._core import InputError
from .._core.atomic import writing
from ._video import draw, draw_plainly, encoder, pace, windowless


def film_excerpt(
    env: gymnasium.Env[Any, Any],
    seed: int,
    actions: np.ndarray,
    observations: np.ndarray,
    start: int,
    path: Path,
    *,
    pause: float = 0.5,
) -> Path:
    """Write the last steps of `actions` as an MP4 that browsers play, in real time; returns `path`.

    Args:
        env: of the episode, made with render_mode="rgb_array".
        seed: the episode was reset with it.
        actions: all actions from the episode's first to the excerpt's last, (start + H, *act).
        observations: what they led to, (start + H, *obs): what is played is held against it.
        start: steps before the excerpt.
        path: where to write; replaced in one step.
        pause: seconds for which the last frame stands still.

    Raises:
        InputError: the episode takes another course when played again, or it cannot be drawn or encoded.
    """
    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    with windowless():
        draw_plainly(env)
        fps, stride = pace(env)
        env.reset(seed=seed)
        frames = []
        for step, action in enumerate(actions):
            observed = env.step(action)[0]
            if not np.allclose(observed, observations[step], rtol=1e-3, atol=1e-4):
                raise InputError(
                    f"an episode of {name} takes another course when played again from seed {seed}, so it "
                    "cannot be filmed: give a dataset recorded with this version of the environment"
                )
            if step >= start:
                frames.append(draw(name, env))
        shown = frames[stride - 1 :: stride] or frames[-1:]
        with writing(path) as temporary, encoder(name, temporary, fps) as write:
            for frame in shown + shown[-1:] * round(pause * fps):
                write(frame)
    return path
