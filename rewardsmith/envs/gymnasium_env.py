"""Any Gymnasium task with a Box observation, through Gymnasium's own classes."""

import difflib
import functools
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control import (
    AcrobotEnv,
    CartPoleEnv,
    Continuous_MountainCarEnv,
    MountainCarEnv,
    PendulumEnv,
)
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from .._core import InputError, TrueReward
from . import _rng
from ._mujoco import mujoco, quiet_deprecations
from .base import EnvSpec, StepResult, VectorEnv, check_num_envs, check_state, env_seeds, not_started

_CLASSIC = (AcrobotEnv, CartPoleEnv, Continuous_MountainCarEnv, MountainCarEnv, PendulumEnv)
_CAN_TERMINATE = {
    **dict.fromkeys(["HalfCheetah", "Swimmer", "Reacher", "Pusher", "HumanoidStandup", "Pendulum"], False),
    **dict.fromkeys(["Hopper", "Walker2d", "Ant", "Humanoid", "InvertedPendulum"], True),
    **dict.fromkeys(["InvertedDoublePendulum", "CartPole", "Acrobot"], True),
    **dict.fromkeys(["MountainCar", "MountainCarContinuous", "LunarLander", "BipedalWalker"], True),
}
_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION.value


class GymnasiumEnv(VectorEnv):
    """N copies of a registered Gymnasium environment, stepped one after another.

    Restorable for Gymnasium's own MuJoCo and classic-control tasks; others may hide state where nothing
    outside can read it.

    Args:
        env_id: a registered id, or ``module:id`` to import the module that registers it.
        num_envs: N.

    Raises:
        InputError: unknown id, a missing package, or spaces other than a Box observation with a bounded
            Box or Discrete action.
    """

    def __init__(self, env_id: str, num_envs: int):
        check_num_envs(num_envs)
        first = make_single(env_id)
        try:
            self.spec = read_spec(env_id, first)
        except InputError:
            first.close()
            raise
        makers = [lambda: first] + [functools.partial(make_single, env_id)] * (num_envs - 1)
        self._vector = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        self._envs = self._vector.envs
        self.num_envs = num_envs
        self.restorable = _is_restorable(first)
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
        return StepResult(
            observation.copy(), next_observation, TrueReward(reward), terminated, truncated & ~terminated
        )

    def get_state(self) -> dict[str, np.ndarray]:
        """See `VectorEnv.get_state`."""
        self._require_restorable()
        if self._observation is None:
            raise not_started(self.spec.env_id)
        rows = [_read_env(env) for env in self._envs]
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
            _write_env(env, {name: array[i] for name, array in state.items()})
        self._observation = np.array(state["observation"], self.spec.observation_dtype)
        return self._observation.copy()

    def close(self) -> None:
        """See `VectorEnv.close`."""
        self._vector.close()

    def _require_restorable(self) -> None:
        if not self.restorable:
            raise InputError(f"the state of {self.spec.env_id} cannot be saved or restored: train without it")


def make_single(env_id: str, **kwargs: Any) -> gymnasium.Env:
    """One Gymnasium environment, with every way of failing turned into one line.

    Raises:
        InputError: unknown id (with the nearest known ones) or a missing package.
    """
    if ":" not in env_id and env_id not in gymnasium.registry:
        raise InputError(_unknown(env_id))
    try:
        with quiet_deprecations():
            return gymnasium.make(env_id, disable_env_checker=True, **kwargs)
    except (gymnasium.error.Error, ImportError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"cannot make {env_id}: {reason}") from error


