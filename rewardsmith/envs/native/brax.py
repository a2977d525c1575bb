"""Robots of brax and of MuJoCo playground, whose environments have one interface."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Num

from ..._core import InputError, TracedTrueReward
from ..base import EnvSpec
from ._package import check_known, import_package, quietly
from .base import NativeEnv, NativeTransition, State

_CAN_TERMINATE = {
    **dict.fromkeys(["fast", "halfcheetah", "humanoidstandup", "pusher", "reacher", "swimmer"], False),
    **dict.fromkeys(["ant", "hopper", "humanoid", "walker2d"], True),
    **dict.fromkeys(["inverted_pendulum", "inverted_double_pendulum"], True),
}
_PHYSICS = ("generalized", "mjx", "positional", "spring")
# What brax trains all of them with.
_EPISODE = 1000


class BraxEnv(NativeEnv):
    """An environment with brax's interface: ``reset(key)`` and ``step(state, action)`` give a state.

    Actions lie in [−1, 1], which is how these packages train. Of an observation of several parts
    (playground's joystick tasks) the part ``"state"`` is what the policy sees. What their state says of
    rewards is cut out of ours.

    Args:
        env_id: name for messages and records.
        env: the environment, without wrappers.
        max_episode_steps: the time limit; None: none.
        can_terminate: see `EnvSpec`.

    Raises:
        InputError: observations that are no vectors.
    """

    def __init__(self, env_id: str, env: Any, max_episode_steps: int | None, can_terminate: bool | None):
        self._env = env
        with quietly():
            start = jax.eval_shape(env.reset, jax.random.key(0))
        self._metrics = start.metrics
        self._draws = "rng" in start.info
        seen = start.obs.get("state") if hasattr(start.obs, "get") else start.obs
        if seen is None or len(seen.shape) != 1:
            raise InputError(f"{env_id} observes {start.obs}: choose a task that observes one vector")
        high = np.ones(env.action_size, np.float32)
        self.spec = EnvSpec(
            env_id=env_id,
            observation_shape=seen.shape,
            observation_dtype=np.dtype(np.float32),
            action_shape=high.shape,
            action_low=-high,
            action_high=high,
            num_actions=None,
            max_episode_steps=max_episode_steps,
            can_terminate=can_terminate,
        )

    def reset(self, key: Key[Array, ""]) -> tuple[State, Float[Array, "..."]]:
        """See `NativeEnv.reset`."""
        with quietly():
            state = self._env.reset(key)
        return self._kept(state), self._vector(state)

    def step(self, state: State, action: Num[Array, "..."], key: Key[Array, ""]) -> NativeTransition:
        """See `NativeEnv.step`."""
        with quietly():
            state = self._env.step(self._whole(state, key), action)
        paid = jnp.asarray(state.reward, jnp.float32)
        ended = jnp.asarray(state.done).astype(bool)
        return NativeTransition(self._kept(state), self._vector(state), TracedTrueReward(paid), ended)

    def _vector(self, state: Any) -> Float[Array, "..."]:
        seen = state.obs["state"] if hasattr(state.obs, "get") else state.obs
        return jnp.asarray(seen, jnp.float32)

    def _kept(self, state: Any) -> State:
        info = {name: value for name, value in state.info.items() if name != "rng"}
        return state.replace(reward=None, done=None, metrics=None, info=info)

    def _whole(self, state: State, key: Key[Array, ""]) -> Any:
        nothing = jnp.zeros(())
        metrics = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self._metrics)
        info = {**state.info, "rng": key} if self._draws else dict(state.info)
        return state.replace(reward=nothing, done=nothing, metrics=metrics, info=info)


def brax_env(name: str) -> BraxEnv:
    """The environment ``brax/NAME``, or ``brax/NAME/PHYSICS`` with other physics than its own choice.

    PHYSICS is spring, positional, generalized or mjx, from fast to faithful.

    Raises:
        InputError: brax is not installed, or has no such environment or physics.
    """
    env_id = f"brax/{name}"
    envs = import_package(env_id, "brax.envs")
    task, _, physics = name.partition("/")
    check_known(env_id, task, envs._envs)
    if physics and physics not in _PHYSICS:
        raise InputError(f"unknown physics {physics!r} in {env_id}: choose one of {', '.join(_PHYSICS)}")
    with quietly():
        env = envs.get_environment(task, **({"backend": physics} if physics else {}))
    return BraxEnv(env_id, env, _EPISODE, _CAN_TERMINATE.get(task))


def playground_env(name: str) -> BraxEnv:
    """The environment ``playground/NAME``, its physics in plain JAX.

    Tasks of its control suite end by the time limit alone, unless their physics fails.

    Raises:
        InputError: playground is not installed, has no such environment, or it needs files that are not here.
    """
    env_id = f"playground/{name}"
    playground = import_package(env_id, "mujoco_playground")
    check_known(env_id, name, playground.registry.ALL_ENVS)
    in_suite = name in playground.dm_control_suite.ALL_ENVS
    # It would fetch them from the network by itself, without asking.
    menagerie = import_package(env_id, "mujoco_playground._src.mjx_env").MENAGERIE_PATH
    if not in_suite and not menagerie.exists():
        raise InputError(
            f"{env_id} needs the models of MuJoCo menagerie: clone "
            f"https://github.com/google-deepmind/mujoco_menagerie into {menagerie}"
        )
    config = playground.registry.get_default_config(name)
    if config.action_repeat != 1:
        raise InputError(f"{env_id} repeats its actions, which is not understood: choose another task")
    with quietly():
        env = playground.registry.load(name, config=config, config_overrides={"impl": "jax"})
    return BraxEnv(env_id, env, int(config.episode_length), False if in_suite else None)
