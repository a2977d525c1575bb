"""A finite Markov decision process as a vectorised environment, to check deep methods against exact ones."""

from typing import Any

import numpy as np

from .._core import InputError, TrueReward
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

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class TabularEnv(VectorEnv):
    """N walkers in one table. Observations are state indices (int64, shape ()), actions indices too.

    An action in a terminal state pays its reward and ends the episode; nothing follows, and
    `next_observation` is that state again.

    Args:
        transition: (S, A, S) probabilities P[s, a, t] of moving on to t. Rows sum to 1; a terminal state's
            are all zero.
        initial: (S,) distribution of the first state, ρ.
        true_reward: (S, A) true reward for each step; sealed here.
        num_envs: N.
        max_episode_steps: episodes are truncated after this many steps; None: never.

    Raises:
        InputError: shapes do not agree, or rows are not distributions.
    """

    restorable = True

    def __init__(
        self,
        transition: Any,
        initial: Any,
        true_reward: Any,
        num_envs: int,
        max_episode_steps: int | None = None,
    ):
        check_num_envs(num_envs)
        if max_episode_steps is not None and max_episode_steps < 1:
            raise InputError(f"max_episode_steps is {max_episode_steps}: choose 1 or more, or None")
        transition = np.asarray(transition, np.float64)
        initial = np.asarray(initial, np.float64)
        rewards = np.asarray(true_reward, np.float64)
        _check_tables(transition, initial, rewards)
        num_states, num_actions = rewards.shape
        self.num_envs = num_envs
        self._num_actions = num_actions
        self._terminal = transition.sum(axis=(1, 2)) == 0
        self._cumulative = _cumulative(transition.reshape(-1, num_states))
        self._cumulative_initial = _cumulative(initial[None])
        self._rewards = TrueReward(rewards)
        self._state = np.zeros(num_envs, np.int64)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._rng = np.zeros((num_envs, 2), np.uint64)
        self._started = False
        self.spec = EnvSpec(
            env_id="tabular",
            observation_shape=(),
            observation_dtype=np.dtype(np.int64),
            action_shape=(),
            action_low=None,
            action_high=None,
            num_actions=num_actions,
            max_episode_steps=max_episode_steps,
            can_terminate=bool(self._terminal.any()),
        )

    def reset(self, seed: int) -> np.ndarray:
        """See `VectorEnv.reset`."""
        self._rng[:, 0] = env_seeds(seed, self.num_envs)
        self._rng[:, 1] = 0
        self._elapsed[:] = 0
        first_row = np.zeros(self.num_envs, np.int64)
        self._state = _draw(self._cumulative_initial, first_row, self._uniform(np.arange(self.num_envs)))
        self._started = True
        return self._state.copy()

    def step(self, action: np.ndarray) -> StepResult:
        """See `VectorEnv.step`."""
        if not self._started:
            raise not_started(self.spec.env_id)
        actions = self.spec.checked_actions(action, self.num_envs)
        reward = self._rewards[self._state, actions]
        terminated = self._terminal[self._state]
        moved = _draw(
            self._cumulative,
            self._state * self._num_actions + actions,
            self._uniform(np.arange(self.num_envs)),
        )
        next_state = np.where(terminated, self._state, moved)
        self._elapsed += 1
        truncated = out_of_time(self.spec, self._elapsed) & ~terminated

        self._state = next_state.copy()
        ended = np.flatnonzero(terminated | truncated)
        first_row = np.zeros(len(ended), np.int64)
        self._state[ended] = _draw(self._cumulative_initial, first_row, self._uniform(ended))
        self._elapsed[ended] = 0
        return StepResult(self._state.copy(), next_state, reward, terminated, truncated)

    def get_state(self) -> dict[str, np.ndarray]:
        """See `VectorEnv.get_state`."""
        if not self._started:
            raise not_started(self.spec.env_id)
        return {name: array.copy() for name, array in self._arrays().items()}

    def set_state(self, state: dict[str, np.ndarray]) -> np.ndarray:
        """See `VectorEnv.set_state`."""
        put_back(self.spec.env_id, self._arrays(), state)
        self._started = True
        return self._state.copy()

    def close(self) -> None:
        """Nothing to release."""

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"state": self._state, "elapsed": self._elapsed, "rng": self._rng}

    def _uniform(self, ids: np.ndarray) -> np.ndarray:
        """The next number in [0, 1) of each stream in `ids`.

        SplitMix64 (Steele, Lea, Flood 2014): a number is a hash of the stream's key and of how many were
        drawn, so thousands of independent streams cost a few array operations and no Python loop.
        """
        self._rng[ids, 1] += np.uint64(1)
        word = self._rng[ids, 0] + self._rng[ids, 1] * _GOLDEN
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        word = word ^ (word >> np.uint64(31))
        return (word >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _cumulative(rows: np.ndarray) -> np.ndarray:
    total = np.cumsum(rows, axis=1)
    # The last entry becomes exactly 1, so that no number in [0, 1) falls beyond the last possible state.
    return total / np.where(total[:, -1:] == 0, 1.0, total[:, -1:])


def _draw(cumulative: np.ndarray, row: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """For each k, the first t with cumulative[row[k], t] > uniform[k], by bisection; the last if none."""
    low = np.zeros(len(row), np.int64)
    high = np.full(len(row), cumulative.shape[1] - 1)
    for _ in range(int(cumulative.shape[1] - 1).bit_length()):
        middle = (low + high) >> 1
        beyond = cumulative[row, middle] > uniform
        high = np.where(beyond, middle, high)
        low = np.where(beyond, low, np.minimum(middle + 1, high))
    return low


def _check_tables(transition: np.ndarray, initial: np.ndarray, rewards: np.ndarray) -> None:
    if rewards.ndim != 2 or transition.shape != (*rewards.shape, len(rewards)):
        raise InputError(
            f"transition {transition.shape} and true_reward {rewards.shape} disagree: pass (S, A, S), (S, A)"
        )
    if initial.shape != (len(rewards),):
        raise InputError(f"initial has shape {initial.shape}, pass ({len(rewards)},)")
    if not np.isfinite(rewards).all():
        raise InputError("true_reward has entries that are not finite")
    if (transition < 0).any() or (initial < 0).any():
        raise InputError("transition and initial hold probabilities: none may be negative")
    if not np.isclose(initial.sum(), 1.0, atol=1e-6):
        raise InputError(f"initial sums to {initial.sum():g}: it must sum to 1")
    sums = transition.sum(axis=2)
    terminal = (sums == 0).all(axis=1)
    if not np.isclose(sums[~terminal], 1.0, atol=1e-6).all():
        raise InputError("each transition[s, a] must sum to 1, or a terminal state's all be zero")
