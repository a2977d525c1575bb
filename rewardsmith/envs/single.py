"""One Gymnasium environment by name, and the facts of it."""

import contextlib
import difflib
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit

from .._core import InputError
from . import _atari
from ._mujoco import quiet_deprecations
from ._pictures import image_spec, with_house_observations
from .base import EnvSpec
from .options import EnvOptions, is_atari

_CAN_TERMINATE = {
    **dict.fromkeys(["HalfCheetah", "Swimmer", "Reacher", "Pusher", "HumanoidStandup", "Pendulum"], False),
    **dict.fromkeys(["Hopper", "Walker2d", "Ant", "Humanoid", "InvertedPendulum"], True),
    **dict.fromkeys(["InvertedDoublePendulum", "CartPole", "Acrobot"], True),
    **dict.fromkeys(["MountainCar", "MountainCarContinuous", "LunarLander", "BipedalWalker"], True),
}


def make_single(env_id: str, options: EnvOptions | None = None, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """One Gymnasium environment with the observations of this house, every way of failing in one line.

    Args:
        env_id: a registered id, or ``module:id``.
        options: None: the defaults.
        kwargs: for `gymnasium.make`.

    Raises:
        InputError: unknown id (with the nearest known ones), a missing package, or observations that are
            not understood.
    """
    options = EnvOptions() if options is None else options
    check_known(env_id)
    try:
        with quiet_deprecations():
            if is_atari(env_id):
                env = _atari.make_game(env_id, options, **kwargs)
            else:
                env = gymnasium.make(env_id, disable_env_checker=True, **kwargs)
    except (gymnasium.error.Error, ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"cannot make {env_id}: {reason}") from error
    try:
        return with_house_observations(env_id, env, options)
    except InputError:
        env.close()
        raise


def check_known(env_id: str) -> None:
    """Raise InputError, with the nearest known names, unless `env_id` is registered or names its module."""
    if env_id.lower().startswith("ale/"):
        _atari.register()
    module, colon, name = env_id.partition(":")
    if (not colon and env_id not in gymnasium.registry) or (
        colon and (not module or not name or ":" in name)
    ):
        raise InputError(_unknown(env_id))


def read_spec(env_id: str, env: gymnasium.Env[Any, Any], options: EnvOptions | None = None) -> EnvSpec:
    """The facts of an environment that `make_single` made with the same options.

    Raises:
        InputError: its action is neither Discrete nor a bounded Box of floats.
    """
    options = EnvOptions() if options is None else options
    observation, action = env.observation_space, env.action_space
    assert isinstance(observation, gymnasium.spaces.Box)
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
    registered, limit = env.unwrapped.spec, time_limit(env)
    can_terminate = None if registered is None else _CAN_TERMINATE.get(registered.name)
    return EnvSpec(
        env_id=env_id,
        observation_shape=observation.shape,
        observation_dtype=np.dtype(observation.dtype),
        action_shape=action_shape,
        action_low=low,
        action_high=high,
        num_actions=num_actions,
        max_episode_steps=None if limit is None else limit._max_episode_steps,
        can_terminate=True if is_atari(env_id) else can_terminate,
        image=image_spec(observation, options.stack(env_id)),
    )


def to_native(actions: np.ndarray, space: gymnasium.Space[Any]) -> np.ndarray:
    """Checked actions in the numbering and dtype of the Gymnasium space."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return actions + space.start
    return actions.astype(space.dtype)


def layers(env: gymnasium.Env[Any, Any]) -> list[gymnasium.Env[Any, Any]]:
    """The wrappers from the outermost on, then the environment itself."""
    found = [env]
    while isinstance(found[-1], gymnasium.Wrapper):
        found.append(found[-1].env)
    return found


def time_limit(env: gymnasium.Env[Any, Any]) -> Any:
    """The wrapper that keeps the time limit, or None."""
    return next((layer for layer in layers(env) if isinstance(layer, TimeLimit)), None)


def _unknown(env_id: str) -> str:
    with contextlib.suppress(InputError):
        _atari.register()
    # Old versions stay registered only to fail; the last of each name is the one to suggest.
    newest: dict[str, str] = {}
    for known, spec in sorted(gymnasium.registry.items(), key=lambda item: item[1].version or 0):
        # Games under their names of old, with other settings.
        if spec.namespace is None and str(spec.entry_point).startswith("ale_py"):
            continue
        newest[f"{spec.namespace or ''}/{spec.name}".strip("/").lower()] = known
    name = env_id.rsplit("-v", 1)[0].lower()
    close = [newest[match] for match in difflib.get_close_matches(name, newest, n=3)]
    if close:
        return f"unknown environment {env_id}: did you mean {' or '.join(close)}?"
    return f"unknown environment {env_id}: use a registered Gymnasium id, or MODULE:ID to import its module"
