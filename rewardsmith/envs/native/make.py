"""From an environment's name to a native one."""

import functools

from ..._core import InputError
from .base import NativeEnv


def make_native(env_id: str, *, flatten_observations: bool = False) -> NativeEnv:
    """The native environment of that name; the same object each time, so that its programs are compiled once.

    Args:
        env_id: ``"gymnax/ID"``, ``"brax/NAME"``, ``"brax/NAME/PHYSICS"`` or ``"playground/NAME"``.
        flatten_observations: gymnax: make one vector of pictures, indices and other observations.

    Raises:
        InputError: unknown name, a missing package, or observations or actions that are not understood.
    """
    return _make(env_id, flatten_observations)


@functools.cache
def _make(env_id: str, flatten_observations: bool) -> NativeEnv:
    package, _, name = env_id.partition("/")
    if package == "gymnax":
        from .gymnax import GymnaxEnv

        return GymnaxEnv(name, flatten_observations=flatten_observations)
    if package == "brax":
        from .brax import brax_env

        return brax_env(name)
    if package == "playground":
        from .brax import playground_env

        return playground_env(name)
    raise InputError(
        f"{env_id} is not native: give a name such as gymnax/Pendulum-v1, brax/halfcheetah or "
        "playground/CheetahRun"
    )
