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
    ConstantBaseline,
    Follower,
    LabelledClips,
    Leader,
    LeaderState,
    LeaderStats,
    LinearBaseline,
    OneStep,
    SoBiRL,
    Suffix,
    lead,
)
from ..envs import EnvSpec
from ..preferences import BradleyTerryTeacher, Clips, Oracle, Teacher, agreement
from ..problem import BilevelProblem, PreferenceLoss, SimulatedWorld
from ..rewards import RewardEnsemble
from .config import TrainConfig

_NORMALISATION_BATCH = 4096
_JUDGED_TOGETHER = 64


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


def make_leader(config: TrainConfig) -> Leader | None:
    """The leader that `config.method` names; None where the reward is given."""
    optimiser = optax.adam(config.reward_learning_rate)
    if config.method == "drlhf":
        return DRLHF(optimiser)
    if config.method == "sac":
        return None
    if config.estimator == "one-step":
        estimator, baseline = OneStep(), ConstantBaseline()
    else:
        estimator, baseline = Suffix(config.suffix_length), LinearBaseline()
    return SoBiRL(
        optimiser,
        estimator=estimator,
        baseline=baseline,
        weight=config.second_term_weight,
        bound=config.second_term_bound,
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
        self.act = jax.jit(_act)
        self.store = jax.jit(add, donate_argnums=0)
        self.learn = jax.jit(self._learn, donate_argnums=(0, 1))
        self.lead = jax.jit(partial(self._lead, self.leader))
        # Before the policy has learned anything it is no answer to x, and the second term means nothing.
        self.warm_up = jax.jit(partial(self._lead, DRLHF(optax.adam(config.reward_learning_rate))))
        self.judge = jax.jit(_judge)

    def init(self, key: PRNGKeyArray) -> tuple[SACState, Replay, LeaderState | None]:
        """A fresh follower, an empty replay and a fresh leader (None where the reward is given)."""
        config = self.config
        size, action_size = self.spec.observation_shape[0], self.spec.action_shape[0]
        follower_key, leader_key = jax.random.split(key)
        leader = None
        if self.leader is not None:
            x = RewardEnsemble(size, action_size, config.reward_hidden, config.ensemble, key=leader_key)
            leader = self.leader.init(x)
        follower = self.sac.init(size, action_size, key=follower_key)
        capacity = max(min(config.replay, config.steps), config.num_envs)
        replay = empty_replay(capacity, size, action_size, with_true_reward=not config.learns_reward)
        return follower, replay, leader

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
        follower: SACState,
        replay: Replay,
        x: RewardEnsemble | None,
        transitions: Transition,
        key: PRNGKeyArray,
    ) -> tuple[SACState, Replay, SACStats]:
        """Store one step of all environments, then update the follower for the reward r_x of now."""
        replay = add(replay, transitions)
        follower, stats = self.sac.update(
            follower, replay, partial(_reward_of, x), self.config.updates_per_iteration, key
        )
        return follower, replay, stats

    def _lead(
        self,
        leader: Leader | None,
        state: LeaderState,
        comparisons: dict[str, Array],
        total: Int[Array, ""],
        policy: TanhGaussianPolicy,
        temperature: Float[Array, ""],
        replay: Replay,
        key: PRNGKeyArray,
    ) -> tuple[LeaderState, LeaderStats]:
        """One session of leader steps, then the reward normalised on what the follower visited."""
        assert leader is not None, "sac has no leader"
        config = self.config
        lead_key, normalise_key = jax.random.split(key)
        clips = LabelledClips(
            comparisons["observations"], comparisons["actions"], comparisons["valid"], comparisons["label"]
        )
        state, stats = lead(
            leader,
            self.problem,
            state,
            clips,
            total,
            Follower(policy, temperature),
            lead_key,
            num_steps=config.leader_steps,
            batch_size=config.leader_batch_size,
            recent_batch_size=config.recent_batch_size,
            recent=config.recent,
        )
        visited = sample(replay, normalise_key, (_NORMALISATION_BATCH,))
        x = state.x.normalise(visited.observation, visited.action)
        return LeaderState(x, state.optimiser), stats


def _act(
    policy: TanhGaussianPolicy, observation: Float[Array, "n o"], key: PRNGKeyArray, step: Int[Array, ""]
):
    return act(policy, observation, jax.random.fold_in(key, step))


def _reward_of(x: RewardEnsemble | None, transition: Transition) -> Float[Array, ""]:
    if x is not None:
        return x(transition.observation, transition.action)
    assert transition.true_reward is not None
    return transition.true_reward


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
