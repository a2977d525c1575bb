"""Roll-outs from saved states of a simulator: the same past, another future."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .._core import InputError, TrueReward
from .base import VectorEnv

Act = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""act(observations (N, ...), streams (N,), step) -> actions (N, ...) as the learner stores them: in [−1, 1],
or indices. Rows of the same stream share their random numbers."""


@dataclass(frozen=True)
class Forked:
    """n roll-outs of L steps.

    Attributes:
        observations, actions: (n, L, ...).
        valid: (n, L), false behind the end of the episode.
        true_reward: (n, L), sealed.
        states: by name (n, L, ...), the simulator before each step, if they were asked for.
        steps: steps that were simulated.
    """

    observations: np.ndarray
    actions: np.ndarray
    valid: np.ndarray
    true_reward: TrueReward
    states: dict[str, np.ndarray]
    steps: int


def fork(
    env: VectorEnv,
    states: dict[str, np.ndarray],
    act: Act,
    length: int,
    seed: int,
    *,
    first_action: np.ndarray | None = None,
    streams: np.ndarray | None = None,
    keep_states: bool = False,
) -> Forked:
    """Play on from saved states, as many at a time as `env` has copies.

    The time limit starts anew, so that it does not cut off what comes later.

    Args:
        env: copies to play in; what they did before is lost.
        states: rows (n, ...) of what `VectorEnv.get_state` gave, the randomness among them replaced.
        act: the policy.
        length: L, steps.
        seed: of the simulator's own randomness.
        first_action: (n, ...) what to do first; None: as the policy says.
        streams: (n,) rows of the same number share all random numbers, the policy's and the simulator's
            (common random numbers); None: each its own.
        keep_states: also return the state before each step.

    Raises:
        InputError: the environment cannot be restored, or an episode cannot be as long.
    """
    if not env.restorable:
        raise InputError(
            f"{env.spec.env_id} cannot be restored to a saved state: give --estimator suffix, --clips queue"
        )
    limit = env.spec.max_episode_steps
    if limit is not None and length > limit:
        raise InputError(f"roll-outs of {length} steps, but episodes of {env.spec.env_id} last {limit}")
    count, size = len(states["rng"]), env.num_envs
    streams = np.arange(count) if streams is None else streams
    blocks = []
    for begin in range(0, count, size):
        # The last block is filled up with its own first rows, which are dropped again.
        rows = (begin + np.arange(size)) % count if begin + size > count else begin + np.arange(size)
        first = None if first_action is None else first_action[rows]
        block = {name: array[rows] for name, array in states.items()}
        blocks.append(_play(env, block, act, length, seed, first, streams[rows], keep_states))
    kept = [min(size, count - begin) for begin in range(0, count, size)]

    def joined(arrays: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([array[:n] for array, n in zip(arrays, kept, strict=True)])

    true_reward = TrueReward(np.zeros((count, length)))
    for index, block in enumerate(blocks):
        begin = index * size
        true_reward[begin : begin + kept[index]] = block.true_reward[: kept[index]]
    return Forked(
        joined([block.observations for block in blocks]),
        joined([block.actions for block in blocks]),
        joined([block.valid for block in blocks]),
        true_reward,
        {name: joined([block.states[name] for block in blocks]) for name in blocks[0].states},
        sum(block.steps for block in blocks),
    )


def fork_pairs(
    env: VectorEnv,
    states: dict[str, np.ndarray],
    observations: np.ndarray,
    actions: np.ndarray,
    act: Act,
    length: int,
    seed: int,
    streams: np.ndarray | None = None,
) -> Forked:
    """Two roll-outs from each saved state, of the same random numbers: one of Q, one of V.

    Rows 2i and 2i + 1 start at state i, the first with the action given, the second with a fresh one of the
    policy; then both follow the policy.

    Args:
        observations, actions: (n, ...) what is seen in the saved states, and what to do first.
        streams: (n,) see `fork`; None: each state its own.

    The other arguments, and errors, are those of `fork`.
    """
    streams = np.arange(len(actions)) if streams is None else streams
    fresh = act(observations, streams, -1)
    return fork(
        env,
        {name: np.repeat(array, 2, axis=0) for name, array in states.items()},
        act,
        length,
        seed,
        first_action=np.stack([actions, fresh], axis=1).reshape(-1, *actions.shape[1:]),
        streams=np.repeat(streams, 2),
    )


def _play(
    env: VectorEnv,
    states: dict[str, np.ndarray],
    act: Act,
    length: int,
    seed: int,
    first_action: np.ndarray | None,
    streams: np.ndarray,
    keep_states: bool,
) -> Forked:
    spec = env.spec
    observation = env.set_state(_reseeded(env, states, seed, streams))
    alive = np.ones(env.num_envs, bool)
    observations, actions, valid, rewards, kept = [], [], [], [], []
    for step in range(length):
        if keep_states:
            kept.append(env.get_state())
        action = act(observation, streams, step)
        if step == 0 and first_action is not None:
            action = first_action
        result = env.step(spec.from_policy(action))
        observations.append(observation)
        actions.append(action)
        valid.append(alive)
        rewards.append(result.reward)
        alive = alive & ~(result.terminated | result.truncated)
        observation = result.observation
    return Forked(
        np.stack(observations, 1),
        np.stack(actions, 1),
        np.stack(valid, 1),
        TrueReward.stack(rewards, 1),
        {name: np.stack([state[name] for state in kept], 1) for name in (kept[0] if kept else ())},
        length * env.num_envs,
    )


def _reseeded(
    env: VectorEnv, states: dict[str, np.ndarray], seed: int, streams: np.ndarray
) -> dict[str, np.ndarray]:
    """The states with their clock at 0 and the randomness of (seed, stream), whatever block they are in."""
    rng = np.empty_like(states["rng"])
    group, row = np.divmod(streams, env.num_envs)
    for number in np.unique(group):
        fresh = env.streams(int(np.random.SeedSequence([seed, int(number)]).generate_state(1)[0]))
        own = group == number
        rng[own] = fresh[row[own]]
    return {**states, "rng": rng, "elapsed": np.zeros_like(states["elapsed"])}
