"""The replay of a run, as the training loop uses it: vectors on the device, pictures on the host."""

import abc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from .._core import ImageSpec
from ..agents import FrameReplay, Replay, SACState, SACStats, Transition
from ..bilevel import LeaderState
from .config import TrainConfig
from .exploration import Exploration

if TYPE_CHECKING:
    from .experiment import Experiment

Followers = tuple[SACState, ...]
Keys = Key[Array, "*lanes"]
"""One, or one of each run side by side."""


class Memory(abc.ABC):
    """Where the run's transitions are kept and drawn from."""

    @abc.abstractmethod
    def add(self, transitions: Transition, truncated: np.ndarray) -> None:
        """Store one step of all environments."""

    @abc.abstractmethod
    def learn(
        self,
        followers: Followers,
        leader: LeaderState | None,
        transitions: Transition,
        truncated: np.ndarray,
        key: Keys,
        rng: np.random.Generator,
    ) -> tuple[Followers, SACStats]:
        """Store one step of all environments, then update each policy for its reward of now."""

    def explore(self, followers: Followers, transitions: Transition, key: Keys) -> tuple[Followers, SACStats]:
        """Store one step of all environments, then update the policy for the reward of exploring."""
        del followers, transitions, key
        raise NotImplementedError("pebble is for vectors; checked before a run")

    @abc.abstractmethod
    def pool(self, count: int, rng: np.random.Generator) -> Replay:
        """Transitions to draw from inside a compiled program: all, or `count` drawn."""

    @abc.abstractmethod
    def snapshot(
        self, follower: SACState, leader: LeaderState | None, key: Keys, rng: np.random.Generator
    ) -> Any:
        """KL (nats) of the policy to one that learns on from here for the same reward."""

    @abc.abstractmethod
    def cut(self) -> None:
        """The environments are about to be reset in the middle of their episodes."""

    @abc.abstractmethod
    def get_state(self) -> Any:
        """All it holds, for a checkpoint."""

    @abc.abstractmethod
    def set_state(self, state: Any) -> None:
        """Put back what `get_state` gave."""


class DeviceMemory(Memory):
    """Vectors: a ring on the device, drawn from inside the compiled update.

    Args:
        experiment: its programs.
        replay: empty.
    """

    def __init__(self, experiment: "Experiment", replay: Replay):
        self.experiment, self.replay = experiment, replay
        self._exploration = Exploration(experiment.sac, experiment.config, experiment.lanes)

    def add(self, transitions: Transition, truncated: np.ndarray) -> None:
        """See `Memory.add`."""
        del truncated
        self.replay = self.experiment.store(self.replay, transitions)

    def learn(
        self,
        followers: Followers,
        leader: LeaderState | None,
        transitions: Transition,
        truncated: np.ndarray,
        key: Keys,
        rng: np.random.Generator,
    ) -> tuple[Followers, SACStats]:
        """See `Memory.learn`."""
        del truncated, rng
        followers, self.replay, stats = self.experiment.learn(
            followers, self.replay, leader, transitions, key
        )
        return followers, stats

    def explore(self, followers: Followers, transitions: Transition, key: Keys) -> tuple[Followers, SACStats]:
        """See `Memory.explore`."""
        followers, self.replay, stats = self._exploration.learn(followers, self.replay, transitions, key)
        return followers, stats

    def pool(self, count: int, rng: np.random.Generator) -> Replay:
        """See `Memory.pool`."""
        del count, rng
        return self.replay

    def snapshot(
        self, follower: SACState, leader: LeaderState | None, key: Keys, rng: np.random.Generator
    ) -> Any:
        """See `Memory.snapshot`."""
        del rng
        return self.experiment.snapshot(follower, self.replay, leader, key)

    def cut(self) -> None:
        """See `Memory.cut`: nothing to do where both observations are kept."""

    def get_state(self) -> Any:
        """See `Memory.get_state`."""
        return self.replay

    def set_state(self, state: Any) -> None:
        """See `Memory.set_state`."""
        self.replay = state


class FrameMemory(Memory):
    """Pictures: frames stored once on the host, batches drawn there and handed to the compiled update.

    Args:
        experiment: its programs.
        config: settings.
        image: what observations look like.
        folder: where the frames lie if not in memory; None: in memory.
    """

    def __init__(self, experiment: "Experiment", config: TrainConfig, image: ImageSpec, folder: Path | None):
        self.experiment, self.config = experiment, config
        spec = experiment.spec
        self.frames = FrameReplay(
            # Each episode's end takes a row of its own, and so does the step that is not done.
            max(min(config.replay, config.steps), config.batch_size) + (image.stack + 2) * config.num_envs,
            config.num_envs,
            image,
            spec.action_shape,
            np.float32 if spec.num_actions is None else np.int32,
            with_true_reward=not config.learns_reward,
            folder=folder,
        )

    def add(self, transitions: Transition, truncated: np.ndarray) -> None:
        """See `Memory.add`."""
        rewards = transitions.true_reward
        self.frames.add(
            np.asarray(transitions.observation),
            np.asarray(transitions.action),
            np.asarray(transitions.next_observation),
            np.asarray(transitions.terminated),
            truncated,
            None if rewards is None else np.asarray(rewards),
        )

    def learn(
        self,
        followers: Followers,
        leader: LeaderState | None,
        transitions: Transition,
        truncated: np.ndarray,
        key: Keys,
        rng: np.random.Generator,
    ) -> tuple[Followers, SACStats]:
        """See `Memory.learn`."""
        self.add(transitions, truncated)
        shape = (len(followers), self.config.updates_per_iteration, self.config.batch_size)
        return self.experiment.improve(followers, self.frames.draw(shape, rng), leader, key)

    def pool(self, count: int, rng: np.random.Generator) -> Replay:
        """See `Memory.pool`."""
        drawn = jax.tree.map(jnp.asarray, self.frames.draw(count, rng))
        return Replay(drawn, jnp.zeros((), jnp.int32), jnp.asarray(count, jnp.int32))

    def snapshot(
        self, follower: SACState, leader: LeaderState | None, key: Keys, rng: np.random.Generator
    ) -> Any:
        """See `Memory.snapshot`."""
        shape = (1, self.config.updates_per_iteration, self.config.batch_size)
        longer = (jax.tree.map(jnp.copy, follower),)
        for index in range(-(-self.config.snapshot_updates // shape[1])):
            own_key = jax.random.fold_in(key, index)
            longer, _ = self.experiment.improve(longer, self.frames.draw(shape, rng), leader, own_key)
        states = self.frames.draw(self.experiment.judged_states, rng).observation
        return self.experiment.divergence(follower.policy, longer[0].policy, states, key)

    def cut(self) -> None:
        """See `Memory.cut`."""
        self.frames.cut()

    def get_state(self) -> Any:
        """See `Memory.get_state`."""
        return self.frames.get_state()

    def set_state(self, state: Any) -> None:
        """See `Memory.set_state`."""
        # Not copied: two of the largest would not fit beside one another.
        self.frames.set_state(state, adopt=True)


def make_memory(experiment: "Experiment", folder: Path) -> Memory:
    """The memory of a run whose files are in `folder`."""
    image, config = experiment.spec.image, experiment.config
    if image is None:
        empty = [experiment.empty_replay() for _ in range(experiment.lanes.count)]
        return DeviceMemory(experiment, experiment.lanes.stack(empty))
    return FrameMemory(experiment, config, image, folder if config.replay_on_disk else None)
