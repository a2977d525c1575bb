"""Tables with their exact answers, and sampled estimates of them; shared by the tests of sampled leaders.

Everything random is seeded. Bounds in standard errors say how surprising another seed may be; bounds on
cosines are for the stated budget of clips.
"""

from collections.abc import Callable
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rewardsmith import hypergradient
from rewardsmith._core import MLP
from rewardsmith.agents.networks import TanhGaussianPolicy
from rewardsmith.bilevel.enumeration import exact_upper_loss
from rewardsmith.bilevel.sampled.baselines import Baseline, LinearBaseline
from rewardsmith.bilevel.sampled.data import Evidence, Follower, LabelledClips, Visits
from rewardsmith.bilevel.sampled.estimator import Estimator
from rewardsmith.bilevel.sampled.features import OneHotPairs, OneHotStates
from rewardsmith.bilevel.sampled.leader import LeaderState, lead
from rewardsmith.bilevel.sampled.table import (
    TablePolicy,
    draw_clips,
    draw_evidence,
    exact_follower,
    on_clips,
    step_on_table,
)
from rewardsmith.bilevel.sampled.terms import second_term
from rewardsmith.mdp import solve_policy, state_occupancy
from rewardsmith.problem import BilevelProblem, PreferenceLoss, SimulatedWorld
from rewardsmith.problems import make
from rewardsmith.problems.preference import preference_from

# One step moves x by minus the gradient.
SGD = optax.sgd(1.0)


class Table:
    """A task with its exact answers at its start x; arrays of all pairs (s, a) have one axis, N = S·A."""

    def __init__(self, task, horizon=None):
        self.exact, self.problem = task.problem, on_clips(task.problem, horizon)
        self.x = task.start(jax.random.key(0))
        self.solve = jax.jit(lambda x: exact_follower(self.problem, self.problem.reward(x)))
        self.follower = self.solve(self.x)
        policy = self.follower.policy
        assert isinstance(policy, TablePolicy)
        self.logits, self.pi = policy.logits, np.asarray(policy.table)
        self.states, self.actions = self.pi.shape
        self.discount, self.tau = float(self.problem.world.discount), float(self.problem.tau)

        @jax.jit
        def exact(x, pi):
            slopes = jax.grad(partial(exact_upper_loss, self.exact), argnums=(0, 1))(x, pi)
            return *hypergradient(self.exact, x), *slopes, state_occupancy(self.problem.world, pi)

        found = [np.asarray(a) for a in exact(self.x, policy.table)]
        # f, ∇φ, ∂f/∂x, ∂f/∂π and Σ_k γ^k P(s_k = s).
        self.loss, self.hypergradient, self.first, self.slope, self.visits = found
        self.second = self.hypergradient - self.first
        self.pairs, self.one_hot_states = OneHotPairs(self.states, self.actions), OneHotStates(self.states)
        self.baseline = LinearBaseline(self.one_hot_states, 1e-6)

    def begun(self, leader, x=None):
        index = jnp.zeros((), jnp.int32)
        return leader.init(self.x if x is None else x, index, index, jax.random.key(7))

    @cached_property
    def slope_of_logits(self):
        """∂f/∂θ, (N,)."""
        return (self.pi * (self.slope - np.sum(self.pi * self.slope, axis=1, keepdims=True))).ravel()

    @cached_property
    def reward_gradients(self):
        """∇r, (N, n)."""
        return np.asarray(jax.jit(jax.jacobian(self.problem.reward))(self.x)).reshape(self.pi.size, -1)

    @cached_property
    def transition(self):
        """P, (N, S)."""
        return np.asarray(self.problem.world.transition).reshape(-1, self.states)

    @cached_property
    def acting(self):
        """π, (S, N), 0 at pairs of other states."""
        return np.einsum("sa,st->tsa", self.pi, np.eye(self.states)).reshape(self.states, -1)

    @cached_property
    def moves(self):
        """P π, (N, N)."""
        return self.transition @ self.acting

    @cached_property
    def fisher(self):
        """E[Σ_k γ^k F(s_k)] of the logits, (N, N)."""
        blocks = [
            visits * (np.diag(row) - np.outer(row, row))
            for visits, row in zip(self.visits, self.pi, strict=True)
        ]
        return np.asarray(jax.scipy.linalg.block_diag(*blocks))

    @cached_property
    def mixed_derivative(self):
        """∂²_{xθ}V of the logits, (n, N), by differentiating the exact V."""
        world = self.problem.world

        def value(x, logits):
            pi = jax.nn.softmax(logits, axis=1)
            gain = self.problem.reward(x) - self.problem.tau * jax.nn.log_softmax(logits, axis=1)
            return world.initial @ solve_policy(world, pi, jnp.sum(pi * gain, axis=1))[0]

        both = jax.jit(jax.jacfwd(jax.grad(value), argnums=1))
        return np.asarray(both(self.x, self.logits)).reshape(self.x.size, -1)


