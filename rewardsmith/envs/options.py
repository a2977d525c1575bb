"""How an environment is presented to a learner: settings that are no part of its name."""

from dataclasses import dataclass
from typing import Literal

from .._core import InputError

_ATARI = "ALE/"
_NATIVE = ("gymnax/", "brax/", "playground/")
_ATARI_STACK = 4


def is_atari(env_id: str) -> bool:
    """Whether the id is one of the Arcade Learning Environment's, such as ``"ALE/BeamRider-v5"``."""
    return env_id.startswith(_ATARI)


def is_native(env_id: str) -> bool:
    """Whether the id names an environment written in JAX, such as ``"gymnax/Pendulum-v1"``."""
    return env_id.startswith(_NATIVE)


@dataclass(frozen=True)
class EnvOptions:
    """Settings of the observations and, for Atari, of the game.

    Attributes:
        frame_stack: frames of one observation; None: 4 for Atari, else 1.
        clip_rewards: cut every reward to its sign.
        episodic_life: Atari: a lost life ends the episode (and the game).
        noop_max: Atari: an episode starts with up to so many emulator frames of doing nothing.
        repeat_action_probability: Atari: in each emulator frame the last action is repeated with this
            probability; None: what the id is registered with, .25 for ``ALE/...-v5``.
        image_layout: of the environment's own pictures: "hwc", "chw", or "auto": told from the shape.
        flatten_observations: make one float vector of Dict, Tuple and other observations.

    Raises:
        InputError: a number out of range.
    """

    frame_stack: int | None = None
    clip_rewards: bool = False
    episodic_life: bool = False
    noop_max: int = 30
    repeat_action_probability: float | None = None
    image_layout: Literal["auto", "hwc", "chw"] = "auto"
    flatten_observations: bool = False

    def __post_init__(self) -> None:
        if self.frame_stack is not None and self.frame_stack < 1:
            raise InputError(f"frame_stack is {self.frame_stack}: choose 1 or more")
        if self.noop_max < 0:
            raise InputError(f"noop_max is {self.noop_max}: choose 0 or more")
        sticky = self.repeat_action_probability
        if sticky is not None and not 0 <= sticky < 1:
            raise InputError(f"repeat_action_probability is {sticky}: choose 0 or more and less than 1")
        if self.image_layout not in ("auto", "hwc", "chw"):
            raise InputError(f"unknown image_layout {self.image_layout!r}: choose 'auto', 'hwc' or 'chw'")

    def stack(self, env_id: str) -> int:
        """Frames of one observation of `env_id`."""
        if self.frame_stack is not None:
            return self.frame_stack
        return _ATARI_STACK if is_atari(env_id) else 1
