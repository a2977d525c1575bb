"""From an environment's name to the fastest way of running it."""

from typing import Literal

from .._core import InputError
from .atari import AtariBatchEnv
from .base import VectorEnv
from .gymnasium_env import GymnasiumEnv
from .mujoco_batch import MujocoBatchEnv
from .mujoco_tasks import TASKS
from .options import EnvOptions, is_native

_BACKENDS = ("auto", "mujoco", "gymnasium", "ale", "native")


def make(
    env_id: str,
    num_envs: int,
    backend: Literal["auto", "mujoco", "gymnasium", "ale", "native"] = "auto",
    *,
    num_threads: int = 1,
    options: EnvOptions | None = None,
) -> VectorEnv:
    """N copies of the environment `env_id`.

    The backends of a task agree bit for bit, given the same seed and actions; those of an Atari game where
    its settings leave no chance.

    Args:
        env_id: a Gymnasium id such as ``"HalfCheetah-v5"`` or ``"ALE/BeamRider-v5"``, or a native name such
            as ``"gymnax/Pendulum-v1"``, ``"brax/halfcheetah"`` or ``"playground/CheetahRun"``.
        num_envs: N.
        backend: "mujoco": all physics in one batch, for the tasks of `mujoco_tasks.TASKS`; "ale": ALE's own
            threads, for Atari games, not restorable; "native": worlds inside compiled programs, for native
            names; "gymnasium": any other task; "auto": "native" for its names, the batch where there is
            one, else "gymnasium".
        num_threads: threads of "mujoco" and "ale"; 0: one for each processor.
        options: of the observations and of Atari games; None: the defaults.

    Raises:
        InputError: unknown id, a missing package, or spaces that are not understood.
    """
    options = EnvOptions() if options is None else options
    if backend not in _BACKENDS:
        raise InputError(f"unknown backend {backend!r}: choose one of {', '.join(_BACKENDS)}")
    if is_native(env_id):
        return _make_native(env_id, num_envs, backend, options)
    if backend == "native":
        raise InputError(
            f"{env_id} is not native: give a name such as gymnax/Pendulum-v1, or use backend='auto'"
        )
    if backend == "ale":
        return AtariBatchEnv(env_id, num_envs, num_threads, options)
    if backend == "gymnasium" or (backend == "auto" and (env_id not in TASKS or _needs_gymnasium(options))):
        return GymnasiumEnv(env_id, num_envs, options)
    if _needs_gymnasium(options):
        raise InputError(
            f"clip_rewards and frame_stack are not for {env_id} in one batch: use backend='gymnasium'"
        )
    return MujocoBatchEnv(env_id, num_envs, num_threads)


def _make_native(env_id: str, num_envs: int, backend: str, options: EnvOptions) -> VectorEnv:
    if backend not in ("auto", "native"):
        raise InputError(f"{env_id} runs by backend 'native' only: leave out backend={backend!r}")
    if _needs_gymnasium(options):
        raise InputError(f"clip_rewards and frame_stack are not for {env_id}: leave them out")
    # The rest of this room does without JAX.
    from .native import NativeVectorEnv, make_native

    env = make_native(env_id, flatten_observations=options.flatten_observations)
    return NativeVectorEnv(env, num_envs)


def _needs_gymnasium(options: EnvOptions) -> bool:
    return options.clip_rewards or (options.frame_stack or 1) > 1
