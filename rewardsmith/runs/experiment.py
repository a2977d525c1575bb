"""From settings to the parts of an experiment, and the compiled programs that the training loop calls."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..agents import (
    Policy,
    Replay,
    RewardFn,
    SACState,
    SACStats,
    Transition,
    add,
    empty_replay,
    sample,
)
from ..bilevel import (
    DRLHF,
    Evidence,
    Follower,
    Leader,
    LeaderState,
    LeaderStats,
    Needs,
    Visits,
    lead,
)
from ..envs import EnvSpec
from ..preferences import Clips
from ..preferences.models import Regret
from ..rewards import LearnedReward
from .choices import HUMAN
from .collect import ActInStreams
from .config import TrainConfig
from .lanes import Lanes
from .leaders import make_leader, make_sac, reward_optimiser
from .parts import make_problem, make_reward, make_teacher, model_of, seen_by_networks
from .programs import (
    act_each,
    act_in_streams,
    divergence,
    explain,
    foresee,
    in_blocks,
    labelled,
    value_offsets,
)

_NORMALISATION_BATCH = 4096
_JUDGED_TOGETHER = 64
_JUDGED_STATES = 1024


class Experiment:
    """The parts of a run that never change, and the compiled calls of the training loop.

    Every call is pure: all that changes is passed in and out, and `key` gives all randomness.

    Args:
        config: settings.
        spec: of the environment.
        lanes: how many runs go side by side; the calls of the loop take them all, those about one reward
            or one policy take one.

    Raises:
        InputError: the method cannot learn in this environment.
    """

    def __init__(self, config: TrainConfig, spec: EnvSpec, lanes: Lanes | None = None):
        self.lanes = lanes = Lanes(1) if lanes is None else lanes
        self.observation, self.action_size = seen_by_networks(config, spec)
        self.config, self.spec = config, spec
        pictures, self.discrete = spec.image is not None, spec.num_actions is not None
        self.normalised_on = 512 if pictures else _NORMALISATION_BATCH
        self.judged_states = 256 if pictures else _JUDGED_STATES
        self.judged_together = 4 if pictures else _JUDGED_TOGETHER
        self.problem, self.preference_model = make_problem(config, spec), model_of(config)
        self.leader = make_leader(config, spec.num_actions)
        self.teacher = None if config.teacher == HUMAN else make_teacher(config)
        self.sac = make_sac(config)
        self.needs = Needs() if self.leader is None else self.leader.needs
        self.act = jax.jit(lanes.lift(partial(act_each, self.needs.log_prob), 3))
        self.act_in_streams = jax.jit(act_in_streams)
        self.store = jax.jit(lanes.lift(add), donate_argnums=0)
        self.learn = jax.jit(lanes.lift(self.update), donate_argnums=(0, 1))
        self.improve = jax.jit(self._improve, donate_argnums=0)
        # Before the policy has learned anything it is no answer to x, and the second term means nothing.
        first = DRLHF(reward_optimiser(config))
        self.lead, self.warm_up = (
            jax.jit(lanes.lift(partial(self._lead, leader))) for leader in (self.leader, first)
        )
        self.lead_once, self.warm_up_once = (
            jax.jit(partial(self._lead_once, leader)) for leader in (self.leader, first)
        )
        self.normalise = jax.jit(self._normalise)
        self.foresee = jax.jit(partial(foresee, self.problem))
        self.explain = jax.jit(partial(explain, self.problem))
        self.group_means = jax.jit(lambda x, o, a: jnp.mean(jax.vmap(x.of_groups)(o, a), axis=0))
        self.offsets = jax.jit(self._offsets)
        self.residual = jax.jit(lanes.lift(self._residual))
        self.snapshot = jax.jit(lanes.lift(self._snapshot))
        self.divergence = jax.jit(divergence)

    def init(
        self, key: PRNGKeyArray, config: TrainConfig | None = None
    ) -> tuple[tuple[SACState, ...], LeaderState | None]:
        """Fresh policies and a fresh leader (None where the reward is given).

        Args:
            key: all randomness.
            config: of one lane, where lanes differ in what lies in states.
        """
        config, spec = self.config if config is None else config, self.spec
        sac = make_sac(config)
        follower_key, leader_key = jax.random.split(key)
        keys = [follower_key]
        keys += [jax.random.fold_in(follower_key, which) for which in range(1, self.needs.policies)]
        followers = tuple(
            sac.init(self.observation, self.action_size, discrete=self.discrete, key=own) for own in keys
        )
        maker = make_leader(config, spec.num_actions)
        if self.leader is None or maker is None:
            return followers, None
        x = make_reward(config, spec, leader_key)
        leader = maker.init(
            x,
            jnp.zeros(spec.observation_shape, jnp.uint8 if spec.image else jnp.float32),
            jnp.zeros(spec.action_shape, jnp.int32 if self.discrete else jnp.float32),
            jax.random.fold_in(leader_key, 1),
        )
        # Now, so that its structure never changes again.
        return followers, self.leader.meet(leader, Follower(followers[0].policy, followers[0].temperature))

    def empty_replay(self) -> Replay:
        """A ring on the device, for vectors."""
        config = self.config
        return empty_replay(
            max(min(config.replay, config.steps), config.num_envs),
            self.spec.observation_shape[0],
            self.action_size,
            discrete=self.discrete,
            with_true_reward=not config.learns_reward,
        )

    def seen(self, observation: np.ndarray) -> np.ndarray:
        """An environment's observations as networks take them: bytes of pictures, else float32."""
        return observation if self.spec.image else observation.astype(np.float32)

    def explore(self, rng: np.random.Generator, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Uniformly random actions of all environments, and their log-probabilities or log-densities.

        Args:
            rng: all randomness.
            count: how many; None: one for each environment.
        """
        count, spec = self.config.num_envs if count is None else count, self.spec
        if spec.num_actions is not None:
            action = rng.integers(spec.num_actions, size=count).astype(np.int32)
            return action, np.full(count, -math.log(spec.num_actions), np.float32)
        action = rng.uniform(-1.0, 1.0, (count, *spec.action_shape)).astype(np.float32)
        # The density of the uniform distribution on [−1, 1]ⁿ.
        return action, np.full(count, -math.log(2.0) * math.prod(spec.action_shape), np.float32)

    def acting(self, policy: Policy, key: PRNGKeyArray) -> ActInStreams:
        """How `policy` acts in roll-outs; step −1 is a fresh action for a branch."""

        def act(observation: np.ndarray, streams: np.ndarray, step: int) -> np.ndarray:
            return np.asarray(
                self.act_in_streams(
                    policy, self.seen(observation), key, streams.astype(np.int32), np.int32(step + 1)
                )
            )

        return act

    def probabilities(
        self, x: LearnedReward, first: Clips, second: Clips, follower: SACState | None = None
    ) -> np.ndarray:
        """(n, M) the probability that the first of each pair is preferred, as each member of x has it.

        Args:
            x: the reward.
            first, second: n clips each.
            follower: whose values a model by regret needs; None: it goes by rewards alone.
        """
        if len(first.valid) == 0:
            return np.zeros((0, self.config.ensemble), np.float32)
        horizon, stack = self.config.clip_length, first.stack
        pairs = {
            name: np.stack([getattr(clip, name)[:, :length] for clip in (first, second)], axis=1)
            for name, length in (("observations", stack - 1 + horizon), ("actions", horizon))
        }

        def block(observations: Any, actions: Any) -> Array:
            offset = None
            if follower is not None and isinstance(self.preference_model, Regret):
                offset = self.offsets(x, follower, observations, actions, jax.random.key(0))
            return self.foresee(x, observations, actions, offset)

        return self.in_blocks(block, pairs, len(first.valid))

    def in_blocks(self, program: Callable[..., Any], pairs: Mapping[str, np.ndarray], count: int) -> Any:
        """`programs.in_blocks`, as many pairs at a time as this run's observations allow."""
        stack = 1 if self.spec.image is None else self.spec.image.stack
        return in_blocks(program, pairs, count, self.judged_together, self.config.clip_length, stack)

    def predict(
        self, x: LearnedReward, first: Clips, second: Clips, follower: SACState | None = None
    ) -> np.ndarray:
        """(n,) the mean of `probabilities` over members."""
        return self.probabilities(x, first, second, follower).mean(axis=1)

    def _offsets(
        self, x: Any, follower: SACState, observations: Array, actions: Array, key: PRNGKeyArray
    ) -> Float[Array, "n 2"]:
        return value_offsets(x, follower, self.config.discount, observations, actions, key)

    def update(
        self,
        followers: tuple[SACState, ...],
        replay: Replay,
        leader: LeaderState | None,
        transitions: Transition,
        key: PRNGKeyArray,
    ) -> tuple[tuple[SACState, ...], Replay, SACStats]:
        """Store one step of all environments, then update each policy for its reward of now."""
        replay = add(replay, transitions)

        def update(
            which: int, follower: SACState, reward: RewardFn, key: PRNGKeyArray
        ) -> tuple[SACState, SACStats]:
            del which
            return self.sac.update(follower, replay, reward, self.config.updates_per_iteration, key)

        followers, stats = self._update_each(followers, leader, update, key)
        return followers, replay, stats

    def _improve(
        self,
        followers: tuple[SACState, ...],
        batches: Transition,
        leader: LeaderState | None,
        key: PRNGKeyArray,
    ) -> tuple[tuple[SACState, ...], SACStats]:
        """Update each policy on its batches, (policies, updates, batch size) transitions, for its reward."""

        def update(
            which: int, follower: SACState, reward: RewardFn, key: PRNGKeyArray
        ) -> tuple[SACState, SACStats]:
            own = jax.tree.map(lambda leaf: leaf[which], batches)
            return self.sac.update_on_batches(follower, own, reward, key)

        return self._update_each(followers, leader, update, key)

    def _update_each(
        self,
        followers: tuple[SACState, ...],
        leader: LeaderState | None,
        update: Callable[[int, SACState, RewardFn, PRNGKeyArray], tuple[SACState, SACStats]],
        key: PRNGKeyArray,
    ) -> tuple[tuple[SACState, ...], SACStats]:
        """Each policy updated for its own reward, and the statistics of the first."""
        updated, stats = [], []
        for which, follower in enumerate(followers):
            own_key = key if which == 0 else jax.random.fold_in(key, which)
            new, own = update(which, follower, partial(self._reward_of, leader, which), own_key)
            updated.append(new)
            stats.append(own)
        return tuple(updated), stats[0]

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
        return self._normalise(state, replay, normalise_key), stats

    def _lead_once(
        self,
        leader: Leader | None,
        state: LeaderState,
        comparisons: dict[str, Array],
        newest: dict[str, Array],
        follower: SACState,
        replay: Replay,
        own_steps: tuple[Array, Array],
        key: PRNGKeyArray,
    ) -> tuple[LeaderState, LeaderStats]:
        """One leader step on comparisons that were drawn already: a batch of all and one of the newest."""
        assert leader is not None, "sac has no leader"
        visits_key, dropout_key, key = jax.random.split(key, 3)
        if self.config.reward_dropout:
            state = eqx.tree_at(lambda s: s.x, state, state.x.thinned(dropout_key))
        visits, visited = self.sample_visits(leader.needs, replay, own_steps, visits_key)
        clips, recent = (labelled(drawn, self.spec.image) for drawn in (comparisons, newest))
        answer = Follower(follower.policy, follower.temperature)
        evidence = Evidence(clips, recent, answer, visits, visited)
        state, stats = leader.step(self.problem, state, evidence, key)
        return eqx.tree_at(lambda s: s.x, state, state.x.whole()), stats

    def _normalise(self, state: LeaderState, replay: Replay, key: PRNGKeyArray) -> LeaderState:
        """The reward normalised on what the follower visited."""
        visited = sample(replay, key, (self.normalised_on,))
        x = state.x.normalise(visited.observation, visited.action)
        return LeaderState(x, state.optimiser, state.memory)

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
        batch = sample(replay, batch_key, (self.judged_states,))
        rewards = jax.vmap(partial(self._reward_of, leader, 0))(batch)
        return self.sac.bellman_residual(follower, batch, rewards, own_key)

    def _snapshot(
        self, follower: SACState, replay: Replay, leader: LeaderState | None, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        """KL(π ‖ π of `snapshot_updates` more updates for the same reward), nats, on replayed states."""
        learn_key, batch_key, act_key = jax.random.split(key, 3)
        reward = partial(self._reward_of, leader, 0)
        longer, _ = self.sac.update(follower, replay, reward, self.config.snapshot_updates, learn_key)
        states = sample(replay, batch_key, (self.judged_states,)).observation
        return divergence(follower.policy, longer.policy, states, act_key)