@cache
def table(name):
    """Of these names: what is exact about them is computed once for all tests."""
    with jax.enable_x64(True):
        if name == "preference":
            return Table(make("preference"))
        if name == "warm":
            # All actions are taken often, so that the Fisher matrix is known from few samples.
            return Table(make("preference", temperature=2.0))
        if name == "contract":
            # Long clips that earn.
            return Table(make("contract", levels=5, efforts=3), horizon=40)
        assert name == "deterministic"
        rng = np.random.default_rng(3)
        successors = np.array([[1, 2], [2, 0], [0, 1]])
        initial, features = rng.dirichlet(np.ones(3)), rng.normal(size=(3, 2, 4))
        truth = 2.0 * rng.normal(size=(3, 2))
        return Table(preference_from(np.eye(3)[successors], initial, features, truth, 2, 0.8, 0.5))


# ---- estimates ----------------------------------------------------------------------------------


class Way(NamedTuple):
    """To estimate a second term: an estimator, a baseline, and what is done to the evidence before."""

    estimator: Estimator
    baseline: Baseline
    change: Callable[[Evidence, jax.Array], Evidence] = lambda evidence, key: evidence


def second_terms(of, ways, count, keys):
    """(ways, keys, n), each key's from the same `count` tuples, drawn as the first way needs them."""

    @jax.jit
    def all_of_them(keys):
        def one(key):
            draw_key, change_key, key = jax.random.split(key, 3)
            drawn = draw_evidence(ways[0].estimator.needs, of.problem, [of.follower], draw_key, count)

            def second(way):
                evidence = way.change(drawn, change_key)
                return second_term(
                    of.problem,
                    of.x,
                    evidence.recent,
                    of.follower,
                    way.estimator,
                    way.baseline,
                    key,
                    visits=evidence.visits,
                )

            return [second(way) for way in ways]

        return jax.lax.map(one, keys)

    return np.asarray(all_of_them(keys))


class Steps(NamedTuple):
    """What a leader with `SGD` did, (runs, steps, ...): its directions, memories and stats."""

    gradients: Any
    memories: Any
    stats: Any


def steps_of(leader, of, count, runs, steps, state=None, rate=0.0, seed=1):
    """`leader` goes on remembering, but x moves by `rate` times its step: 0 for many estimates at one x."""
    state = of.begun(leader) if state is None else state
    keys = jax.random.split(jax.random.key(seed), (runs, steps))
    found = _steps_of(leader, of.problem, state, keys, count, jnp.asarray(rate))
    return Steps(np.asarray(found.gradients), found.memories, found.stats)


@eqx.filter_jit
def _steps_of(leader, problem, state, keys, count, rate):
    def body(state, key):
        moved, stats = step_on_table(leader, problem, state, key, count)
        gradient = state.x - moved.x
        after = LeaderState(state.x - rate * gradient, moved.optimiser, moved.memory)
        return after, Steps(gradient, moved.memory, stats)

    return jax.vmap(lambda keys: jax.lax.scan(body, state, keys)[1])(keys)


