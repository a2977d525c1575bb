"""Any Gymnasium task with a Box observation, through Gymnasium's own classes."""

import functools

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from .._core import InputError, TrueReward
from . import _rng
from ._rows import is_restorable, read_row, write_row
from .base import StepResult, VectorEnv, check_num_envs, check_state, env_seeds, not_started
from .options import EnvOptions, is_atari
from .single import make_single, read_spec, to_native


class GymnasiumEnv(VectorEnv):
    """N copies of a registered Gymnasium environment, stepped one after another.

    Restorable for Gymnasium's own MuJoCo and classic-control tasks and for Atari games; others may hide
    state where nothing outside can read it.

    Args:
        env_id: a registered id, or ``module:id`` to import the module that registers it.
        num_envs: N.
        options: of the observations; None: the defaults.

    Raises:
        InputError: unknown id, a missing package, observations that are not understood, or actions other
            than Discrete or a bounded Box.
    """

    def __init__(self, env_id: str, num_envs: int, options: EnvOptions | None = None):
        check_num_envs(num_envs)
        self._options = EnvOptions() if options is None else options
        make = functools.partial(make_single, env_id, self._options)
        first = make()
        try:
            self.spec = read_spec(env_id, first, self._options)
        except InputError:
            first.close()
            raise
        makers = [lambda: first] + [make] * (num_envs - 1)
        self._vector = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        self._envs = self._vector.envs
        self.num_envs = num_envs
        self.restorable = is_restorable(first)
        self._observation: np.ndarray | None = None

    def reset(self, seed: int) -> np.ndarray:
        """See `VectorEnv.reset`."""
        observation, _ = self._vector.reset(seed=[int(own) for own in env_seeds(seed, self.num_envs)])
        self._observation = observation
        return observation.copy()

    def step(self, action: np.ndarray) -> StepResult:
        """See `VectorEnv.step`."""
        if self._observation is None:
            raise not_started(self.spec.env_id)
        actions = self.spec.checked_actions(action, self.num_envs)
        observation, reward, terminated, truncated, info = self._vector.step(
            to_native(actions, self._vector.single_action_space)
        )
        self._observation = observation
        next_observation = observation.copy()
        for i in np.flatnonzero(terminated | truncated):
            next_observation[i] = info["final_obs"][i]
        paid = np.sign(reward) if self._options.clip_rewards else reward
        return StepResult(
            observation.copy(), next_observation, TrueReward(paid), terminated, truncated & ~terminated
        )

    def get_state(self) -> dict[str, np.ndarray]:
        """See `VectorEnv.get_state`.

        Of an Atari game: "emulator" (its own serialised state, padded), "screen" (the last full screen),
        "lives", "last_action" (which a sticky frame repeats), beside "elapsed", "rng" and "observation" (the
        stack of frames). The emulator's own generator lies within "emulator"; it is drawn from when the
        console is reset, not during a game.
        """
        self._require_restorable()
        if self._observation is None:
            raise not_started(self.spec.env_id)
        rows = [read_row(env) for env in self._envs]
        state = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return {**state, "observation": self._observation.copy()}

    def set_state(self, state: dict[str, np.ndarray]) -> np.ndarray:
        """See `VectorEnv.set_state`."""
        self._require_restorable()
        if self._observation is None:
            self.reset(0)
        shapes = {name: array.shape for name, array in self.get_state().items()}
        check_state(self.spec.env_id, state, shapes)
        for i, env in enumerate(self._envs):
            write_row(env, {name: array[i] for name, array in state.items()})
        self._observation = np.array(state["observation"], self.spec.observation_dtype)
        return self._observation.copy()

    def streams(self, seed: int) -> np.ndarray:
        """See `VectorEnv.streams`."""
        if not is_atari(self.spec.env_id):
            return super().streams(seed)
        # Seeding a game loads its cartridge anew, which takes as long as some hundred steps.
        seeds = env_seeds(seed, self.num_envs)
        return np.stack([_rng.pack(np.random.default_rng(int(own))) for own in seeds])

    def close(self) -> None:
        """See `VectorEnv.close`."""
        self._vector.close()

    def _require_restorable(self) -> None:
        if not self.restorable:
            raise InputError(f"the state of {self.spec.env_id} cannot be saved or restored: train without it")
