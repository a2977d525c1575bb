"""Atari games as Gymnasium environments, with all their chance in one generator."""

from collections import deque
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import AtariPreprocessing, TimeLimit

from .._core import InputError
from .options import EnvOptions

FRAME_SKIP = 4
SCREEN_SIZE = 84
_FRAMES_PER_SECOND = 60
_LONGEST_EPISODE = 108_000
_STICKINESS = 0.25
_LARGEST_SEED = 2**31 - 1


def register() -> Any:
    """Make the ids ``ALE/...`` known and keep the emulator from printing its banner; returns `ale_py`.

    Raises:
        InputError: the package is missing.
    """
    try:
        import ale_py
    except ImportError as error:
        raise InputError(
            "Atari games need two more packages: install ale-py and opencv-python-headless"
        ) from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gymnasium.register_envs(ale_py)
    return ale_py


def registered_settings(env_id: str) -> dict[str, Any]:
    """What a known id ``ALE/...`` is registered with: game, repeat_action_probability and the rest."""
    return gymnasium.spec(env_id).kwargs


def max_episode_steps(env_id: str) -> int:
    """The registered limit of emulator frames, in steps: 27,000."""
    frames = registered_settings(env_id).get("max_num_frames_per_episode") or _LONGEST_EPISODE
    return frames // FRAME_SKIP


def stickiness(env_id: str, options: EnvOptions) -> float:
    """Probability of repeating the last action in an emulator frame."""
    wanted = options.repeat_action_probability
    return (
        registered_settings(env_id).get("repeat_action_probability", _STICKINESS)
        if wanted is None
        else wanted
    )


def emulator_seed(seed: int) -> int:
    """The seed of an emulator's own generator: both backends must use the same."""
    return seed % _LARGEST_SEED


def make_game(env_id: str, options: EnvOptions, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """One game: a step is 4 frames of the emulator, an observation 84 × 84 × 1 the brighter of the last two.

    Args:
        env_id: a known id ``ALE/...``.
        options: settings.
        kwargs: for `gymnasium.make`.
    """
    # ALE's own limit counts the idle frames at the start too, so that episodes would differ in length.
    raw = gymnasium.make(
        env_id,
        disable_env_checker=True,
        frameskip=1,
        repeat_action_probability=0.0,
        max_num_frames_per_episode=0,
        # AtariPreprocessing fetches the screens it needs itself: those of all frames would be thrown away.
        obs_type="ram",
        **kwargs,
    )
    played = AtariPreprocessing(
        Emulator(raw, stickiness(env_id, options)),
        noop_max=options.noop_max,
        frame_skip=FRAME_SKIP,
        screen_size=SCREEN_SIZE,
        terminal_on_life_loss=options.episodic_life,
        grayscale_newaxis=True,
    )
    return TimeLimit(played, max_episode_steps(env_id))


class Emulator(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The emulator, frame by frame; what is sticky here is drawn from the environment's own generator.

    ALE draws it from a generator that cannot be replaced on its own, and repeats an action that is no part
    of the state it saves; so ALE's stickiness is off, and this one obeys the same law (Machado et al. 2018).
    `render` gives the last two frames in colour, the brighter of each pixel: what flickers is seen, as the
    observations see it.

    Attributes:
        last_action: index of the action of the last frame.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], repeat_action_probability: float):
        super().__init__(env)
        self._sticky = repeat_action_probability
        self._colours: deque[np.ndarray] = deque(maxlen=2)
        self.last_action = 0
        game: Any = self.unwrapped
        self.observation_space = gymnasium.spaces.Box(0, 255, game.ale.getScreenDims(), np.uint8)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": _FRAMES_PER_SECOND // FRAME_SKIP}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """As Gymnasium's; the seed seeds this environment's generator and, reduced, the emulator's."""
        game: Any = self.unwrapped
        if seed is not None:
            game.seed_game(seed)
            game.ale.setInt("random_seed", emulator_seed(seed))
            game.load_game()
        found = self.env.reset(options=options)
        self.last_action = 0
        self._colours.clear()
        self._see()
        return found

    def step(self, action: Any) -> Any:
        """One emulator frame."""
        if self._sticky > 0 and self.np_random.random() < self._sticky:
            action = self.last_action
        self.last_action = int(action)
        found = self.env.step(action)
        self._see()
        return found

    def render(self) -> Any:
        """(210, 160, 3) uint8."""
        return np.maximum.reduce(list(self._colours))

    def _see(self) -> None:
        if self.render_mode == "rgb_array":
            game: Any = self.unwrapped
            self._colours.append(game.ale.getScreenRGB())
