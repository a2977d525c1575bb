"""The interface every vectorised world has, and the facts of a task that a learner needs."""

import abc
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .._core import ImageSpec, InputError, TrueReward


@dataclass(frozen=True, eq=False)
class EnvSpec:
    """What a learner must know of one environment before it acts.

    Attributes:
        env_id: name it was made by.
        observation_shape: shape of one observation; ``()`` where it is a state index.
        observation_dtype: the environment's own dtype.
        action_shape: shape of one action; ``()`` where actions are discrete.
        action_low: least action (float32, `action_shape`), in the environment's units; None if discrete.
        action_high: greatest action, of the same shape.
        num_actions: number of discrete actions ``0 .. num_actions - 1``; None if continuous.
        max_episode_steps: an episode is truncated after this many steps; None: never.
        can_terminate: False: known never to terminate, so episodes end by the time limit alone; True: it
            can, and then the length of an episode tells of the true reward; None: unknown.
        image: observations are pictures of this shape and layout; None: they are not.
    """

    env_id: str
    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype
    action_shape: tuple[int, ...]
    action_low: np.ndarray | None
    action_high: np.ndarray | None
    num_actions: int | None
    max_episode_steps: int | None
    can_terminate: bool | None
    image: ImageSpec | None = None

    def from_unit(self, action: Any) -> np.ndarray:
        """Map actions from [-1, 1] to [low, high]: low + (a + 1)(high - low)/2, as float32.

        Args:
            action: array of any leading shape, then `action_shape`. Values beyond ±1 are cut off.

        Raises:
            InputError: the actions are discrete.
        """
        if self.action_low is None or self.action_high is None:
            raise InputError(f"{self.env_id} has discrete actions: pass their indices, not from_unit")
        centre = 0.5 * (self.action_high + self.action_low)
        half_range = 0.5 * (self.action_high - self.action_low)
        unit = np.asarray(action, np.float32)
        return np.clip(centre + half_range * unit, self.action_low, self.action_high)

    def from_policy(self, action: Any) -> np.ndarray:
        """A policy's actions, in [−1, 1] or indices, in the environment's own units; of the same shape."""
        return self.from_unit(action) if self.num_actions is None else np.asarray(action)

    def checked_actions(self, action: Any, num_envs: int) -> np.ndarray:
        """`action` as float32 (int64 if discrete), shape ``(num_envs, *action_shape)``, or an InputError."""
        actions = np.asarray(action)
        wanted = (num_envs, *self.action_shape)
        if actions.shape != wanted:
            raise InputError(f"{self.env_id}: actions have shape {actions.shape}, pass {wanted}")
        if self.num_actions is None:
            actions = actions.astype(np.float32)
            if not np.isfinite(actions).all():
                raise InputError(f"{self.env_id}: an action is not finite; the policy has diverged")
            return actions
        if actions.dtype.kind not in "iu":
            raise InputError(f"{self.env_id}: actions have dtype {actions.dtype}, pass integer indices")
        if actions.min() < 0 or actions.max() >= self.num_actions:
            raise InputError(f"{self.env_id}: actions must lie in 0 .. {self.num_actions - 1}")
        return actions.astype(np.int64)


class StepResult(NamedTuple):
    """What one step of N environments led to. `terminated` and `truncated` are never both true.

    Attributes:
        observation: (N, *obs) what to act on next: the first observation of the NEW episode where one ended.
        next_observation: (N, *obs) what this step led to; the final observation where an episode ended.
        reward: (N,) the true reward, sealed.
        terminated: (N,) bool; the episode came to its own end: nothing follows, no bootstrap.
        truncated: (N,) bool; the episode was cut by the time limit: bootstrap from `next_observation`.
    """

    observation: np.ndarray
    next_observation: np.ndarray
    reward: TrueReward
    terminated: np.ndarray
    truncated: np.ndarray


