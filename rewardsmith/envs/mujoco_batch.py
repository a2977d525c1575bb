"""MuJoCo tasks stepped as one batch: the physics in C for all environments, the rules in NumPy."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from mujoco.batch import Batch

from .._core import InputError, TrueReward
from . import _rng, mujoco_tasks
from ._mujoco import mujoco, quiet_deprecations
from .base import (
    EnvSpec,
    StepResult,
    VectorEnv,
    check_num_envs,
    env_seeds,
    not_started,
    out_of_time,
    put_back,
)


class MujocoBatchEnv(VectorEnv):
    """N copies of one of `mujoco_tasks.TASKS`, equal bit for bit to Gymnasium's at any number of threads.

    Args:
        env_id: a key of `mujoco_tasks.TASKS`.
        num_envs: N.
        num_threads: threads that step the physics; 0: one for each processor.

    Raises:
        InputError: no such task, or a number out of range.
    """

    restorable = True

    def __init__(self, env_id: str, num_envs: int, num_threads: int = 1):
        check_num_envs(num_envs)
        if env_id not in mujoco_tasks.TASKS:
            known = ", ".join(mujoco_tasks.TASKS)
            raise InputError(f"{env_id} has no batch (these have: {known}): use backend='gymnasium'")
        if num_threads < 0:
            raise InputError(f"num_threads is {num_threads}: choose 0 (one a processor) or more")
        self.num_envs = num_envs
        self._task = mujoco_tasks.TASKS[env_id]
        model = _load(self._task.model_file)
        self._time_step = model.opt.timestep * self._task.frame_skip
        self._batch = Batch(model, nsim=num_envs, nthread=num_threads)
        self._qpos = self._batch.bind("qpos")
        self._qvel = self._batch.bind("qvel")
        self._ctrl = self._batch.bind("ctrl")
        data = mujoco.MjData(model)
        self._start_qpos, self._start_qvel = data.qpos.copy(), data.qvel.copy()
        self._generator = np.random.default_rng(0)
        self._rng = np.zeros((num_envs, _rng.WORDS), np.uint64)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._started = False
        low, high = model.actuator_ctrlrange.astype(np.float32).T
        self.spec = EnvSpec(
            env_id=env_id,
            observation_shape=self._observe().shape[1:],
            observation_dtype=np.dtype(np.float64),
            action_shape=low.shape,
            action_low=low,
            action_high=high,
            num_actions=None,
            max_episode_steps=gymnasium.spec(env_id).max_episode_steps,
            can_terminate=self._task.healthy is not None,
        )

    def reset(self, seed: int) -> np.ndarray:
        """See `VectorEnv.reset`."""
        for i, own_seed in enumerate(env_seeds(seed, self.num_envs)):
            self._rng[i] = _rng.pack(np.random.default_rng(int(own_seed)))
        self._begin_episodes(np.arange(self.num_envs))
        self._started = True
        return self._observe()

    def step(self, action: np.ndarray) -> StepResult:
        """See `VectorEnv.step`."""
        if not self._started:
            raise not_started(self.spec.env_id)
        actions = self.spec.checked_actions(action, self.num_envs)
        x_before = self._qpos[:, 0].copy()
        self._ctrl[:] = actions
        self._batch.step(nstep=self._task.frame_skip)
        self._elapsed += 1

        x_velocity = (self._qpos[:, 0] - x_before) / self._time_step
        if self._task.healthy is None:
            healthy = np.ones(self.num_envs, bool)
        else:
            healthy = self._task.healthy(self._qpos, self._qvel)
        reward = mujoco_tasks.reward(self._task, x_velocity, healthy, actions)
        terminated = ~healthy
        truncated = out_of_time(self.spec, self._elapsed) & healthy
        next_observation = self._observe()

        observation = next_observation.copy()
        ended = np.flatnonzero(terminated | truncated)
        if ended.size:
            self._begin_episodes(ended)
            observation[ended] = self._observe()[ended]
        return StepResult(observation, next_observation, TrueReward(reward), terminated, truncated)

    def get_state(self) -> dict[str, np.ndarray]:
        """See `VectorEnv.get_state`; "physics" holds one mjSTATE_INTEGRATION row for each environment."""
        if not self._started:
            raise not_started(self.spec.env_id)
        return {name: array.copy() for name, array in self._arrays().items()}

    def set_state(self, state: dict[str, np.ndarray]) -> np.ndarray:
        """See `VectorEnv.set_state`."""
        put_back(self.spec.env_id, self._arrays(), state)
        self._started = True
        return self._observe()

    def close(self) -> None:
        """Nothing to release: the batch goes with the object."""

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"physics": self._batch.state, "elapsed": self._elapsed, "rng": self._rng}

    def _observe(self) -> np.ndarray:
        return mujoco_tasks.observation(self._task, self._qpos, self._qvel)

    def _begin_episodes(self, ids: np.ndarray) -> None:
        self._batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        for i in ids:
            _rng.unpack(self._rng[i], self._generator)
            start = mujoco_tasks.start(self._task, self._start_qpos, self._start_qvel, self._generator)
            self._qpos[i], self._qvel[i] = start
            self._rng[i] = _rng.pack(self._generator)
        self._elapsed[ids] = 0


def _load(model_file: str) -> Any:
    path = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / model_file
    with quiet_deprecations():
        return mujoco.MjModel.from_xml_path(str(path))