def read_spec(env_id: str, env: gymnasium.Env) -> EnvSpec:
    """The facts of one environment.

    Raises:
        InputError: its observation is no Box, or its action neither Discrete nor a bounded Box of floats.
    """
    observation, action = env.observation_space, env.action_space
    if not isinstance(observation, gymnasium.spaces.Box):
        kind = type(observation).__name__
        raise InputError(
            f"{env_id} observes a {kind}, only Box is understood: "
            "register it with a gymnasium.wrappers.FlattenObservation"
        )
    low = high = num_actions = None
    if isinstance(action, gymnasium.spaces.Discrete):
        action_shape, num_actions = (), int(action.n)
    elif isinstance(action, gymnasium.spaces.Box) and np.issubdtype(action.dtype, np.floating):
        if not action.is_bounded():
            raise InputError(
                f"{env_id} has unbounded actions: register it with gymnasium.wrappers.RescaleAction or bounds"
            )
        action_shape = action.shape
        low, high = action.low.astype(np.float32), action.high.astype(np.float32)
    else:
        raise InputError(f"{env_id} acts by {action}: choose a task with Discrete or Box float actions")
    registered = env.spec
    return EnvSpec(
        env_id=env_id,
        observation_shape=observation.shape,
        observation_dtype=np.dtype(observation.dtype),
        action_shape=action_shape,
        action_low=low,
        action_high=high,
        num_actions=num_actions,
        max_episode_steps=None if registered is None else registered.max_episode_steps,
        can_terminate=None if registered is None else _CAN_TERMINATE.get(registered.name),
    )


def to_native(actions: np.ndarray, space: gymnasium.Space) -> np.ndarray:
    """Checked actions in the numbering and dtype of the Gymnasium space."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return actions + space.start
    return actions.astype(space.dtype)


def _unknown(env_id: str) -> str:
    # Old versions stay registered only to fail; the last of each name is the one to suggest.
    newest: dict[str, str] = {}
    for known, spec in sorted(gymnasium.registry.items(), key=lambda item: item[1].version or 0):
        newest[f"{spec.namespace or ''}/{spec.name}".strip("/").lower()] = known
    name = env_id.rsplit("-v", 1)[0].lower()
    close = [newest[match] for match in difflib.get_close_matches(name, newest, n=3)]
    if close:
        return f"unknown environment {env_id}: did you mean {' or '.join(close)}?"
    return f"unknown environment {env_id}: use a registered Gymnasium id, or MODULE:ID to import its module"


def _wrappers(env: gymnasium.Env) -> list[gymnasium.Env]:
    layers = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    return layers


def _is_mujoco(env: gymnasium.Env) -> bool:
    return type(env.unwrapped).__module__.startswith("gymnasium.envs.mujoco.")


def _is_restorable(env: gymnasium.Env) -> bool:
    *outer, inner = _wrappers(env)
    known = _is_mujoco(env) or type(inner) in _CLASSIC
    plain = all(type(wrapper) in (TimeLimit, OrderEnforcing) for wrapper in outer)
    return known and plain and isinstance(env.unwrapped.np_random.bit_generator, np.random.PCG64)


def _time_limit(env: gymnasium.Env) -> Any:
    return next((layer for layer in _wrappers(env) if isinstance(layer, TimeLimit)), None)


def _read_env(env: gymnasium.Env) -> dict[str, np.ndarray]:
    inner: Any = env.unwrapped
    limit = _time_limit(env)
    row = {
        "elapsed": np.array(0 if limit is None else limit._elapsed_steps, np.int64),
        "rng": _rng.pack(inner.np_random),
    }
    if not _is_mujoco(env):
        state = np.asarray(inner.state)
        # Some of these tasks change between single and double precision from step to step.
        return {**row, "physics": state.astype(np.float64), "single": np.array(state.dtype == np.float32)}
    physics = np.empty(mujoco.mj_stateSize(inner.model, _PHYSICS))
    mujoco.mj_getState(inner.model, inner.data, physics, _PHYSICS)
    # Ant and Humanoid measure speed from these, which lag one physics step behind the state.
    bodies = np.concatenate([inner.data.xpos, inner.data.xipos])
    return {**row, "physics": physics, "bodies": bodies}


def _write_env(env: gymnasium.Env, row: dict[str, Any]) -> None:
    inner: Any = env.unwrapped
    limit = _time_limit(env)
    if limit is not None:
        limit._elapsed_steps = int(row["elapsed"])
    _rng.unpack(row["rng"], inner.np_random)
    if not _is_mujoco(env):
        inner.state = row["physics"].astype(np.float32 if row["single"] else np.float64)
        return
    mujoco.mj_setState(inner.model, inner.data, row["physics"], _PHYSICS)
    inner.data.xpos[:], inner.data.xipos[:] = np.split(row["bodies"], 2)
