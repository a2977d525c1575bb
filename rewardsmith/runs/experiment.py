"""From settings to the parts of an experiment, and the compiled programs that the training loop calls."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._core import InputError
from ..agents import (
    SAC,
    Replay,
    SACState,
    SACStats,
    TanhGaussianPolicy,
    Transition,
    act,
    add,
    empty_replay,
    sample,
)
from ..bilevel import (
    DRLHF,
    Follower,
    LabelledClips,
    Leader,
    LeaderState,
    LeaderStats,
    Needs,
    Visits,
    lead,
)
from ..bilevel.sampled import Branches
from ..envs import EnvSpec
from ..preferences import BradleyTerryTeacher, Clips, Oracle, Teacher, agreement
from ..problem import BilevelProblem, PreferenceLoss, SimulatedWorld
from ..rewards import RewardEnsemble
from .collect import ActInStreams
from .config import TrainConfig
from .leaders import make_leader

_NORMALISATION_BATCH = 4096
_JUDGED_TOGETHER = 64
_RESIDUAL_BATCH = 1024


def _reward(x: RewardEnsemble, observation: Array, action: Array) -> Array:
    return x(observation, action)


def _members(x: RewardEnsemble, observation: Array, action: Array) -> Array:
    return x.members(observation, action)


def make_problem(config: TrainConfig, spec: EnvSpec) -> BilevelProblem[SimulatedWorld]:
    """The bilevel problem of a run: its simulator, the ensemble's reward, the preference loss on clips."""
    return BilevelProblem(
        world=SimulatedWorld(config.env, config.discount, spec.max_episode_steps),
        reward=_reward,
        upper_loss=PreferenceLoss(horizon=config.clip_length, members=_members),
        temperature="auto" if config.temperature is None else config.temperature,
    )


def make_teacher(config: TrainConfig) -> Teacher:
    """The synthetic teacher that `config.teacher` names."""
    return Oracle() if config.teacher == "oracle" else BradleyTerryTeacher(config.teacher_temperature)


def check_spec(config: TrainConfig, spec: EnvSpec) -> None:
    """`InputError` unless soft actor-critic on flat observations can learn in this environment."""
    if spec.num_actions is not None:
        raise InputError(
            f"{config.env} has discrete actions and {config.method} is for continuous ones: "
            "give an --env with a Box action space, such as Pendulum-v1"
        )
    if len(spec.observation_shape) != 1 or len(spec.action_shape) != 1:
        raise InputError(
            f"{config.env} has observations of shape {spec.observation_shape} and actions of shape "
            f"{spec.action_shape}: give an --env where both are flat"
        )
    limit = spec.max_episode_steps
    if config.learns_reward and limit is not None and config.clip_length > limit:
        raise InputError(
            f"--clip-length is {config.clip_length} but episodes last {limit} steps: give a shorter one"
        )