class VectorEnv(abc.ABC):
    """N copies of one environment, stepped together, each restarted within the step that ends its episode.

    Environment i draws all its randomness from a stream that depends on (seed, i) alone: neither N nor
    what the others do changes it.

    Attributes:
        spec: facts of one environment.
        num_envs: N.
        restorable: whether `get_state` and `set_state` work.
    """

    spec: EnvSpec
    num_envs: int
    restorable: bool

    @abc.abstractmethod
    def reset(self, seed: int) -> np.ndarray:
        """Seed everything and start a new episode everywhere; returns the observations (N, *obs).

        Args:
            seed: all randomness of every environment follows from it.
        """

    @abc.abstractmethod
    def step(self, action: np.ndarray) -> StepResult:
        """Act once everywhere.

        Args:
            action: (N, *action_shape), in the environment's own units.

        Raises:
            InputError: wrong shape or dtype, an action that is not finite, or `reset` was never called.
        """

    @abc.abstractmethod
    def get_state(self) -> dict[str, np.ndarray]:
        """Copies of all that is needed to go on bit for bit: physics, elapsed steps, random streams.

        Every array has leading axis N, so states can be picked, repeated and joined by row: to branch K
        times from environment i, ``{name: np.repeat(a[i : i + 1], K, axis=0)}``. Row ``"rng"`` is all the
        randomness there is: branches that must differ by chance need rows of their own there.

        Raises:
            InputError: the environment is not restorable, or `reset` was never called.
        """

    @abc.abstractmethod
    def set_state(self, state: dict[str, np.ndarray]) -> np.ndarray:
        """Put back what `get_state` returned; returns the observations (N, *obs) to act on.

        Args:
            state: arrays by name, each with leading axis N.

        Raises:
            InputError: not restorable, or the arrays do not fit this environment.
        """

    def streams(self, seed: int) -> np.ndarray:
        """Fresh randomness for each environment: what the row "rng" of `get_state` may be replaced by.

        Rows (N, ...) that depend on (seed, i) alone. May reset the environments: what they did is lost.

        Raises:
            InputError: the environment is not restorable.
        """
        self.reset(seed)
        return self.get_state()["rng"]

    @abc.abstractmethod
    def close(self) -> None:
        """Release what the environments hold; harmless to call twice."""


def env_seeds(seed: int, num_envs: int) -> np.ndarray:
    """One seed (uint64) for each environment; the i-th depends on (seed, i) only, not on `num_envs`."""
    if seed < 0:
        raise InputError(f"seed {seed} is negative: choose 0 or more")
    return np.random.SeedSequence(seed).generate_state(num_envs, np.uint64)


def check_num_envs(num_envs: int) -> None:
    """Raise InputError unless there is at least one environment."""
    if num_envs < 1:
        raise InputError(f"num_envs is {num_envs}: choose 1 or more")


def not_started(env_id: str) -> InputError:
    """The error for using an environment before its first `reset`."""
    return InputError(f"{env_id} has not been started: call reset(seed) first")


def check_state(env_id: str, state: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise InputError unless `state` has exactly the arrays of `shapes`."""
    found = {name: np.shape(array) for name, array in state.items()}
    if found != shapes:
        raise InputError(f"the stored state does not fit {env_id}: it holds {found}, needed is {shapes}")


def out_of_time(spec: EnvSpec, elapsed: np.ndarray) -> np.ndarray:
    """(N,) whether the time limit has been reached after `elapsed` steps; never where there is none."""
    limit = spec.max_episode_steps
    return np.zeros(len(elapsed), bool) if limit is None else elapsed >= limit


def put_back(env_id: str, arrays: dict[str, np.ndarray], state: dict[str, np.ndarray]) -> None:
    """Write `state` into the living `arrays` of an environment, all of them or, if they do not fit, none."""
    check_state(env_id, state, {name: array.shape for name, array in arrays.items()})
    for name, array in arrays.items():
        array[:] = state[name]
