"""Soft actor-critic's learner alone: gradient updates a second from a full replay memory."""

import dataclasses
import time
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rewardsmith.agents import SAC, Replay, SACState, Transition, add, empty_replay

from .subject import PEERS, Side, Subject

PACKAGES = ("rewardsmith", "jax", "equinox", "optax", "numpy")
OBSERVATION, ACTION, REPLAY = 17, 6, 100_000
_FUSED = (1, 8, 32)


def subject(quick: bool) -> Subject:
    ours = [Side(f"rewardsmith, {k} a call", (__name__,), {"fused": k}, multiple=k) for k in _FUSED]
    most = ours[-1]
    pair = dataclasses.replace(most, label=f"{most.label}, two processes", copies=2)
    sb3 = Side("stable-baselines3", ("benchmarks.peers", "sb3", "learner"), {"fused": 1}, home=PEERS)
    sbx = [
        Side(f"sbx, {k} a call", ("benchmarks.peers", "sbx", "learner"), {"fused": k}, k, PEERS)
        for k in _FUSED
    ]
    return Subject(
        name="sac-learner",
        title="SAC learner",
        how=(
            f"Sizes of HalfCheetah ({OBSERVATION} → {ACTION}, two hidden layers of 256, twin critics, tuned "
            "temperature, batch 256), replay memory full, no environment. Fused updates are gradient updates "
            "in one compiled call. stable-baselines3 (torch, one thread) and sbx (JAX) run their own "
            "`train`. Two processes: two learners at once, each pinned to a core of its own; updates of "
            "both, until the slower one is done."
        ),
        unit="updates/s",
        sides=(*ours, pair, sb3, *sbx),
        ratios=(
            *((side.label, sb3.label) for side in (*ours, pair)),
            *((mine.label, theirs.label) for mine, theirs in zip(ours, sbx, strict=True)),
        ),
        rounds=5 if quick else 7,
        seconds=0.2 if quick else 0.6,
    )


def make_learner() -> tuple[SAC, SACState, Replay]:
    """A fresh learner of the sizes of HalfCheetah, and a replay that is full of noise."""
    sac, key = SAC(), jax.random.key(0)
    keys = jax.random.split(key, 4)
    replay = add(
        empty_replay(REPLAY, OBSERVATION, ACTION, with_true_reward=True),
        Transition(
            observation=jax.random.normal(keys[0], (REPLAY, OBSERVATION)),
            action=jax.random.uniform(keys[1], (REPLAY, ACTION), minval=-1.0, maxval=1.0),
            next_observation=jax.random.normal(keys[2], (REPLAY, OBSERVATION)),
            terminated=jnp.zeros(REPLAY, bool),
            true_reward=jax.random.normal(keys[3], (REPLAY,)),
        ),
    )
    return sac, sac.init(OBSERVATION, ACTION, key=key), replay


def true_reward(transition: Transition) -> Float[Array, ""]:
    """What is learned from."""
    assert transition.true_reward is not None
    return transition.true_reward


def build():
    sac, state, replay = make_learner()

    @partial(jax.jit, static_argnums=(3, 4), donate_argnums=0)
    def update(state, replay, call, fused, batch):
        learner = dataclasses.replace(sac, batch_size=batch)
        return learner.update(state, replay, true_reward, fused, jax.random.fold_in(jax.random.key(1), call))

    def measure(count: int, fused: int, batch: int = sac.batch_size) -> float:
        nonlocal state
        started = time.perf_counter()
        for call in range(count // fused):
            state, _ = update(state, replay, call, fused, batch)
        jax.block_until_ready(state)
        return time.perf_counter() - started

    return measure