class Experiment:
    """The parts of a run that never change, and the compiled calls of the training loop.

    Every call is pure: all that changes is passed in and out, and `key` gives all randomness.

    Args:
        config: settings.
        spec: of the environment.

    Raises:
        InputError: the method cannot learn in this environment.
    """

    def __init__(self, config: TrainConfig, spec: EnvSpec):
        check_spec(config, spec)
        self.config, self.spec = config, spec
        self.problem = make_problem(config, spec)
        self.leader = make_leader(config)
        self.teacher = make_teacher(config)
        self.sac = SAC(
            hidden=config.hidden,
            discount=config.discount,
            learning_rate=config.learning_rate,
            batch_size=config.batch_size,
            temperature=config.temperature,
        )
        self.needs = Needs() if self.leader is None else self.leader.needs
        self.act = jax.jit(partial(_act, self.needs.log_prob))
        self.act_in_streams = jax.jit(_act_in_streams)
        self.store = jax.jit(add, donate_argnums=0)
        self.learn = jax.jit(self._learn, donate_argnums=(0, 1))
        self.lead = jax.jit(partial(self._lead, self.leader))
        # Before the policy has learned anything it is no answer to x, and the second term means nothing.
        self.warm_up = jax.jit(partial(self._lead, DRLHF(optax.adam(config.reward_learning_rate))))
        self.judge = jax.jit(_judge)
        self.residual = jax.jit(self._residual)
        self.snapshot = jax.jit(self._snapshot)

    def init(self, key: PRNGKeyArray) -> tuple[tuple[SACState, ...], Replay, LeaderState | None]:
        """Fresh policies, an empty replay and a fresh leader (None where the reward is given)."""
        config = self.config
        size, action_size = self.spec.observation_shape[0], self.spec.action_shape[0]
        follower_key, leader_key = jax.random.split(key)
        followers = [self.sac.init(size, action_size, key=follower_key)]
        for which in range(1, self.needs.policies):
            followers.append(self.sac.init(size, action_size, key=jax.random.fold_in(follower_key, which)))
        leader = None
        if self.leader is not None:
            x = RewardEnsemble(size, action_size, config.reward_hidden, config.ensemble, key=leader_key)
            leader = self.leader.init(
                x,
                jnp.zeros(size),
                jnp.zeros(action_size),
                jax.random.fold_in(leader_key, 1),
            )
            # Now, so that its structure never changes again.
            leader = self.leader.meet(leader, Follower(followers[0].policy, followers[0].temperature))
        capacity = max(min(config.replay, config.steps), config.num_envs)
        replay = empty_replay(capacity, size, action_size, with_true_reward=not config.learns_reward)
        return tuple(followers), replay, leader

    def acting(self, policy: TanhGaussianPolicy, key: PRNGKeyArray) -> ActInStreams:
        """How `policy` acts in roll-outs; step −1 is a fresh action for a branch."""

        def act(observation: np.ndarray, streams: np.ndarray, step: int) -> np.ndarray:
            return np.asarray(
                self.act_in_streams(
                    policy, observation.astype(np.float32), key, streams.astype(np.int32), np.int32(step + 1)
                )
            )

        return act

    def accuracy(self, x: RewardEnsemble, first: Clips, second: Clips, label: np.ndarray) -> float | None:
        """Share of the answered pairs whose answer x predicts; None where all are ties or unanswered."""
        told = ~np.isnan(label) & (label != 0.5)
        if not told.any():
            return None
        # Padded with ties, which do not count, so that few different sizes are ever compiled.
        size = -len(label) % _JUDGED_TOGETHER
        horizon = self.config.clip_length
        pairs = [
            np.stack([getattr(clip, name)[:, :horizon] for clip in (first, second)], axis=1)
            for name in ("observations", "actions")
        ]
        padded = [np.pad(array, [(0, size)] + [(0, 0)] * (array.ndim - 1)) for array in pairs]
        answers = np.pad(np.where(told, label, 0.5), (0, size), constant_values=0.5)
        return float(self.judge(x, *padded, answers.astype(np.float32)))

    def _learn(
        self,
        followers: tuple[SACState, ...],
        replay: Replay,
        leader: LeaderState | None,
        transitions: Transition,
        key: PRNGKeyArray,
    ) -> tuple[tuple[SACState, ...], Replay, SACStats]:
        """Store one step of all environments, then update each policy for its reward of now."""
        replay = add(replay, transitions)
        updated, stats = [], []
        for which, follower in enumerate(followers):
            own_key = key if which == 0 else jax.random.fold_in(key, which)
            new, own = self.sac.update(
                follower,
                replay,
                partial(self._reward_of, leader, which),
                self.config.updates_per_iteration,
                own_key,
            )
            updated.append(new)
            stats.append(own)
        return tuple(updated), replay, stats[0]

    def _reward_of(self, leader: LeaderState | None, which: int, transition: Transition) -> Float[Array, ""]:
        if leader is not None:
            assert self.leader is not None
            rewards = self.leader.rewards(self.problem, leader, transition.observation, transition.action)
            return rewards[which]
        assert transition.true_reward is not None
        return transition.true_reward

    def _lead(
        self,
        leader: Leader | None,
        state: LeaderState,
        comparisons: dict[str, Array],
        total: Int[Array, ""],
        recent: Int[Array, ""],
        follower: SACState,
        replay: Replay,
        own_steps: tuple[Array, Array],
        key: PRNGKeyArray,
    ) -> tuple[LeaderState, LeaderStats]:
        """One session of leader steps, then the reward normalised on what the follower visited."""
        assert leader is not None, "sac has no leader"
        config = self.config
        lead_key, normalise_key = jax.random.split(key)
        state, stats = lead(
            leader,
            self.problem,
            state,
            labelled(comparisons),
            total,
            Follower(follower.policy, follower.temperature),
            lead_key,
            num_steps=config.leader_steps,
            batch_size=config.leader_batch_size,
            recent_batch_size=config.recent_batch_size,
            recent=recent,
            sample_visits=partial(self.sample_visits, leader.needs, replay, own_steps),
        )
        visited = sample(replay, normalise_key, (_NORMALISATION_BATCH,))
        x = state.x.normalise(visited.observation, visited.action)
        return LeaderState(x, state.optimiser, state.memory), stats

    def sample_visits(
        self, needs: Needs, replay: Replay, own_steps: tuple[Array, Array] | None, key: PRNGKeyArray
    ) -> tuple[Visits | None, Visits | None]:
        """What a leader step wants of the replay, and of each policy's own steps; None where it does not."""
        replay_key, own_key = jax.random.split(key)
        visits = visited = None
        if needs.visits:
            drawn = sample(replay, replay_key, (needs.visits,))
            weights = jnp.full(needs.visits, 1.0 / needs.visits)
            visits = Visits(
                drawn.observation, drawn.action, drawn.next_observation, drawn.terminated, weights
            )
        if needs.visited:
            assert own_steps is not None
            observations, actions = own_steps
            which = jax.random.randint(own_key, (needs.policies, needs.visited), 0, observations.shape[1])
            observations, actions = (
                jax.vmap(lambda pool, rows: pool[rows])(pool, which) for pool in (observations, actions)
            )
            # A policy's steps are drawn alike whenever they came, as if episodes had no end: of all the
            # weight that a discounted occupancy has, each carries the same share.
            share = 1.0 / ((1.0 - self.config.discount) * needs.visited)
            nothing = jnp.zeros(which.shape, bool)
            visited = Visits(observations, actions, observations, nothing, jnp.full(which.shape, share))
        return visits, visited

    def _residual(
        self, follower: SACState, replay: Replay, leader: LeaderState | None, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        batch_key, own_key = jax.random.split(key)
        batch = sample(replay, batch_key, (_RESIDUAL_BATCH,))
        rewards = jax.vmap(partial(self._reward_of, leader, 0))(batch)
        return self.sac.bellman_residual(follower, batch, rewards, own_key)

    def _snapshot(
        self, follower: SACState, replay: Replay, leader: LeaderState | None, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        """KL(π ‖ π of `snapshot_updates` more updates for the same reward), nats, on replayed states."""
        learn_key, batch_key, act_key = jax.random.split(key, 3)
        reward = partial(self._reward_of, leader, 0)
        longer, _ = self.sac.update(follower, replay, reward, self.config.snapshot_updates, learn_key)
        states = sample(replay, batch_key, (_RESIDUAL_BATCH,)).observation

        def log_ratio(observation: Array, key: PRNGKeyArray) -> Float[Array, ""]:
            action = follower.policy.sample(observation, key)
            return follower.policy.log_prob(observation, action) - longer.policy.log_prob(observation, action)

        return jnp.mean(jax.vmap(log_ratio)(states, jax.random.split(act_key, _RESIDUAL_BATCH)))


def labelled(comparisons: dict[str, Array]) -> LabelledClips:
    """The arrays of a queue as clips."""
    branches = None
    if "branch_step" in comparisons:
        branches = Branches(
            comparisons["branch_step"],
            comparisons["branch_observations"],
            comparisons["branch_actions"],
            comparisons["branch_valid"],
        )
    return LabelledClips(
        comparisons["observations"],
        comparisons["actions"],
        comparisons["valid"],
        comparisons["label"],
        comparisons.get("log_prob"),
        branches,
    )


def _act(
    with_log_prob: bool,
    policies: tuple[TanhGaussianPolicy, ...],
    observation: Float[Array, "n o"],
    key: PRNGKeyArray,
    step: Int[Array, ""],
) -> tuple[Float[Array, "n a"], Float[Array, " n"] | None]:
    """Actions of all environments, the same number for each policy, and their log-probabilities if wanted."""
    actions, log_probs = [], []
    for which, (policy, own) in enumerate(zip(policies, jnp.split(observation, len(policies)), strict=True)):
        own_key = jax.random.fold_in(key, step)
        action = act(policy, own, own_key if which == 0 else jax.random.fold_in(own_key, which))
        actions.append(action)
        if with_log_prob:
            log_probs.append(jax.vmap(policy.log_prob)(own, action))
    return jnp.concatenate(actions), jnp.concatenate(log_probs) if with_log_prob else None


def _act_in_streams(
    policy: TanhGaussianPolicy,
    observation: Float[Array, "n o"],
    key: PRNGKeyArray,
    streams: Int[Array, " n"],
    step: Int[Array, ""],
) -> Float[Array, "n a"]:
    """One action each; rows of the same stream share their noise."""

    def one(observation: Array, stream: Array) -> Array:
        return policy.sample(observation, jax.random.fold_in(jax.random.fold_in(key, stream), step))

    return jax.vmap(one)(observation, streams)


def _judge(
    x: RewardEnsemble,
    observations: Float[Array, "n 2 H o"],
    actions: Float[Array, "n 2 H a"],
    label: Float[Array, " n"],
) -> Float[Array, ""]:
    """Share of the comparisons, ties left out, whose answer x predicts."""
    sums = jax.vmap(jax.vmap(jax.vmap(x)))(observations, actions).sum(axis=-1)
    agreed, weight = jax.vmap(agreement)(sums[:, 0], sums[:, 1], label)
    return jnp.sum(agreed) / jnp.maximum(jnp.sum(weight), 1.0)
