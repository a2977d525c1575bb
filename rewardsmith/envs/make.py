"""From an environment's name to the fastest way of running it."""

from typing import Literal

from .._core import InputError
from .base import VectorEnv
from .gymnasium_env import GymnasiumEnv
from .mujoco_batch import MujocoBatchEnv
from .mujoco_tasks import TASKS


def make(
    env_id: str,
    num_envs: int,
    backend: Literal["auto", "mujoco", "gymnasium"] = "auto",
    *,
    num_threads: int = 1,
) -> VectorEnv:
    """N copies of the environment `env_id`.

    The two backends agree bit for bit, given the same seed and actions.

    Args:
        env_id: a Gymnasium id such as ``"HalfCheetah-v5"``.
        num_envs: N.
        backend: "mujoco": all physics in one batch, for the tasks of `mujoco_tasks.TASKS`; "gymnasium": any
            task; "auto": the batch where there is one.
        num_threads: threads of the batch; 0: one for each processor.

    Raises:
        InputError: unknown id, a missing package, or spaces that are not understood.
    """
    if backend not in ("auto", "mujoco", "gymnasium"):
        raise InputError(f"unknown backend {backend!r}: choose 'auto', 'mujoco' or 'gymnasium'")
    if backend == "mujoco" or (backend == "auto" and env_id in TASKS):
        return MujocoBatchEnv(env_id, num_envs, num_threads)
    return GymnasiumEnv(env_id, num_envs)
