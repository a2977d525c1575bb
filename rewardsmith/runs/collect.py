"""What a run collects for its leader: trajectories, comparisons, clips of the policy of now, branches."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from .._core import InputError, TrueReward, TrueRewardReader
from ..bilevel import Needs
from ..envs import VectorEnv, fork, make
from ..preferences import Clips, ComparisonQueue, Teacher, Trajectories, comparisons_due
from .config import TrainConfig

# Copies of the environment that play roll-outs from saved states, many at a time.
_FORKS = 64
# What the simulator's states are called among the extras of a record.
_STATE = "state "

ActInStreams = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def check_roll_outs(config: TrainConfig, needs: Needs, env: VectorEnv) -> None:
    """`InputError` unless the roll-outs that `needs` and fresh clips take can be played in `env`."""
    fresh = config.clip_length + needs.further if config.clips == "fresh" else 0
    if not (fresh or needs.branches):
        return
    if not env.restorable:
        raise InputError(
            f"{config.env} cannot be restored to a saved state: give --clips queue or weighted, and "
            "--estimator suffix"
        )
    limit = env.spec.max_episode_steps
    if limit is not None and fresh > limit:
        raise InputError(
            f"fresh clips of {config.clip_length} steps and {needs.further} behind them, but episodes last "
            f"{limit}: give a shorter --suffix-length"
        )
    if limit is not None and needs.branch_length > limit:
        raise InputError(
            f"--branch-length is {needs.branch_length} but episodes last {limit} steps: give a shorter one"
        )


class Collector:
    """The records of a run on the host, one of each policy, and the queue of answered comparisons.

    Args:
        config: settings.
        needs: what the leader wants of each clip.
        env: the environments of the run, started.
    """

    def __init__(self, config: TrainConfig, needs: Needs, env: VectorEnv):
        self.config, self.needs = config, needs
        spec = env.spec
        shapes = (spec.observation_shape, spec.action_shape)
        self.envs_each = config.num_envs // needs.policies
        self._keeps_states = bool(needs.branches) or config.clips == "fresh"
        extras = {}
        if needs.log_prob:
            extras["log_prob"] = np.zeros(self.envs_each, np.float32)
        if self._keeps_states:
            states = env.get_state().items()
            extras |= {_STATE + name: array[: self.envs_each] for name, array in states}
        # Room for one episode of each environment, or the stretch between two sessions if longer.
        self.window = max(1, config.leader_every // config.num_envs)
        wanted = max(spec.max_episode_steps or 1000, self.window)
        room = max(wanted, config.clip_length + needs.further)
        self.records = [
            Trajectories(self.envs_each, room, *shapes, extras=extras) for _ in range(needs.policies)
        ]
        self.queue = ComparisonQueue(
            config.queue, config.clip_length, needs.further, *shapes, extras=self._kept(shapes)
        )
        self.asked, self.extra_steps = 0, 0
        self._forks = make(config.env, _FORKS, config.backend) if self._keeps_states else None  # pyright: ignore

    def _kept(self, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> dict[str, np.ndarray]:
        kept, needs = {}, self.needs
        if needs.log_prob:
            kept["log_prob"] = np.zeros(self.config.clip_length, np.float32)
        if needs.branches:
            rolled = (needs.branches, 2, needs.branch_length)
            kept["branch_step"] = np.zeros(needs.branches, np.int32)
            kept["branch_observations"] = np.zeros((*rolled, *shapes[0]), np.float32)
            kept["branch_actions"] = np.zeros((*rolled, *shapes[1]), np.float32)
            kept["branch_valid"] = np.zeros(rolled, bool)
        return kept

    def before(self, env: VectorEnv) -> dict[str, np.ndarray]:
        """What must be read of the environments before they step."""
        if not self._keeps_states:
            return {}
        return {_STATE + name: array for name, array in env.get_state().items()}

    def append(
        self,
        observation: np.ndarray,
        action: np.ndarray,
        ended: np.ndarray,
        true_reward: TrueReward,
        extras: dict[str, np.ndarray],
    ) -> None:
        """Record one step of all environments, each policy's in its own record."""
        for which, record in enumerate(self.records):
            own = slice(which * self.envs_each, (which + 1) * self.envs_each)
            record.append(
                observation[own],
                action[own],
                ended[own],
                true_reward[own],
                {name: array[own] for name, array in extras.items()},
            )

    def cut(self) -> None:
        """Mark the last step as the end of every episode: the environments are about to be reset."""
        for record in self.records:
            record.cut()

    def due(self, step: int) -> int:
        """How many comparisons to ask for now."""
        config = self.config
        last_session = config.steps // config.leader_every * config.leader_every
        return comparisons_due(step, last_session, config.comparisons) - self.queue.total

    def ask(
        self,
        due: int,
        step: int,
        teacher: Teacher,
        act: ActInStreams,
        rng: np.random.Generator,
        *,
        fresh: bool,
    ) -> tuple[Clips, Clips, np.ndarray]:
        """Pairs of clips with the teacher's answers, put into the queue.

        Args:
            due: how many.
            step: environment steps by now.
            teacher: answers.
            act: the policy of now, for fresh clips and for branches.
            rng: all randomness on the host.
            fresh: draw clips of the policy of now, instead of from the record.
        """
        clips = self._fresh(2 * due, act, rng) if fresh else self._recorded(2 * due, rng)
        if self.needs.branches:
            clips = self._branched(clips, act, rng)
        pairs = len(clips.valid) // 2
        first, second = _rows(clips, slice(0, pairs)), _rows(clips, slice(pairs, 2 * pairs))
        label = teacher.answer(first.true_reward, second.true_reward, rng)
        before = self.queue.total
        self.queue.append(first, second, label, step)
        self.asked = max(1, self.queue.total - before)
        return first, second, label

    def recent(self) -> int:
        """How many of the newest comparisons stand for the policy of now."""
        if self.config.clips == "fresh":
            # Late sessions ask for one or two; so few would be one another's baseline.
            return max(self.asked, self.config.recent_batch_size)
        return self.config.recent

    def draw_steps(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Observations and actions (policies, count, ...) from each policy's own record."""
        drawn = [record.draw_steps(count, rng) for record in self.records]
        return np.stack([pair[0] for pair in drawn]), np.stack([pair[1] for pair in drawn])

    def _recorded(self, count: int, rng: np.random.Generator) -> Clips:
        return self.records[0].sample(count, self.config.clip_length, self.needs.further, rng)

    def _fresh(self, count: int, act: ActInStreams, rng: np.random.Generator) -> Clips:
        assert self._forks is not None
        horizon = self.config.clip_length
        # Some may end too early to be clips.
        spare = count // 4 if self._forks.spec.can_terminate is not False else 0
        begun = self.records[0].sample(count + spare, horizon, 0, rng, newest=self.window)
        played = fork(
            self._forks,
            {
                name.removeprefix("state "): array[:, 0]
                for name, array in begun.extras.items()
                if "state" in name
            },
            act,
            horizon + self.needs.further,
            int(rng.integers(2**31)),
            keep_states=bool(self.needs.branches),
        )
        self.extra_steps += played.steps
        whole = np.flatnonzero(played.valid[:, :horizon].all(axis=1))[:count]
        return Clips(
            played.observations[whole].astype(np.float32),
            played.actions[whole],
            played.valid[whole],
            played.true_reward[whole][:, :horizon],
            {_STATE + name: array[whole, :horizon] for name, array in played.states.items()},
        )

    def _branched(self, clips: Clips, act: ActInStreams, rng: np.random.Generator) -> Clips:
        """`clips` with two roll-outs from each of M of their steps."""
        assert self._forks is not None
        needs, (count, horizon) = self.needs, (len(clips.valid), self.config.clip_length)
        steps = rng.integers(horizon, size=(count, needs.branches))
        chosen = (np.repeat(np.arange(count), needs.branches), steps.ravel())
        observation, taken = clips.observations[chosen], clips.actions[chosen]
        streams = np.arange(len(taken))
        fresh = act(observation, streams, -1)
        played = fork(
            self._forks,
            {name: np.repeat(array[chosen], 2, axis=0) for name, array in _states(clips).items()},
            act,
            needs.branch_length,
            int(rng.integers(2**31)),
            first_action=np.stack([taken, fresh], axis=1).reshape(-1, *taken.shape[1:]),
            streams=np.repeat(streams, 2),
        )
        self.extra_steps += played.steps
        shape = (count, needs.branches, 2)
        found = {
            "branch_step": steps.astype(np.int32),
            "branch_observations": played.observations.astype(np.float32),
            "branch_actions": played.actions,
            "branch_valid": played.valid,
        }
        found |= {
            name: array.reshape(*shape, *array.shape[1:])
            for name, array in found.items()
            if name != "branch_step"
        }
        return dataclasses.replace(clips, extras=clips.extras | found)

    # ---- stop and go on -------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """All it holds, for a checkpoint."""
        return {
            "records": [
                record.get_state() | {"true_reward": record.true_reward.reveal(TrueRewardReader.CHECKPOINT)}
                for record in self.records
            ],
            "queue": self.queue.get_state(),
            "asked": np.asarray(self.asked),
            "extra_steps": np.asarray(self.extra_steps),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_state` gave."""
        for record, stored in zip(self.records, state["records"], strict=True):
            record.set_state(stored, TrueReward(stored["true_reward"]))
        self.queue.set_state(state["queue"])
        self.asked, self.extra_steps = int(state["asked"]), int(state["extra_steps"])

    def close(self) -> None:
        """Release the environments."""
        if self._forks is not None:
            self._forks.close()


def _states(clips: Clips) -> dict[str, np.ndarray]:
    """The simulator's states, (n, H, ...) by name."""
    return {
        name.removeprefix(_STATE): array for name, array in clips.extras.items() if name.startswith(_STATE)
    }


def _rows(clips: Clips, rows: slice) -> Clips:
    return Clips(
        clips.observations[rows],
        clips.actions[rows],
        clips.valid[rows],
        clips.true_reward[rows],
        {name: array[rows] for name, array in clips.extras.items()},
    )
