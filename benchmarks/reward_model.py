"""Learning a reward from comparisons: one compiled call, against a Python loop over pairs."""

import time
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from rewardsmith.bilevel import DRLHF, Follower, LabelledClips, first_term, lead
from rewardsmith.problem import BilevelProblem, PreferenceLoss, SimulatedWorld
from rewardsmith.rewards import RewardEnsemble

from .subject import PEERS, Side, Subject

PACKAGES = ("rewardsmith", "jax", "equinox", "optax", "numpy")
_OBSERVATION, _ACTION, _STEPS, _MEMBERS = 17, 6, 25, 3
_QUEUE, _BATCH, _SESSION = 3000, 64, 50


def subject(quick: bool) -> Subject:
    ours = Side("one compiled call", (__name__,), {"how": "compiled"}, multiple=_SESSION)
    loop = Side("loop over pairs, JAX", (__name__,), {"how": "loop"})
    torch = Side("loop over pairs, torch", ("benchmarks.peers", "torch", "reward-model"), home=PEERS)
    return Subject(
        name="reward-model",
        title="Reward model",
        how=(
            f"Updates of an ensemble of {_MEMBERS} networks (128, 128) on batches of {_BATCH} pairs of clips "
            f"of {_STEPS} steps, HalfCheetah sizes. Ours: `lead` with drlhf, {_SESSION} updates in one "
            "compiled call. Peers: Python loops over the pairs of a batch, then the same Adam step. In JAX "
            "the gradient of a pair is compiled and added to the sum (checked to give the gradient of the "
            "compiled call before it is timed); in torch each member and pair is a forward pass of its own, "
            "as published code has it, and one backward pass follows."
        ),
        unit="updates/s",
        sides=(ours, loop, torch),
        ratios=((ours.label, loop.label), (ours.label, torch.label)),
        rounds=5 if quick else 7,
        seconds=1.0,
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


def make_reward(key: Array) -> RewardEnsemble:
    return RewardEnsemble(_OBSERVATION, _ACTION, num_members=_MEMBERS, key=key)


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
        total = self._zeros(x)
        for i in pairs:
            total = self._add_pair(x, total, clips.observations[i], clips.actions[i], clips.label[i])
        return self._mean(total, float(len(pairs)))


def build():
    problem, leader = make_problem(), DRLHF(optax.adam(3e-4))
    rng = np.random.default_rng(0)
    clips = make_clips(_QUEUE, rng)
    loop = PairLoop(problem)
    state = leader.init(make_reward(jax.random.key(0)))
    follower = Follower(lambda observation: observation, jnp.asarray(0.1))  # drlhf never asks it.
    on_host = jax.tree.map(np.asarray, clips)  # Where a loop indexes fastest.

    @jax.jit
    def session(state, clips, call):
        return lead(
            leader,
            problem,
            state,
            clips,
            jnp.asarray(_QUEUE),
            follower,
            jax.random.fold_in(jax.random.key(0), call),
            num_steps=_SESSION,
            batch_size=_BATCH,
            recent_batch_size=_BATCH,
            recent=_BATCH,
        )

    @jax.jit
    def step(x, optimiser, gradient):
        updates, optimiser = leader.optimiser.update(gradient, optimiser, x)
        return eqx.apply_updates(x, updates), optimiser

    pairs = rng.integers(0, _QUEUE, _BATCH)
    ours = batch_gradient(problem, state.x, clips, pairs)
    check_equal(loop.gradient(state.x, on_host, pairs), ours)

    def measure(count: int, how: str) -> float:
        started = time.perf_counter()
        reached = state
        if how == "compiled":
            for call in range(count // _SESSION):
                reached, _ = session(reached, clips, call)
            jax.block_until_ready(reached)
        else:
            x, optimiser = state.x, state.optimiser
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
