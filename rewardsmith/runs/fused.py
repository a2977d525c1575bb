"""Act, step and learn in one compiled program, for environments written in JAX: no way back to the host."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray, Shaped

from .._core import TracedTrueReward, TrueRewardReader
from ..agents import Replay, SACState, SACStats, Transition, add
from ..bilevel import LeaderState
from ..envs import VectorEnv
from ..envs.native import NativeEnv, NativeVectorEnv, Worlds, advance, rows
from .collect import Collector
from .experiment import Experiment
from .exploration import Exploration
from .memory import DeviceMemory
from .programs import act_each

# Iterations of one call, at most: the host hears of a run, and can stop it, only between two calls.
LONGEST = 64

Phase = Literal["random", "exploring", "learning"]
Drawn = tuple[np.ndarray, np.ndarray]


class Steps(eqx.Module):
    """Steps of all environments one after another, as a record of clips takes them: leading axes (T, N)."""

    observation: Shaped[Array, "..."]
    action: Shaped[Array, "..."]
    reward: TracedTrueReward
    terminated: Bool[Array, "..."]
    truncated: Bool[Array, "..."]
    log_prob: Shaped[Array, "..."] | None
    states: dict[str, Array]


class FusedLoop:
    """The loop between two events of a run, for all its lanes.

    What it does in a step, and with which randomness, is what the loop on the host does.

    Args:
        experiment: settings and mathematics.
        env: one environment.
        keeps_steps: whether clips are cut from the steps.
        keeps_states: whether the simulator's states are kept with them.
    """

    def __init__(self, experiment: Experiment, env: NativeEnv, *, keeps_steps: bool, keeps_states: bool):
        self._experiment, self._env, self._lanes = experiment, env, experiment.lanes
        self._keeps_steps, self._keeps_states = keeps_steps, keeps_states
        self._exploration = Exploration(experiment.sac, experiment.config, experiment.lanes)
        shared = (7, 8)
        self._programs = {
            phase: jax.jit(self._lanes.lift(partial(self._advance, phase), *shared), donate_argnums=(0, 1))
            for phase in ("random", "exploring", "learning")
        }
        self._worlds: Any = None

    def enter(self, envs: Sequence[VectorEnv]) -> None:
        """Go on from where the environments stand."""
        self._worlds = self._lanes.stack([_native(env).worlds for env in envs])

    def leave(self, envs: Sequence[VectorEnv]) -> list[np.ndarray]:
        """Put the environments where the loop stands; the observations of each."""
        for lane, env in enumerate(envs):
            _native(env).worlds = self._lanes.of(self._worlds, lane)
        return [np.array(_native(env).worlds.observation) for env in envs]

    def advance(
        self,
        phase: Phase,
        followers: Any,
        memory: DeviceMemory,
        leader: Any,
        keys: tuple[Any, Any],
        drawn: Sequence[Drawn] | None,
        step: int,
        count: int,
    ) -> tuple[Any, list[Steps | None], Any]:
        """`count` iterations of every lane.

        Args:
            phase: "random": store only; "exploring": learn for the reward of exploring; "learning": for the
                reward of now.
            followers: `SACState` of each policy; given away.
            memory: what they learn from.
            leader: `LeaderState`, or None.
            keys: of acting and of learning.
            drawn: of each lane for the random phase: actions (LONGEST, N, ...) and their log-probabilities.
            step: environment steps before.
            count: at most `LONGEST`.

        Returns:
            The followers, the steps of each lane on the host (`count` of them count; None where no clips
            are cut), and the statistics of the last update.
        """
        followers, memory.replay, self._worlds, steps, stats = self._programs[phase](
            followers,
            memory.replay,
            leader,
            self._worlds,
            *keys,
            None if drawn is None else self._lanes.stack(drawn),
            np.int32(step),
            np.int32(count),
        )
        return followers, self._lanes.split(jax.device_get(steps)), stats

    def _advance(
        self,
        phase: Phase,
        followers: tuple[SACState, ...],
        replay: Replay,
        leader: LeaderState | None,
        worlds: Worlds,
        act_key: PRNGKeyArray,
        learn_key: PRNGKeyArray,
        drawn: tuple[Array, Array] | None,
        step: Array,
        count: Array,
    ) -> tuple[tuple[SACState, ...], Replay, Worlds, Steps | None, SACStats | None]:
        experiment, num_envs = self._experiment, self._experiment.config.num_envs

        def one(
            index: Any, followers: tuple[SACState, ...], replay: Replay, worlds: Worlds
        ) -> tuple[tuple[SACState, ...], Replay, Worlds, Steps | None, SACStats | None]:
            now = step + index * num_envs
            if drawn is not None:
                action, log_prob = (array[index] for array in drawn)
            else:
                policies = tuple(follower.policy for follower in followers)
                wanted = experiment.needs.log_prob
                action, log_prob = act_each(wanted, policies, worlds.observation, act_key, now)
            onward, result = advance(self._env, worlds, self._env.from_policy(action))
            transitions = self._transitions(worlds, action, result)
            steps = self._steps(worlds, action, log_prob, result) if self._keeps_steps else None
            key, stats = jax.random.fold_in(learn_key, now + num_envs), None
            if phase == "random":
                replay = add(replay, transitions)
            elif phase == "exploring":
                followers, replay, stats = self._exploration.update(followers, replay, transitions, key)
            else:
                followers, replay, stats = experiment.update(followers, replay, leader, transitions, key)
            return followers, replay, onward, steps, stats

        def body(index: Any, carried: tuple[Any, ...]) -> tuple[Any, ...]:
            kept = carried[3]
            *moved, steps, stats = one(index, *carried[:3])
            return *moved, jax.tree.map(lambda all, new: all.at[index].set(new), kept, steps), stats

        *_, steps, stats = jax.eval_shape(one, 0, followers, replay, worlds)
        kept = jax.tree.map(lambda like: jnp.zeros((LONGEST, *like.shape), like.dtype), steps)
        nothing = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), stats)
        return jax.lax.fori_loop(0, count, body, (followers, replay, worlds, kept, nothing))

    def _transitions(self, worlds: Worlds, action: Array, result: Any) -> Transition:
        config = self._experiment.config
        return Transition(
            worlds.observation,
            action,
            result.next_observation,
            jnp.zeros_like(result.terminated) if config.ends_hidden else result.terminated,
            None if config.learns_reward else result.reward.reveal(TrueRewardReader.CEILING),
        )

    def _steps(self, worlds: Worlds, action: Array, log_prob: Array | None, result: Any) -> Steps:
        return Steps(
            worlds.observation,
            action,
            result.reward,
            result.terminated,
            result.truncated,
            log_prob if self._experiment.needs.log_prob else None,
            rows(worlds) if self._keeps_states else {},
        )


def make_fused(experiment: Experiment, env: VectorEnv, collector: Collector | None) -> FusedLoop | None:
    """The fused loop, where the environment is written in JAX and the settings do not forbid it."""
    if not (isinstance(env, NativeVectorEnv) and experiment.config.fused):
        return None
    return FusedLoop(
        experiment,
        env.env,
        keeps_steps=collector is not None,
        keeps_states=collector is not None and collector.keeps_states,
    )


def _native(env: VectorEnv) -> NativeVectorEnv:
    assert isinstance(env, NativeVectorEnv)
    return env
