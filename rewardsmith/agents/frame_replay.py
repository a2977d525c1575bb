"""Replay memory of images, on the host: a frame is stored once, observations are put together when drawn."""

import math
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from .._core import InputError
from .._core.image import ImageSpec
from .replay import Transition

_FILE = "replay-frames.bin"
_ARRAYS = ("frames", "actions", "terminated", "starts", "age", "written", "open")


class FrameReplay:
    """The last steps of N parallel environments whose observations are stacks of frames.

    Each environment has a ring of R = ⌊capacity / N⌋ rows, the oldest overwritten first. A row is one frame
    and what was done on seeing it; the frame that a step led to is the next row. So the final frame of an
    episode, which is acted on by nobody, and the newest frame of each environment have a row too.

    How many transitions that is: an episode of T steps takes T + 1 rows, and the first stack − 1 frames of
    an episode whose beginning was overwritten are history only. A full replay draws from at least
    N·R − (episodes on record) − N·(stack − 1) transitions, every one with its whole history.

    A row takes height · width · channels bytes for the frame and some 15 for the rest: 10⁶ rows of 84 × 84
    grey frames are 6.6 GiB, whatever the stack (52.6 GiB if both observations of each were stored).

    Args:
        capacity: rows in all.
        num_envs: N.
        image: what one observation is.
        action_shape: of one action; ``()`` where actions are discrete.
        action_dtype: what to store actions as.
        with_true_reward: keep a column of true rewards; only the ceiling, SAC on the true reward, has one.
        folder: where to keep the frames in a memory-mapped file, ``replay-frames.bin``, instead of in memory.
            It is made anew, whatever was there: a stopped run goes on from its checkpoint, not from this.

    Attributes:
        capacity: N·R.

    Raises:
        InputError: too little room for one stack, or a file that cannot be made.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        image: ImageSpec,
        action_shape: tuple[int, ...],
        action_dtype: np.typing.DTypeLike,
        *,
        with_true_reward: bool = False,
        folder: Path | None = None,
    ):
        if num_envs < 1:
            raise InputError(f"num_envs is {num_envs}: choose 1 or more")
        rows = capacity // num_envs
        # The newest step can always be drawn then: its history, itself and what it led to.
        if rows < image.stack + 1:
            raise InputError(
                f"a replay of {capacity} rows is too small for {num_envs} environments and stacks of "
                f"{image.stack} frames: give {num_envs * (image.stack + 1)} or more"
            )
        self.image, self.capacity, self._rows = image, num_envs * rows, rows
        shape = (num_envs, rows)
        self._frames = _frames((*shape, *image.frame_shape), folder)
        self._on_disk = folder is not None
        self._actions = np.zeros((*shape, *action_shape), action_dtype)
        self._terminated = np.zeros(shape, bool)
        self._true_reward = np.zeros(shape, np.float32) if with_true_reward else None
        # Whether a transition starts at this row.
        self._starts = np.zeros(shape, bool)
        # Earlier frames of the same episode, no more than a stack can hold.
        self._age = np.zeros(shape, np.int32)
        self._written = np.zeros(num_envs, np.int64)
        # Whether the newest row is what the next step will be taken on.
        self._open = np.zeros(num_envs, bool)

    def add(
        self,
        observation: np.ndarray,
        action: np.ndarray,
        next_observation: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        true_reward: np.ndarray | None = None,
    ) -> None:
        """Store one step of every environment.

        Args:
            observation: (N, H, W, channels·stack) uint8, what was acted on: the last `next_observation`, or
                an episode's first, where the first frame fills the whole stack.
            action: (N, *action_shape).
            next_observation: of the shape of `observation`; the final one where the episode ended.
            terminated, truncated: (N,) bool.
            true_reward: (N,), if and only if there is a column for it.

        Raises:
            InputError: not such images, or a stack that does not continue the last one.
        """
        frames, following = self._newest(observation), self._newest(next_observation)
        if (true_reward is None) != (self._true_reward is None):
            raise InputError("pass true_reward to a replay made with_true_reward=True, and to no other")
        envs, begun = np.arange(len(self._written)), ~self._open
        slots = (self._written - 1) % self._rows
        self._check_history(observation, frames, self._frames[envs, slots], begun)
        self._write(envs[begun], frames[begun], np.zeros(begun.sum(), np.int32))
        slots = (self._written - 1) % self._rows
        self._starts[envs, slots] = True
        self._actions[envs, slots] = action
        self._terminated[envs, slots] = terminated
        if self._true_reward is not None:
            self._true_reward[envs, slots] = true_reward
        self._write(envs, following, np.minimum(self._age[envs, slots] + 1, self.image.stack - 1))
        self._open = ~(terminated | truncated)

    def cut(self) -> None:
        """The environments are about to be reset: what comes next does not follow from the last step."""
        self._open[:] = False

    def draw(self, shape: int | tuple[int, ...], rng: np.random.Generator) -> Transition:
        """Transitions drawn uniformly with replacement, on the device.

        Args:
            shape: leading axes.
            rng: all randomness.

        Returns:
            Observations (*shape, H, W, channels·stack) uint8, actions (*shape, *action_shape).

        Raises:
            InputError: nothing stored yet.
        """
        shape = (shape,) if isinstance(shape, int) else shape
        envs, rows = self._drawn(math.prod(shape), rng)
        slots = rows % self._rows
        # −1 is the frame the step led to.
        back = np.arange(self.image.stack - 1, -2, -1)
        wanted = rows[:, None] - np.minimum(back, self._age[envs, slots][:, None])

        def shaped(array: np.ndarray) -> np.ndarray:
            return array.reshape(*shape, *array.shape[1:])

        frames = shaped(self._frames[envs[:, None], wanted % self._rows])
        observation, next_observation = _put_together(frames)
        return Transition(
            observation=observation,
            action=jnp.asarray(shaped(self._actions[envs, slots])),
            next_observation=next_observation,
            terminated=jnp.asarray(shaped(self._terminated[envs, slots])),
            true_reward=None
            if self._true_reward is None
            else jnp.asarray(shaped(self._true_reward[envs, slots])),
        )

    @property
    def size(self) -> int:
        """Number of transitions that can be drawn."""
        # Only the oldest rows can have lost some of their history.
        oldest = np.arange(self.image.stack - 1)
        first = np.maximum(self._written - self._rows, 0)[:, None]
        places = np.arange(len(self._written))[:, None], (first + oldest) % self._rows
        lost = self._starts[places] & (oldest < self._age[places])
        return int(np.count_nonzero(self._starts) - np.count_nonzero(lost))

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays when full, in memory or on disk."""
        return sum(array.nbytes for array in self.get_state().values())

    def get_state(self) -> dict[str, np.ndarray]:
        """All it holds, for a checkpoint: the arrays themselves, not copies."""
        names = _ARRAYS if self._true_reward is None else (*_ARRAYS, "true_reward")
        return {name: getattr(self, "_" + name) for name in names}

    def set_state(self, state: dict[str, np.ndarray], *, adopt: bool = False) -> None:
        """Put back what `get_state` gave, of a replay of the same settings.

        Args:
            state: what `get_state` gave, of the same shapes.
            adopt: keep the arrays themselves where they are meant to lie in memory, instead of copies, so
                that no second replay is needed while it is read back. Nobody else may use them then.

        Raises:
            InputError: the arrays do not fit.
        """
        mine = self.get_state()
        found, needed = ({name: np.shape(array) for name, array in of.items()} for of in (state, mine))
        if found != needed:
            raise InputError(f"the stored replay does not fit: it holds {found}, needed is {needed}")
        for name, array in mine.items():
            if adopt and not (name == "frames" and self._on_disk):
                setattr(self, "_" + name, np.require(state[name], array.dtype, ("C", "W")))
            else:
                array[:] = state[name]

    def _newest(self, observation: np.ndarray) -> np.ndarray:
        self.image.check(observation.shape[1:])
        if observation.dtype != np.uint8:
            raise InputError(f"images are stored as uint8, not {observation.dtype}: pass the raw pixels")
        return self.image.newest(observation)

    def _check_history(
        self, observation: np.ndarray, frames: np.ndarray, last: np.ndarray, begun: np.ndarray
    ) -> None:
        """What is drawn later is put together from single frames: these must be what `observation` has."""
        if not np.array_equal(frames[~begun], last[~begun]):
            raise InputError("an observation does not follow the last step: call cut() before a reset")
        first = observation[begun]
        if not np.array_equal(first, np.tile(frames[begun], self.image.stack)):
            raise InputError(
                "the first observation of an episode has other frames before its own: fill the stack with "
                'the first frame (Gymnasium: FrameStackObservation(padding_type="reset"))'
            )

    def _write(self, envs: np.ndarray, frames: np.ndarray, age: np.ndarray) -> None:
        """A new row for each of `envs`, from which no transition starts so far."""
        slots = self._written[envs] % self._rows
        self._frames[envs, slots] = frames
        self._age[envs, slots] = age
        self._starts[envs, slots] = False
        self._written[envs] += 1

    def _drawn(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Environments and rows (count,), numbered from the first ever written, where transitions start."""
        if not self.size:
            raise InputError("the replay is empty: add steps before drawing from it")
        held = np.minimum(self._written, self._rows)
        ends = np.cumsum(held)
        envs, rows, missing = [], [], count
        # Almost all rows will do, so to try again costs less than to list those that do.
        while missing:
            index = rng.integers(ends[-1], size=missing)
            env = np.searchsorted(ends, index, side="right")
            oldest = (self._written - held)[env]
            row = oldest + index - (ends - held)[env]
            slot = row % self._rows
            good = self._starts[env, slot] & (row - self._age[env, slot] >= oldest)
            envs.append(env[good])
            rows.append(row[good])
            missing -= int(good.sum())
        return np.concatenate([*envs, np.zeros(0, int)]), np.concatenate([*rows, np.zeros(0, int)])


@jax.jit
def _put_together(
    frames: UInt8[Array | np.ndarray, "*n k_plus_1 h w c"],
) -> tuple[UInt8[Array, "*n h w k_c"], UInt8[Array, "*n h w k_c"]]:
    """The stack of the first K frames and that of the last K."""
    # On the device: NumPy takes ten times as long to put so small pieces in order.
    channels = frames.shape[-1]
    apart = jnp.moveaxis(frames, -4, -2)
    side_by_side = apart.reshape(*apart.shape[:-2], -1)
    return side_by_side[..., :-channels], side_by_side[..., channels:]


def _frames(shape: tuple[int, ...], folder: Path | None) -> np.ndarray:
    """Zeros (uint8), in memory or in a file of `folder`."""
    if folder is None:
        return np.zeros(shape, np.uint8)
    path, size = folder / _FILE, math.prod(shape)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Whoever has the old one mapped keeps it.
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            # A disk that fills up under a memory map kills the process: take the room now.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        return np.asarray(np.memmap(path, np.uint8, "r+", shape=shape))
    except OSError as error:
        raise InputError(
            f"cannot keep the replay in {path} ({error.strerror}): it takes {size / 2**30:.1f} GiB; "
            "give another folder or a smaller replay"
        ) from error
