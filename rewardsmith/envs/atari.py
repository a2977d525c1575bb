"""Atari games through ALE's own vectorised environment: several threads, no saved states."""

import os
from typing import Any, NoReturn

import numpy as np
from gymnasium.vector import AutoresetMode

from .._core import ImageSpec, InputError, TrueReward
from . import _atari
from .base import EnvSpec, StepResult, VectorEnv, check_num_envs, env_seeds, not_started, out_of_time
from .options import EnvOptions, is_atari
from .single import check_known

_NEVER = 2**31 - 1


class AtariBatchEnv(VectorEnv):
    """N copies of one Atari game, stepped by C++ threads.

    Observations, rewards and ends are those of `GymnasiumEnv`, pixel by pixel, where there is no chance
    (``noop_max=0``, ``repeat_action_probability=0``). With chance the laws are the same, but for one: an
    episode starts with 0 .. noop_max - 1 idle frames here, with 1 .. noop_max there.

    Args:
        env_id: ``"ALE/..."``.
        num_envs: N.
        num_threads: that step the games; 0: one for each processor.
        options: settings of the game; None: the defaults.

    Raises:
        InputError: unknown game, a missing package, or a number out of range.
    """

    restorable = False

    def __init__(self, env_id: str, num_envs: int, num_threads: int = 1, options: EnvOptions | None = None):
        check_num_envs(num_envs)
        options = EnvOptions() if options is None else options
        if num_threads < 0:
            raise InputError(f"num_threads is {num_threads}: choose 0 (one a processor) or more")
        if not is_atari(env_id):
            raise InputError(
                f"{env_id} is no Atari game: use backend='gymnasium', or a name such as ALE/Pong-v5"
            )
        check_known(env_id)
        ale_py = _atari.register()
        settings = _atari.registered_settings(env_id)
        self._stack = options.stack(env_id)
        self._clip_rewards = options.clip_rewards
        # ALE would cut an episode off before it has drawn the last frame, which a bootstrap needs to see.
        self._vector: Any = ale_py.AtariVectorEnv(
            settings["game"],
            num_envs,
            num_threads=num_threads or min(num_envs, os.cpu_count() or 1),
            max_num_frames_per_episode=_NEVER,
            repeat_action_probability=_atari.stickiness(env_id, options),
            full_action_space=settings.get("full_action_space", False),
            autoreset_mode=AutoresetMode.SAME_STEP,
            img_height=_atari.SCREEN_SIZE,
            img_width=_atari.SCREEN_SIZE,
            stack_num=self._stack,
            frameskip=_atari.FRAME_SKIP,
            noop_max=options.noop_max,
            episodic_life=options.episodic_life,
            reward_clipping=False,
            use_fire_reset=False,
        )
        image = ImageSpec(_atari.SCREEN_SIZE, _atari.SCREEN_SIZE, 1, self._stack)
        self.num_envs = num_envs
        self.spec = EnvSpec(
            env_id=env_id,
            observation_shape=image.shape,
            observation_dtype=np.dtype(np.uint8),
            action_shape=(),
            action_low=None,
            action_high=None,
            num_actions=int(self._vector.single_action_space.n),
            max_episode_steps=_atari.max_episode_steps(env_id),
            can_terminate=True,
            image=image,
        )
        self._elapsed = np.zeros(num_envs, np.int64)
        self._started = False

    def reset(self, seed: int) -> np.ndarray:
        """See `VectorEnv.reset`."""
        own = [_atari.emulator_seed(int(one)) for one in env_seeds(seed, self.num_envs)]
        frames, _ = self._vector.reset(seed=np.array(own, np.int32))
        self._elapsed[:] = 0
        self._started = True
        return self._seen(frames, self._elapsed)

    def step(self, action: np.ndarray) -> StepResult:
        """See `VectorEnv.step`."""
        if not self._started:
            raise not_started(self.spec.env_id)
        actions = self.spec.checked_actions(action, self.num_envs)
        frames, reward, terminated, _, info = self._vector.step(actions)
        self._elapsed += 1
        next_observation = self._seen(frames, self._elapsed)
        if terminated.any():
            final = self._seen(info["final_obs"], self._elapsed)
            next_observation[terminated] = final[terminated]
        truncated = out_of_time(self.spec, self._elapsed) & ~terminated
        if truncated.any():
            frames, _ = self._vector.reset(options={"reset_mask": truncated})
        ended = terminated | truncated
        self._elapsed[ended] = 0
        observation = next_observation.copy()
        if ended.any():
            observation[ended] = self._seen(frames, self._elapsed)[ended]
        paid = np.sign(reward) if self._clip_rewards else reward
        return StepResult(observation, next_observation, TrueReward(paid), terminated, truncated)

    def get_state(self) -> NoReturn:
        """Raises InputError: ALE's vectorised environment does not give its state away."""
        raise self._not_restorable()

    def set_state(self, state: dict[str, np.ndarray]) -> NoReturn:
        """Raises InputError: ALE's vectorised environment does not give its state away."""
        raise self._not_restorable()

    def close(self) -> None:
        """See `VectorEnv.close`."""
        self._vector.close()

    def _not_restorable(self) -> InputError:
        return InputError(
            f"the state of {self.spec.env_id} cannot be saved by backend 'ale': give --backend gymnasium"
        )

    def _seen(self, frames: np.ndarray, elapsed: np.ndarray) -> np.ndarray:
        """(N, stack, H, W) of episodes `elapsed` steps old -> (N, H, W, stack)."""
        seen = np.ascontiguousarray(np.moveaxis(frames, 1, -1))
        # ALE has black frames before the first one.
        for i in np.flatnonzero(elapsed < self._stack - 1):
            first = self._stack - 1 - elapsed[i]
            seen[i, ..., :first] = seen[i, ..., first : first + 1]
        return seen
