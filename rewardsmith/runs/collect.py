"""What a run collects for its leader: trajectories, comparisons, clips of the policy of now, branches."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .._core import InputError, TrueReward, TrueRewardReader, stacked
from ..bilevel import Needs
from ..envs import VectorEnv, fork, fork_pairs
from ..envs.options import is_native
from ..preferences import Clips, ComparisonQueue, Teacher, Trajectories, comparisons_due, unstacked
from .config import TrainConfig
from .parts import make_env

# Copies of the environment that play roll-outs from saved states, many at a time.
_FORKS = 64
_CLIPS_OF_PICTURES = 10
_CANDIDATE_PICTURES = 512
# What the simulator's states are called among the extras of a record; those at the start of a clip, among
# the comparisons.
_STATE, START = "state ", "start "

ActInStreams = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
# (count, first clips, second clips) -> which pairs.
Choose = Callable[[int, Clips, Clips], np.ndarray]


def check_roll_outs(config: TrainConfig, needs: Needs, env: VectorEnv) -> None:
    """`InputError` unless the roll-outs that `needs` and fresh clips take can be played in `env`."""
    fresh = config.clip_length + needs.further if config.clips == "fresh" else 0
    if config.films and is_native(config.env):
        raise InputError(f"{config.env} has no pictures of clips: leave out --film-clips and --teacher human")
    if config.films and not env.restorable:
        what = "--film-clips" if config.film_clips else "--teacher human"
        raise InputError(
            f"{config.env} cannot be restored to a saved state, and its clips not be filmed: leave out {what}"
        )
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
        shapes, image = (spec.observation_shape, spec.action_shape), spec.image
        kinds = (np.uint8 if image else np.float32, np.float32 if spec.num_actions is None else np.int32)
        self.envs_each = config.num_envs // needs.policies
        rolls_out = bool(needs.branches) or config.clips == "fresh"
        self.keeps_states = rolls_out or config.films
        extras = {}
        if needs.log_prob:
            extras["log_prob"] = np.zeros(self.envs_each, np.float32)
        if self.keeps_states:
            states = env.get_state().items()
            extras |= {_STATE + name: array[: self.envs_each] for name, array in states}
        # Roll-outs may start at any step of a clip for branches, else at the first: a game's state is large.
        at_start = () if needs.branches else [name for name in extras if name.startswith(_STATE)]
        # Room for one episode of each environment, or the stretch between two sessions if longer. Where
        # episodes last for tens of thousands of pictures: that stretch, the random steps, or some clips.
        self.window = max(1, config.leader_every // config.num_envs)
        episode = spec.max_episode_steps or 1000
        if image is not None:
            episode = max(config.random_steps // config.num_envs + 1, _CLIPS_OF_PICTURES * config.clip_length)
        wanted = max(episode, self.window)
        room = max(wanted, config.clip_length + needs.further)
        self.records = [
            Trajectories(self.envs_each, room, *shapes, *kinds, extras=extras, image=image, at_start=at_start)
            for _ in range(needs.policies)
        ]
        self._image = image
        self.queue = ComparisonQueue(
            min(config.queue, config.comparisons) if image else config.queue,
            config.clip_length,
            needs.further,
            *shapes,
            *kinds,
            extras=self._kept(env, shapes, kinds),
            image=image,
        )
        self.asked, self.extra_steps = 0, 0
        self._forks = make_env(config, _FORKS) if rolls_out else None

    def _kept(
        self, env: VectorEnv, shapes: tuple[tuple[int, ...], tuple[int, ...]], kinds: Any
    ) -> dict[str, np.ndarray]:
        kept, needs = {}, self.needs
        if needs.log_prob:
            kept["log_prob"] = np.zeros(self.config.clip_length, np.float32)
        if self.config.films:
            kept |= {START + name: np.asarray(array[0]) for name, array in env.get_state().items()}
        if needs.branches:
            rolled = (needs.branches, 2, needs.branch_length)
            kept["branch_step"] = np.zeros(needs.branches, np.int32)
            one = self._stored(np.zeros((1, needs.branch_length, *shapes[0]), kinds[0]))[0]
            kept["branch_observations"] = np.tile(one, (*rolled[:2], *[1] * one.ndim))
            kept["branch_actions"] = np.zeros((*rolled, *shapes[1]), kinds[1])
            kept["branch_valid"] = np.zeros(rolled, bool)
        return kept

    def before(self, env: VectorEnv) -> dict[str, np.ndarray]:
        """What must be read of the environments before they step."""
        if not self.keeps_states:
            return {}
        return self.named(env.get_state())

    @staticmethod
    def named(states: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The simulator's states among the extras of a record."""
        return {_STATE + name: array for name, array in states.items()}

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

    def due(self, step: int, asked: int) -> int:
        """How many comparisons to ask for now, when `asked` were before."""
        config = self.config
        last_session = config.steps // config.leader_every * config.leader_every
        return comparisons_due(step, last_session, config.comparisons) - asked

    def pairs(
        self, count: int, act: ActInStreams, rng: np.random.Generator, *, fresh: bool, choose: Choose | None
    ) -> tuple[Clips, Clips]:
        """Pairs of clips to be compared, with all that the leader and films need of them.

        Args:
            count: how many; of fresh clips there may be fewer.
            act: the policy of now, for fresh clips and for branches.
            rng: all randomness on the host.
            fresh: draw clips of the policy of now, instead of from the record.
            choose: picks the pairs from many candidates; None: each is asked about.
        """
        if fresh:
            clips = self._fresh(2 * count, act, rng)
        else:
            clips = self._recorded(2 * count, rng) if choose is None else self._chosen(count, choose, rng)
        # Of fresh clips there may be none: all ended too early.
        if self.needs.branches and len(clips.valid):
            clips = self._branched(clips, act, rng)
        if self.config.films:
            starts = {START + name: array for name, array in self._starts(clips).items()}
            clips = dataclasses.replace(clips, extras=clips.extras | starts)
        return halves(clips)

    def ask(
        self,
        count: int,
        step: int,
        teacher: Teacher,
        act: ActInStreams,
        rng: np.random.Generator,
        *,
        fresh: bool,
        choose: Choose | None = None,
    ) -> tuple[Clips, Clips, np.ndarray]:
        """Pairs of clips as of `pairs`, with the answers of a synthetic teacher, put into the queue."""
        first, second = self.pairs(count, act, rng, fresh=fresh, choose=choose)
        asked = len(first.valid) > 0
        label = teacher.answer(first.true_reward, second.true_reward, rng) if asked else np.zeros(0)
        self.put(first, second, label, step)
        return first, second, label

    def put(
        self,
        first: Clips,
        second: Clips,
        label: np.ndarray,
        step: int,
        labeller: np.ndarray | int = 0,
        record: np.ndarray | int = 0,
    ) -> None:
        """Answered pairs into the queue, as `ComparisonQueue.append`."""
        before = self.queue.total
        self.queue.append(first, second, label, step, labeller, record)
        self.asked = max(1, self.queue.total - before)

    def recent(self) -> int:
        """How many of the newest comparisons stand for the policy of now."""
        if self.config.clips == "fresh":
            # Late sessions ask for one or two; so few would be one another's baseline.
            return max(self.asked, self.config.recent_batch_size)
        return self.config.recent

    def compared(self) -> dict[str, np.ndarray]:
        """The whole queue by name, as far as it concerns a leader."""
        return {
            name: array
            for name, array in self.queue.arrays().items()
            if name not in ("step", "record") and not name.startswith(START)
        }

    def draw_steps(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Observations and actions (policies, count, ...) from each policy's own record."""
        drawn = [record.draw_steps(count, rng) for record in self.records]
        return np.stack([pair[0] for pair in drawn]), np.stack([pair[1] for pair in drawn])

    def _recorded(self, count: int, rng: np.random.Generator) -> Clips:
        return self.records[0].sample(count, self.config.clip_length, self.needs.further, rng)

    def _chosen(self, count: int, choose: Choose, rng: np.random.Generator) -> Clips:
        """The clips of the pairs that `choose` takes from among candidates."""
        # A power of two, so that few different sizes are ever compiled.
        wanted = 2 ** (count * self.config.candidates - 1).bit_length()
        if self._image is not None:
            # Pictures: as many as a session may hold in memory beside the queue.
            wanted = max(count, min(wanted, _CANDIDATE_PICTURES))
        clips = self._recorded(2 * wanted, rng)
        rows = np.asarray(choose(count, *halves(clips)))
        return some(clips, np.concatenate([rows, rows + wanted]))

    def _fresh(self, count: int, act: ActInStreams, rng: np.random.Generator) -> Clips:
        assert self._forks is not None
        horizon = self.config.clip_length
        # Some may end too early to be clips.
        spare = count // 4 if self._forks.spec.can_terminate is not False else 0
        begun = self.records[0].sample(count + spare, horizon, 0, rng, newest=self.window)
        played = fork(
            self._forks,
            self._starts(begun),
            act,
            horizon + self.needs.further,
            int(rng.integers(2**31)),
            keep_states=bool(self.needs.branches) or self.config.films,
        )
        self.extra_steps += played.steps
        whole = np.flatnonzero(played.valid[:, :horizon].all(axis=1))[:count]
        return Clips(
            self._stored(played.observations[whole]),
            played.actions[whole],
            played.valid[whole],
            played.true_reward[whole][:, :horizon],
            {
                _STATE + name: array[whole, :horizon] if self.needs.branches else array[whole, 0]
                for name, array in played.states.items()
            },
            stack=1 if self._image is None else self._image.stack,
        )

    def _starts(self, clips: Clips) -> dict[str, np.ndarray]:
        """The simulator's states at the first steps, (n, ...) by name."""
        return {name: array[:, 0] if self.needs.branches else array for name, array in _states(clips).items()}

    def _stored(self, observations: np.ndarray) -> np.ndarray:
        """Observations (n, L, ...) of roll-outs as clips hold them."""
        return (
            observations.astype(np.float32) if self._image is None else unstacked(observations, self._image)
        )

    def _branched(self, clips: Clips, act: ActInStreams, rng: np.random.Generator) -> Clips:
        """`clips` with two roll-outs from each of M of their steps."""
        assert self._forks is not None
        needs, (count, horizon) = self.needs, (len(clips.valid), self.config.clip_length)
        steps = rng.integers(horizon, size=(count, needs.branches))
        chosen = (np.repeat(np.arange(count), needs.branches), steps.ravel())
        observation, taken = stacked(clips.observations, clips.stack)[chosen], clips.actions[chosen]
        played = fork_pairs(
            self._forks,
            {name: array[chosen] for name, array in _states(clips).items()},
            observation,
            taken,
            act,
            needs.branch_length,
            int(rng.integers(2**31)),
        )
        self.extra_steps += played.steps
        shape = (count, needs.branches, 2)
        found = {
            "branch_step": steps.astype(np.int32),
            "branch_observations": self._stored(played.observations),
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
    """The simulator's states by name, at every step, (n, H, ...), or at the first, (n, ...)."""
    return {
        name.removeprefix(_STATE): array for name, array in clips.extras.items() if name.startswith(_STATE)
    }


def halves(clips: Clips) -> tuple[Clips, Clips]:
    """The clips as pairs: the first half and the second."""
    pairs = len(clips.valid) // 2
    return some(clips, slice(0, pairs)), some(clips, slice(pairs, 2 * pairs))


def some(clips: Clips, rows: slice | np.ndarray) -> Clips:
    """The clips at `rows`."""
    return Clips(
        clips.observations[rows],
        clips.actions[rows],
        clips.valid[rows],
        clips.true_reward[rows],
        {name: array[rows] for name, array in clips.extras.items()},
        clips.stack,
    )
