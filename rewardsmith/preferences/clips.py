"""Clips: short stretches of experience, cut so that they never cross the end of an episode."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from .._core import ImageSpec, InputError, TrueReward, stacked


@dataclass(frozen=True)
class Clips:
    """n clips of H steps, each with up to T further steps of the same trajectory behind it.

    The further steps are what estimators of ∇Q need; a comparison is about the first H alone.

    Attributes:
        observations: (n, H + T, *obs). Of images every frame is there once: (n, stack − 1 + H + T, height,
            width, channels) uint8, first those before the first step (the episode's first frame where there
            are none), then one for each step. ``stacked(clips.observations, clips.stack)`` gives the
            observations (n, H + T, height, width, channels·stack).
        actions: (n, H + T, *act), as the learner stores them.
        valid: (n, H + T) bool, false behind the end of the episode or of the record. True on the first H.
        true_reward: (n, H), sealed.
        extras: (n, ...) what else is kept of each clip, by name; of what was recorded a step, (n, H, ...),
            or (n, ...) at the first step.
        stack: frames of one observation; 1 unless observations are images.
    """

    observations: np.ndarray
    actions: np.ndarray
    valid: np.ndarray
    true_reward: TrueReward
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    stack: int = 1


def unstacked(observations: np.ndarray, image: ImageSpec) -> np.ndarray:
    """Frames (n, stack − 1 + L, H, W, channels), each once, of L observations (n, L, *image.shape) in a row.

    The reverse of `stacked`, for experience that was not recorded by `Trajectories`.

    Args:
        observations: (n, L, H, W, channels · stack), the newest frame of a stack last.
        image: how many channels and frames.
    """
    image.check(observations.shape[2:])
    first = observations[:, 0].reshape(-1, image.height, image.width, image.stack, image.channels)
    return np.concatenate([np.moveaxis(first, -2, 1), image.newest(observations[:, 1:])], axis=1)


class Trajectories:
    """The last `capacity` steps of each of N parallel environments, a ring of bounded memory.

    Clips are copied out of it, so none keeps an episode alive.

    Args:
        num_envs: N.
        capacity: steps kept for each environment.
        observation_shape, action_shape: shapes of one.
        observation_dtype, action_dtype: what to store them as.
        extras: what else to record of each step, by name: arrays (N, ...) like those that `append` will get.
        at_start: names of extras of which a clip gets its first step's alone, (n, ...).
        image: what one observation is, where it is one. Its newest frame alone is stored then, as uint8, and
            stack − 1 further frames of each environment, so that the oldest of the steps has its history.
    """

    def __init__(
        self,
        num_envs: int,
        capacity: int,
        observation_shape: tuple[int, ...],
        action_shape: tuple[int, ...],
        observation_dtype: np.typing.DTypeLike = np.float32,
        action_dtype: np.typing.DTypeLike = np.float32,
        extras: Mapping[str, np.ndarray] | None = None,
        image: ImageSpec | None = None,
        at_start: Collection[str] = (),
    ):
        self.capacity, self._image = capacity, image
        self._stack = 1 if image is None else image.stack
        stored, dtype = frames_stored(observation_shape, observation_dtype, image)
        # Steps in the ring; of the oldest few only the frames are used.
        self._ring = ring = capacity + self._stack - 1
        self._observations = np.zeros((ring, num_envs, *stored), dtype)
        self._actions = np.zeros((ring, num_envs, *action_shape), action_dtype)
        self._ended = np.zeros((ring, num_envs), bool)
        self._true_reward = TrueReward(np.zeros((ring, num_envs)))
        self._extras = {
            name: np.zeros((ring, *like.shape), like.dtype) for name, like in (extras or {}).items()
        }
        self._at_start = frozenset(at_start)
        self._steps = 0

    def append(
        self,
        observation: np.ndarray,
        action: np.ndarray,
        ended: np.ndarray,
        true_reward: TrueReward,
        extras: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Record one step of every environment; `ended` (N,) is true where the episode ended with it.

        Args:
            observation: (N, *obs), on which the action was taken.
            action: (N, *act).
            ended: (N,) bool.
            true_reward: (N,), sealed.
            extras: further arrays (N, ...) by name.
        """
        slot = self._steps % self._ring
        for name, array in self._extras.items():
            array[slot] = (extras or {})[name]
        self._observations[slot] = observation if self._image is None else self._image.newest(observation)
        self._actions[slot] = action
        self._ended[slot] = ended
        self._true_reward[slot] = true_reward
        self._steps += 1

    def cut(self) -> None:
        """Mark the last step as the end of every episode: the environments are about to be reset."""
        self._ended[(self._steps - 1) % self._ring] = True

    def sample(
        self, count: int, horizon: int, further: int, rng: np.random.Generator, newest: int | None = None
    ) -> Clips:
        """`count` clips of `horizon` steps, uniform over the places where one fits into an episode.

        Args:
            count: clips drawn.
            horizon: H, steps of each.
            further: T, steps wanted behind each clip; where the episode or the record stops earlier they
                are marked invalid.
            newest: look at no more than so many of the last steps of each environment; None: at all.

        Raises:
            InputError: no episode on record is as long as a clip.
        """
        length = min(self._steps, self.capacity)
        if newest is not None:
            length = min(length, max(newest, horizon))
        # In order of time: row 0 is the oldest step.
        order = (np.arange(length) + self._steps - length) % self._ring
        ended = self._ended[order]
        # ends[t] = number of episode ends before step t, so two steps share an episode iff it is equal.
        ends = np.concatenate([np.zeros((1, ended.shape[1]), int), np.cumsum(ended, axis=0)])
        starts = max(length - horizon + 1, 0)
        whole = ends[:starts] == ends[horizon - 1 : horizon - 1 + starts]
        times, envs = np.nonzero(whole)
        if len(times) == 0:
            raise InputError(
                f"no episode on record lasts {horizon} steps; give a shorter --clip-length or a larger record"
            )
        chosen = rng.integers(len(times), size=count)
        times, envs = times[chosen, None], envs[chosen, None]
        wanted = times + np.arange(horizon + further)
        inside = np.minimum(wanted, length - 1)
        valid = (wanted < length) & (ends[inside, envs] == ends[times, envs])
        rows = order[inside]
        before = self._history(times[:, 0] + self._steps - length, envs[:, 0]) % self._ring
        return Clips(
            observations=self._observations[np.concatenate([before, rows], axis=1), envs],
            actions=self._actions[rows, envs],
            valid=valid,
            true_reward=self._true_reward[rows[:, :horizon], envs],
            extras={
                name: array[rows[:, 0], envs[:, 0]]
                if name in self._at_start
                else array[rows[:, :horizon], envs]
                for name, array in self._extras.items()
            },
            stack=self._stack,
        )

    def draw_steps(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Observations and actions (count, ...) of steps drawn, with replacement, from all on record.

        Args:
            count: steps drawn.
            rng: of the draw.
        """
        held = min(self._steps, self.capacity)
        rows = rng.integers(held, size=count)
        envs = rng.integers(self._observations.shape[1], size=count)
        if self._image is None:
            return self._observations[rows, envs], self._actions[rows, envs]
        steps = rows + self._steps - held
        seen = np.concatenate([self._history(steps, envs), steps[:, None]], axis=1) % self._ring
        observations = stacked(self._observations[seen, envs[:, None]], self._stack)[:, 0]
        return observations, self._actions[seen[:, -1], envs]

    def _history(self, steps: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """(n, stack − 1) the steps before `steps` (n,), both counted from the very first.

        Where the episode has no more, its first step again.
        """
        back = np.arange(1, self._stack)
        earlier = steps[:, None] - back
        same = (earlier >= 0) & ~self._ended[earlier % self._ring, envs[:, None]]
        # Steps since the episode began, as far as a stack reaches.
        age = np.cumprod(same, axis=1).sum(axis=1, keepdims=True)
        return steps[:, None] - np.minimum(back[::-1], age)

    @property
    def true_reward(self) -> TrueReward:
        """(capacity, N), sealed, in the order of the ring; of images (capacity + stack − 1, N)."""
        return self._true_reward

    @property
    def recent_true_reward(self) -> TrueReward:
        """(steps, N), sealed: of the steps on record, in no order."""
        return self._true_reward[: min(self._steps, self._ring)]

    def get_state(self) -> dict[str, np.ndarray]:
        """All it holds but `true_reward`, for a checkpoint."""
        return {
            "observations": self._observations,
            "actions": self._actions,
            "ended": self._ended,
            "steps": np.asarray(self._steps),
            **{f"extra {name}": array for name, array in self._extras.items()},
        }

    def set_state(self, state: dict[str, np.ndarray], true_reward: TrueReward) -> None:
        """Put back what `get_state` and `true_reward` gave, of a record of the same shapes.

        Args:
            state: arrays by name, of the shapes that `get_state` gave.
            true_reward: sealed, of the same steps.
        """
        self._observations[:] = state["observations"]
        self._actions[:] = state["actions"]
        self._ended[:] = state["ended"]
        for name, array in self._extras.items():
            array[:] = state[f"extra {name}"]
        self._true_reward[:] = true_reward
        self._steps = int(np.asarray(state["steps"]))


def frames_stored(
    shape: tuple[int, ...], dtype: np.typing.DTypeLike, image: ImageSpec | None
) -> tuple[tuple[int, ...], np.typing.DTypeLike]:
    """Shape and dtype of what is stored of an observation of `shape`: of an image, one frame."""
    if image is None:
        return shape, dtype
    image.check(shape)
    return image.frame_shape, np.uint8
