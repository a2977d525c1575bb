"""The state of one Gymnasium environment as arrays of fixed shapes, where its classes are known."""

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
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, OrderEnforcing, TimeLimit

from .._core import InputError
from . import _rng
from ._atari import Emulator, register
from ._mujoco import mujoco
from .single import layers, time_limit

_CLASSIC = (AcrobotEnv, CartPoleEnv, Continuous_MountainCarEnv, MountainCarEnv, PendulumEnv)
_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION.value
# The emulator writes its generator as text, whose length varies by some bytes. The longest game has 8256.
_EMULATOR_BYTES = 8704
_LENGTH_BYTES = 4


def is_restorable(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether `read_row` and `write_row` know all there is."""
    if _layer(env, Emulator) is not None:
        return True
    *outer, inner = layers(env)
    known = _is_mujoco(env) or type(inner) in _CLASSIC
    plain = all(type(wrapper) in (TimeLimit, OrderEnforcing) for wrapper in outer)
    return known and plain and isinstance(env.unwrapped.np_random.bit_generator, np.random.PCG64)


def read_row(env: gymnasium.Env[Any, Any]) -> dict[str, np.ndarray]:
    """Copies of all that the future depends on, the last observation excepted."""
    inner: Any = env.unwrapped
    limit = time_limit(env)
    row = {
        "elapsed": np.array(0 if limit is None else limit._elapsed_steps, np.int64),
        "rng": _rng.pack(inner.np_random),
    }
    emulator = _layer(env, Emulator)
    if emulator is not None:
        played = _layer(env, AtariPreprocessing)
        return {
            **row,
            "emulator": _pack(inner.ale.cloneState().serialize()),
            # The second of the two buffers is never brighter than the first.
            "screen": played.obs_buffer[0].copy(),
            "lives": np.array(played.lives, np.int64),
            "last_action": np.array(emulator.last_action, np.int64),
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


def write_row(env: gymnasium.Env[Any, Any], row: dict[str, Any]) -> None:
    """Put back what `read_row` returned into an environment that has been reset.

    Args:
        env: of the same id and options.
        row: with the last observation as "observation", for pictures. "bodies" may be missing where the
            batch made it, whose tasks do not need them.
    """
    inner: Any = env.unwrapped
    limit = time_limit(env)
    if limit is not None:
        limit._elapsed_steps = int(row["elapsed"])
    _rng.unpack(row["rng"], inner.np_random)
    emulator = _layer(env, Emulator)
    if emulator is not None:
        played, stack = _layer(env, AtariPreprocessing), _layer(env, FrameStackObservation)
        inner.ale.restoreState(register().ALEState(_unpack(row["emulator"])))
        played.obs_buffer[0][:] = row["screen"]
        played.obs_buffer[1][:] = 0
        played.lives = int(row["lives"])
        emulator.last_action = int(row["last_action"])
        if stack is not None:
            frames = np.moveaxis(np.asarray(row["observation"]), -1, 0)[..., None]
            stack.obs_queue.extend(frames.copy())
        return
    if not _is_mujoco(env):
        inner.state = row["physics"].astype(np.float32 if row["single"] else np.float64)
        return
    mujoco.mj_setState(inner.model, inner.data, row["physics"], _PHYSICS)
    if "bodies" in row:
        inner.data.xpos[:], inner.data.xipos[:] = np.split(row["bodies"], 2)


def _layer(env: gymnasium.Env[Any, Any], kind: type) -> Any:
    return next((layer for layer in layers(env) if isinstance(layer, kind)), None)


def _is_mujoco(env: gymnasium.Env[Any, Any]) -> bool:
    return type(env.unwrapped).__module__.startswith("gymnasium.envs.mujoco.")


def _pack(serialised: bytes) -> np.ndarray:
    length = len(serialised)
    if length > _EMULATOR_BYTES - _LENGTH_BYTES:
        raise InputError(f"the state of this game has {length} bytes, too many: give --backend ale")
    whole = length.to_bytes(_LENGTH_BYTES, "little") + serialised
    return np.frombuffer(whole.ljust(_EMULATOR_BYTES, b"\0"), np.uint8).copy()


def _unpack(row: np.ndarray) -> bytes:
    whole = np.asarray(row, np.uint8).tobytes()
    length = int.from_bytes(whole[:_LENGTH_BYTES], "little")
    return whole[_LENGTH_BYTES : _LENGTH_BYTES + length]