def session(leader, of):
    """The state and stats after 3 steps on a queue of 24 comparisons that one follower made."""

    @eqx.filter_jit
    def run(state, keys):
        clips = draw_clips(of.problem, of.follower, leader.needs, keys[0], 24)
        return lead(
            leader,
            of.problem,
            state,
            clips,
            jnp.int32(24),
            of.follower,
            keys[1],
            num_steps=3,
            batch_size=8,
            recent_batch_size=8,
            recent=16,
        )

    state, stats = run(of.begun(leader), jax.random.split(jax.random.key(1)))
    assert np.isfinite(state.x).all() and (state.x != of.x).any()
    assert np.isfinite(jax.tree.leaves(stats)).all() and stats.second_norm > 0
    return state, stats


# ---- arrays for observations and actions, networks for x and π, float32 -------------------------


class Networks(NamedTuple):
    """A made-up moment of a training run: 6 pairs of clips of 4 steps and 8 behind each."""

    problem: BilevelProblem
    x: MLP
    evidence: Evidence

    def begun(self, leader):
        observation, action = jnp.zeros(3, jnp.float32), jnp.zeros(2, jnp.float32)
        return eqx.filter_jit(leader.init)(self.x, observation, action, jax.random.key(7))


@cache
def networks():
    """Both policies were at the same steps."""
    with jax.enable_x64(False):
        return eqx.filter_jit(_networks)()


def _networks():
    rng = np.random.default_rng(0)
    observations = jnp.asarray(rng.normal(size=(6, 2, 12, 3)), jnp.float32)
    actions = jnp.asarray(np.tanh(rng.normal(size=(6, 2, 12, 2))), jnp.float32)
    clips = LabelledClips(observations, actions, jnp.ones((6, 2, 12), bool), jnp.ones(6, jnp.float32))
    flat = observations.reshape(-1, 3), actions.reshape(-1, 2)
    size = len(flat[0])
    visits = Visits(*flat, flat[0], jnp.zeros(size, bool), jnp.full(size, 10 / size, jnp.float32))
    visited = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), visits)
    follower = Follower(TanhGaussianPolicy(3, 2, (8,), key=jax.random.key(0)), jnp.float32(0.1))
    problem = BilevelProblem(
        SimulatedWorld("none", 0.9),
        lambda x, observation, action: x(jnp.concatenate([observation, action]))[0],
        PreferenceLoss(4),
        "auto",
    )
    x = MLP([5, 8, 1], key=jax.random.key(1))
    return Networks(problem, x, Evidence(clips, clips, follower, visits, visited))


def three_steps(leader, of, evidence=None):
    """The compiled step, and states and stats of three; the form of a state must not change."""
    step = eqx.filter_jit(partial(leader.step, of.problem))
    states, stats = [of.begun(leader)], []
    for key in jax.random.split(jax.random.key(5), 3):
        state, told = step(states[-1], of.evidence if evidence is None else evidence, key)
        states.append(state)
        stats.append(told)
    for before, after in zip(jax.tree.leaves(states[0]), jax.tree.leaves(states[-1]), strict=True):
        if eqx.is_array(before):
            assert before.dtype == after.dtype and before.shape == after.shape
            assert np.isfinite(after).all()
    assert np.isfinite([told.second_norm for told in stats]).all()
    return step, states, stats


# ---- how far off --------------------------------------------------------------------------------


def standard_scores(samples, wanted):
    """How many of its standard errors the mean of samples (N, n) is off."""
    return abs(samples.mean(axis=0) - wanted) / (samples.std(axis=0, ddof=1) / np.sqrt(len(samples)))


def relative_error(estimate, wanted):
    return np.linalg.norm(estimate - wanted) / np.linalg.norm(wanted)


def cosine(estimates, wanted):
    """Of one estimate (n,), or of each of many."""
    return estimates @ wanted / (np.linalg.norm(estimates, axis=-1) * np.linalg.norm(wanted))
