"""Learning a reward from comparisons: one compiled call, against a Python loop over pairs."""

import time
from functools import partial
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from rewardsmith.agents import TanhGaussianPolicy
from rewardsmith.bilevel import DRLHF, Follower, LabelledClips, LeaderState, first_term, lead
from rewardsmith.problem import BilevelProblem, PreferenceLoss, SimulatedWorld
from rewardsmith.rewards import RewardEnsemble

from .subject import IMITATION, PEERS, Side, Subject

PACKAGES = ("rewardsmith", "jax", "equinox", "optax", "numpy")
_OBSERVATION, _ACTION, _STEPS, _MEMBERS = 17, 6, 25, 3
_QUEUE, _BATCH, _SESSION = 3000, 64, 50


def subject(quick: bool) -> Subject:
    ours = Side("one compiled call", (__name__,), {"how": "compiled"}, multiple=_SESSION)
    loop = Side("loop over pairs, JAX", (__name__,), {"how": "loop"})
    torch = Side("loop over pairs, torch", ("benchmarks.peers", "torch", "reward-model"), home=PEERS)
    imitation = Side("imitation", ("benchmarks.peer_imitation",), home=IMITATION)
    peers = (loop, torch, imitation)
    return Subject(
        name="reward-model",
        title="Reward model",
        how=(
            f"Updates of an ensemble of {_MEMBERS} networks (128, 128) on batches of {_BATCH} pairs of clips "
            f"of {_STEPS} steps, HalfCheetah sizes. Ours: `lead` with drlhf, {_SESSION} updates in one "
            "compiled call. Peers: Python loops over the pairs of a batch, then the same Adam step. In JAX "
            "the gradient of a pair is compiled and added to the sum (checked to give the gradient of the "
            "compiled call before it is timed); in torch each member and pair is a forward pass of its own, "
            "as published code has it, and one backward pass follows. imitation: its own `EnsembleTrainer` "
            "(AdamW) on clips with their true rewards, one batch for each member an update."
        ),
        unit="updates/s",
        sides=(ours, *peers),
        ratios=tuple((ours.label, peer.label) for peer in peers),
        rounds=5 if quick else 7,
        seconds=0.3 if quick else 0.7,
    )


def make_problem() -> BilevelProblem[SimulatedWorld]:
    loss = PreferenceLoss(horizon=_STEPS, members=lambda x, o, a: x.members(o, a))
    return BilevelProblem(SimulatedWorld("HalfCheetah-v5", 0.99, 1000), lambda x, o, a: x(o, a), loss, "auto")


def make_clips(count: int, rng: np.random.Generator) -> LabelledClips:
    """Pairs of random clips with random answers."""
    return LabelledClips(
        observations=jnp.asarray(rng.standard_normal((count, 2, _STEPS, _OBSERVATION), np.float32)),
        actions=jnp.asarray(rng.uniform(-1.0, 1.0, (count, 2, _STEPS, _ACTION)), jnp.float32),
        valid=jnp.ones((count, 2, _STEPS), bool),
        label=jnp.asarray(rng.integers(0, 2, count), jnp.float32),
    )


def make_reward(key: Array, members: int = _MEMBERS) -> RewardEnsemble:
    return RewardEnsemble(_OBSERVATION, _ACTION, num_members=members, key=key)


def batch_gradient(problem: BilevelProblem, x: PyTree, clips: LabelledClips, pairs: np.ndarray) -> PyTree:
    """∇ of the mean loss over a batch, as the compiled call has it."""
    return eqx.filter_jit(first_term)(problem, x, clips.take(jnp.asarray(pairs)))[1]


class PairLoop:
    """∇ of the mean loss over a batch, pair by pair, as a program without `vmap` over pairs would have it."""

    def __init__(self, problem: BilevelProblem):
        @partial(jax.jit, donate_argnums=1)
        def add_pair(x, total, observations, actions, label):
            gradient = eqx.filter_grad(lambda x: problem.clip_loss(x, observations, actions, label))(x)
            return jax.tree.map(jnp.add, total, gradient)

        self._zeros = jax.jit(partial(jax.tree.map, jnp.zeros_like))
        self._mean = jax.jit(lambda total, count: jax.tree.map(lambda leaf: leaf / count, total))
        self._add_pair = add_pair

    def gradient(self, x: PyTree, clips: LabelledClips, pairs: np.ndarray) -> PyTree:
        total, labels = self._zeros(x), cast(Any, clips.label)
        for i in pairs:
            total = self._add_pair(x, total, clips.observations[i], clips.actions[i], labels[i])
        return self._mean(total, float(len(pairs)))


def build():
    problem, leader = make_problem(), DRLHF(optax.adam(3e-4))
    rng = np.random.default_rng(0)
    clips = make_clips(_QUEUE, rng)
    loop = PairLoop(problem)
    states: dict[int, LeaderState] = {}

    def start(members: int) -> LeaderState:
        if members not in states:
            x = make_reward(jax.random.key(0), members)
            states[members] = leader.init(x, jnp.zeros(_OBSERVATION), jnp.zeros(_ACTION), jax.random.key(1))
        return states[members]

    policy = TanhGaussianPolicy(_OBSERVATION, _ACTION, (8,), key=jax.random.key(2))
    follower = Follower(policy, jnp.asarray(0.1))  # drlhf never asks it.
    on_host = jax.tree.map(np.asarray, clips)  # Where a loop indexes fastest.

    @partial(jax.jit, static_argnums=3)
    def session(state, clips, call, steps):
        return lead(
            leader,
            problem,
            state,
            clips,
            jnp.asarray(_QUEUE),
            follower,
            jax.random.fold_in(jax.random.key(0), call),
            num_steps=steps,
            batch_size=_BATCH,
            recent_batch_size=_BATCH,
            recent=_BATCH,
        )

    @jax.jit
    def step(x, optimiser, gradient):
        updates, optimiser = leader.optimiser.update(gradient, optimiser, x)
        return eqx.apply_updates(x, updates), optimiser

    pairs, x = rng.integers(0, _QUEUE, _BATCH), start(_MEMBERS).x
    check_equal(loop.gradient(x, on_host, pairs), batch_gradient(problem, x, clips, pairs))

    def measure(count: int, how: str, members: int = _MEMBERS, steps: int = _SESSION) -> float:
        reached = start(members)
        started = time.perf_counter()
        if how == "compiled":
            for call in range(count // steps):
                reached, _ = session(reached, clips, call, steps)
            jax.block_until_ready(reached)
        else:
            x, optimiser = reached.x, reached.optimiser
            for _ in range(count):
                gradient = loop.gradient(x, on_host, rng.integers(0, _QUEUE, _BATCH))
                x, optimiser = step(x, optimiser, gradient)
            jax.block_until_ready(x)
        return time.perf_counter() - started

    return measure


def check_equal(one: PyTree, other: PyTree) -> None:
    """AssertionError unless two gradients agree to float32."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
