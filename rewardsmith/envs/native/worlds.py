"""N copies of a native environment in the midst of their episodes, as one value that programs carry along."""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from ..._core import InputError, TracedTrueReward
from ..base import check_num_envs, env_seeds
from .base import NativeEnv, State

# What a copy's key is hashed with to give the key it has next, that of its step and that of its next start.
# Each is a hash of its own, so that what nobody draws from is never computed.
_NEXT, _STEP, _START = range(3)
# Named, so that rows saved under one default generator are read under another.
_GENERATOR = "threefry2x32"


class Worlds(eqx.Module):
    """N copies in the midst of their episodes; copy i's future depends on its own row alone.

    Attributes:
        state: the environment's own, each leaf with leading axis N.
        observation: (N, *obs) what to act on.
        elapsed: (N,) steps since the episode began.
        key: (N,) all the randomness there is.
    """

    state: State
    observation: Float[Array, "n ..."]
    elapsed: Int[Array, " n"]
    key: Key[Array, " n"]


class WorldsStep(NamedTuple):
    """What one step of N copies led to: `envs.StepResult` with JAX arrays.

    Attributes:
        observation: (N, *obs) what to act on next: of a new episode where one ended.
        next_observation: (N, *obs) what this step led to: the final one where an episode ended.
        reward: (N,) the true reward, sealed inside programs.
        terminated: (N,) the episode came to its own end.
        truncated: (N,) it was cut by the time limit.
    """

    observation: Float[Array, "n ..."]
    next_observation: Float[Array, "n ..."]
    reward: TracedTrueReward
    terminated: Bool[Array, " n"]
    truncated: Bool[Array, " n"]


def begin(env: NativeEnv, seed: int, num_envs: int) -> Worlds:
    """`num_envs` new episodes; the randomness of copy i depends on (seed, i) only.

    Args:
        env: a world written in JAX.
        seed: at least 0.
        num_envs: N.

    Raises:
        InputError: no copies, or a negative seed.
    """
    return _begin(env, _first_keys(seed, num_envs))


def streams(seed: int, num_envs: int) -> Key[Array, " n"]:
    """The keys that `begin` leaves in `Worlds.key`, without the work of it."""
    return _derived(_first_keys(seed, num_envs), _NEXT)


def advance(env: NativeEnv, worlds: Worlds, action: Shaped[Array, "n ..."]) -> tuple[Worlds, WorldsStep]:
    """Act once in every copy, and begin the next episode where one ended. Pure.

    Starts are computed only in a step in which some episode ended; under `vmap` in every step.

    Args:
        env: whose copies they are.
        worlds: N of them.
        action: (N, *action_shape) in the environment's own units.
    """
    dtype = jnp.int32 if env.spec.num_actions is not None else jnp.float32
    moved = jax.vmap(env.step)(worlds.state, action.astype(dtype), _derived(worlds.key, _STEP))
    state = jax.tree.map(lambda new, old: new.astype(old.dtype), moved.state, worlds.state)
    next_observation = moved.observation.astype(jnp.float32)
    elapsed = worlds.elapsed + 1
    limit = env.spec.max_episode_steps
    late = jnp.zeros_like(moved.terminated) if limit is None else elapsed >= limit
    truncated = late & ~moved.terminated
    ended = moved.terminated | truncated

    def with_new_episodes() -> tuple[Any, ...]:
        fresh = (*_start(env, worlds.key), jnp.zeros_like(elapsed))
        return jax.tree.map(partial(_where, ended), fresh, (state, next_observation, elapsed))

    state, observation, elapsed = jax.lax.cond(
        jnp.any(ended), with_new_episodes, lambda: (state, next_observation, elapsed)
    )
    onward = Worlds(state, observation, elapsed, _derived(worlds.key, _NEXT))
    return onward, WorldsStep(observation, next_observation, moved.reward, moved.terminated, truncated)


def rows(worlds: Worlds) -> dict[str, Array]:
    """The worlds as named arrays with leading axis N, of which rows can be picked, repeated and joined.

    ``"rng"`` (N, 2), uint32, is all the randomness; ``"elapsed"`` and ``"observation"``; and ``"state"``
    with the path of each leaf, such as ``"state.theta"``.

    Args:
        worlds: N of them.
    """
    named = {name: leaf for name, leaf in _named(worlds.state)}
    return named | {
        "observation": worlds.observation,
        "elapsed": worlds.elapsed,
        "rng": jax.random.key_data(worlds.key),
    }


def from_rows(like: Worlds, rows: dict[str, Any]) -> Worlds:
    """The worlds that `rows` gave these arrays for.

    Args:
        like: any worlds of the same environment; their number may be another.
        rows: each with the same leading axis.

    Raises:
        InputError: the arrays do not fit the environment.
    """
    _check_rows(like, rows)
    leaves = [jnp.asarray(rows[name], leaf.dtype) for name, leaf in _named(like.state)]
    return Worlds(
        jax.tree.unflatten(jax.tree.structure(like.state), leaves),
        jnp.asarray(rows["observation"], like.observation.dtype),
        jnp.asarray(rows["elapsed"], like.elapsed.dtype),
        jax.random.wrap_key_data(jnp.asarray(rows["rng"], jnp.uint32), impl=_GENERATOR),
    )


def _first_keys(seed: int, num_envs: int) -> Key[Array, " n"]:
    check_num_envs(num_envs)
    words = env_seeds(seed, num_envs)
    halves = np.stack([words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(halves), impl=_GENERATOR)


@partial(jax.jit, static_argnums=0)
def _begin(env: NativeEnv, keys: Key[Array, " n"]) -> Worlds:
    state, observation = _start(env, keys)
    elapsed = jnp.zeros(len(keys), jnp.int32)
    return Worlds(state, observation, elapsed, _derived(keys, _NEXT))


def _start(env: NativeEnv, keys: Key[Array, " n"]) -> tuple[State, Float[Array, "n ..."]]:
    state, observation = jax.vmap(env.reset)(_derived(keys, _START))
    # Numbers written into a program have weak types, which no loop can carry.
    return jax.tree.map(lambda leaf: leaf.astype(leaf.dtype), state), observation.astype(jnp.float32)


def _derived(keys: Key[Array, " n"], purpose: int) -> Key[Array, " n"]:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, purpose)


def _where(ended: Bool[Array, " n"], fresh: Shaped[Array, "n ..."], old: Shaped[Array, "n ..."]) -> Array:
    return jnp.where(ended.reshape(-1, *[1] * (fresh.ndim - 1)), fresh, old)


def _named(state: State) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    parts = [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]
    return [(f"state.{path}" if path else "state", leaf) for path, leaf in parts]


def _check_rows(like: Worlds, given: dict[str, Any]) -> None:
    needed = {name: array.shape[1:] for name, array in jax.eval_shape(rows, like).items()}
    found = {name: np.shape(array)[1:] for name, array in given.items()}
    if found != needed:
        raise InputError(f"the stored rows do not fit: they hold {found}, needed is {needed}")
    if len({len(array) for array in given.values()}) != 1:
        raise InputError("the stored rows are not of one number: pick the same rows of every array")
