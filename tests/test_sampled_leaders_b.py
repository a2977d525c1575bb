"""PARL, Unrolled and PBRL from samples, held against the exact hyper-gradient of tables.

Everything random is seeded, so these tests give the same numbers every time; the bounds in standard errors
say how surprising another seed would be allowed to be.
"""

from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rewardsmith as rs
from rewardsmith._core import MLP
from rewardsmith.agents.networks import TanhGaussianPolicy
from rewardsmith.bilevel.enumeration import exact_upper_loss
from rewardsmith.bilevel.sampled._scores import draw_curvature
from rewardsmith.bilevel.sampled.baselines import LinearBaseline
from rewardsmith.bilevel.sampled.data import Evidence, Follower, LabelledClips, Visits
from rewardsmith.bilevel.sampled.features import OneHotPairs, OneHotStates
from rewardsmith.bilevel.sampled.parl import SampledPARL
from rewardsmith.bilevel.sampled.pbrl import SampledPBRL
from rewardsmith.bilevel.sampled.table import (
    draw_clips,
    draw_evidence,
    exact_follower,
    exact_followers,
    on_clips,
    step_on_table,
)
from rewardsmith.bilevel.sampled.unrolled import SampledUnrolled
from rewardsmith.mdp import solve_policy, state_occupancy
from rewardsmith.problem import BilevelProblem, PreferenceLoss, SimulatedWorld
from rewardsmith.problems import make

pytestmark = pytest.mark.usefixtures("double_precision")

SGD = optax.sgd(1.0)


class Case:
    """A task with its exact answers."""

    def __init__(self, name, horizon=None, **options):
        task = make(name, **options)
        self.exact = task.problem
        self.problem = on_clips(task.problem, horizon)
        self.x = task.start(jax.random.key(0))
        self.hypergradient = np.asarray(rs.hypergradient(task.problem, self.x)[1])
        self.follower = exact_follower(self.problem, self.problem.reward(self.x))
        self.pi = self.follower.policy.table
        # (∂f/∂x, ∂f/∂π).
        loss = jax.jit(jax.grad(partial(exact_upper_loss, self.exact), argnums=(0, 1)))
        first, self.slope = loss(self.x, self.pi)
        self.second = self.hypergradient - np.asarray(first)
        states, actions = self.pi.shape
        self.baseline = LinearBaseline(OneHotStates(states), 1e-6)
        self.features = {"features": OneHotPairs(states, actions), "state_features": OneHotStates(states)}
        self.visits = np.asarray(state_occupancy(self.problem.world, self.pi))


@cache
def case(name):
    with jax.enable_x64(True):
        if name == "preference":
            return Case("preference")
        if name == "warm":
            # All actions are taken often, so that the Fisher matrix is known from few samples.
            return Case("preference", temperature=2.0)
        return Case("contract", levels=5, efforts=3, horizon=40)


def begin(leader, of):
    return leader.init(of.x, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), jax.random.key(0))


def second_terms(leader, of, count, repeats, seed=0):
    """`repeats` estimates of the second term, (repeats, n), each of `count` fresh tuples."""

    @eqx.filter_jit
    def all_of_them(state, keys):
        followers = exact_followers(leader, of.problem, state)

        def one(key):
            draw_key, step_key = jax.random.split(key)
            evidence = draw_evidence(leader.needs, of.problem, followers, draw_key, count)
            return leader._second(of.problem, of.x, evidence, step_key)

        return jax.lax.map(one, keys)

    keys = jax.random.split(jax.random.key(seed), repeats)
    return np.asarray(all_of_them(begin(leader, of), keys))


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def relative_error(estimate, exact):
    return np.linalg.norm(estimate - exact) / np.linalg.norm(exact)


def mean_and_error(samples):
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples))


def fisher(of):
    """E[Σ_k γ^k F(s_k)] of a table's logits, (SA, SA), by hand."""
    states, actions = of.pi.shape
    matrix = np.zeros((states, actions, states, actions))
    for state, row in enumerate(np.asarray(of.pi)):
        matrix[state, :, state, :] = of.visits[state] * (np.diag(row) - np.outer(row, row))
    return matrix.reshape(of.pi.size, of.pi.size)


def mixed_derivative(of):
    """∂²_{xθ}V of a table's logits, (n, SA), by differentiating the exact V."""
    world = of.problem.world

    def value(x, logits):
        pi = jax.nn.softmax(logits, axis=1)
        reward = of.problem.reward(x)
        gained = jnp.sum(pi * (reward - of.problem.tau * jax.nn.log_softmax(logits, axis=1)), axis=1)
        return world.initial @ solve_policy(world, pi, gained)[0]

    both = jax.jit(jax.jacfwd(jax.grad(value), argnums=1))
    return np.asarray(both(of.x, of.follower.policy.logits)).reshape(of.x.size, -1)


def slope_of_logits(of):
    """∂f/∂θ of a table's logits, (SA,)."""
    centred = of.slope - jnp.sum(of.pi * of.slope, axis=1, keepdims=True)
    return np.asarray(of.pi * centred).ravel()


# ---- what both follow from ----------------------------------------------------------------------


def test_curvature_is_the_fisher_matrix():
    of = case("warm")
    leader = SampledPARL(SGD, of.baseline)
    clips = draw_clips(of.problem, of.follower, leader.needs, jax.random.key(1), 256)
    curvature = draw_curvature(of.follower.policy, clips, of.problem.world.discount, 2**16, jax.random.key(2))
    product = curvature.operator()
    shape = of.pi.shape

    def column(v):
        policy = eqx.tree_at(lambda p: p.logits, of.follower.policy, v.reshape(shape))
        return product(policy).logits.ravel()

    sampled = np.asarray(curvature.mass * jax.jit(jax.vmap(column))(jnp.eye(of.pi.size)))
    exact = fisher(of)
    assert relative_error(sampled, exact) < 0.05
    np.testing.assert_allclose(curvature.mass * curvature.trace(), np.trace(sampled), rtol=1e-6)
    # And it is the curvature of V: both formulas of the second term start from this.
    np.testing.assert_allclose(
        mixed_derivative(of) @ np.linalg.pinv(of.problem.tau * exact, rcond=1e-9) @ slope_of_logits(of),
        of.second,
        rtol=1e-5,
        atol=1e-8,
    )


# ---- PARL ---------------------------------------------------------------------------------------


def test_parl_is_the_hypergradient():
    of = case("warm")
    leader = SampledPARL(SGD, of.baseline, 60, damping=1e-4, curvature_batch=8192)
    samples = second_terms(leader, of, 512, 64)
    mean, error = mean_and_error(samples)
    assert (abs(mean - of.second) < 4 * error).all()
    assert cosine(mean, of.second) > 0.995
    assert relative_error(mean, of.second) < 0.1


def test_parl_gets_better_with_samples_and_less_damping():
    of = case("contract")
    few, many = (
        np.mean([cosine(g, of.second) for g in second_terms(leader, of, count, 8)])
        for leader, count in (
            (SampledPARL(SGD, of.baseline, 60, damping=1.0), 64),
            (SampledPARL(SGD, of.baseline, 60, damping=1e-3, curvature_batch=4096), 1024),
        )
    )
    assert few < 0.98
    assert many > 0.995


# ---- Unrolled -----------------------------------------------------------------------------------


def richardson(of, steps, step_size):
    """What K steps give when nothing is sampled: ∂²_{xθ}V (1 − (1 − ηC)^K) C⁻¹ ∂f/∂θ."""
    curvature = of.problem.tau * fisher(of)
    values, vectors = np.linalg.eigh(curvature)
    share = step_size * values / np.trace(curvature)
    inverse = np.where(values > 1e-9, 1 - (1 - share) ** steps, 0.0) / np.where(values > 1e-9, values, 1.0)
    return mixed_derivative(of) @ (vectors * inverse) @ vectors.T @ slope_of_logits(of)


def test_unrolled_is_richardsons_iteration():
    of = case("warm")
    leader = SampledUnrolled(SGD, of.baseline, 60, steps=3, tuples=512, curvature_batch=4096)
    samples = second_terms(leader, of, 1024, 64)
    mean, error = mean_and_error(samples)
    limit = richardson(of, 3, leader.step_size)
    # 1 %: the step is measured in a trace that is sampled.
    assert (abs(mean - limit) < 4 * error + 0.01 * abs(limit)).all()
    assert relative_error(mean, limit) < 0.1
    assert relative_error(mean, of.second) > 0.3


def test_unrolled_gets_better_with_steps():
    of = case("contract")
    cosines = [
        np.mean(
            [
                cosine(g, of.second)
                for g in second_terms(
                    SampledUnrolled(SGD, of.baseline, 60, steps=steps, step_size=1.0, tuples=512), of, 1024, 6
                )
            ]
        )
        for steps in (1, 8)
    ]
    assert cosines[0] < cosines[1] - 0.01
    assert cosines[1] > 0.98


# ---- PBRL ---------------------------------------------------------------------------------------


def pbrl_gradients(of, penalty, visited, count, warm, repeats):
    """x held still while y settles; then `repeats` gradients, (repeats, n)."""
    leader = SampledPBRL(SGD, of.baseline, penalty, ridge=1e-6, visited=visited, **of.features)

    @eqx.filter_jit
    def all_of_them(state, keys):
        def one(state, key):
            moved, _ = step_on_table(leader, of.problem, state, key, count)
            return eqx.tree_at(lambda s: s.memory, state, moved.memory), state.x - moved.x

        return jax.lax.scan(one, state, keys)[1]

    keys = jax.random.split(jax.random.key(3), warm + repeats)
    return np.asarray(all_of_them(begin(leader, of), keys))[warm:]


def test_credit_is_what_an_action_does_to_the_loss():
    of = case("warm")
    leader = SampledPBRL(SGD, of.baseline, 10.0, ridge=1e-6, visited=2**15, **of.features)
    step = eqx.filter_jit(partial(step_on_table, leader, of.problem, count=2**13))
    state, stats = step(begin(leader, of), jax.random.key(1))
    state = eqx.tree_at(lambda s: s.x, state, of.x)
    states, actions = jnp.meshgrid(*map(jnp.arange, of.pi.shape), indexing="ij")
    rewards = jax.vmap(jax.vmap(partial(leader.rewards, of.problem, state)))(states, actions)
    np.testing.assert_array_equal(rewards[..., 1], of.problem.reward(of.x))
    credit = 10.0 * (rewards[..., 1] - rewards[..., 0])
    exact = (of.slope - jnp.sum(of.pi * of.slope, axis=1, keepdims=True)) / of.visits[:, None]
    assert relative_error(np.asarray(credit), np.asarray(exact)) < 0.1
    np.testing.assert_allclose(jnp.sum(of.pi * credit, axis=1), 0.0, atol=0.02 * float(jnp.max(abs(credit))))
    assert float(stats.first_norm) > 0 and float(stats.second_norm) > 0


def test_pbrl_without_credit_is_the_first_term():
    # Before the first step y = π̂: the penalty's gradient is noise about 0, and 0 for the same steps.
    of = case("warm")
    leader = SampledPBRL(SGD, of.baseline, visited=200, **of.features)
    state = begin(leader, of)
    evidence = draw_evidence(leader.needs, of.problem, [of.follower] * 2, jax.random.key(0), 16)
    same = jax.tree.map(lambda leaf: leaf.at[1].set(leaf[0]), evidence.visited)
    evidence = eqx.tree_at(lambda e: e.visited, evidence, same)
    _, stats = eqx.filter_jit(partial(leader.step, of.problem))(state, evidence, jax.random.key(1))
    assert float(stats.second_norm) < 1e-9 < float(stats.first_norm)


def test_pbrl_bias_falls_with_the_penalty():
    of = case("preference")
    weak, strong = (
        cosine(pbrl_gradients(of, penalty, 2**16, 1024, 8, 8).mean(axis=0), of.hypergradient)
        for penalty in (0.3, 3.0)
    )
    assert 0.5 < weak < 0.9
    assert strong > 0.98
    # The first term alone points away.
    assert cosine(of.hypergradient - of.second, of.hypergradient) < 0


# ---- all of them --------------------------------------------------------------------------------


def leaders(of, optimiser):
    return {
        "parl": SampledPARL(optimiser, of.baseline, 30, damping=0.01),
        "unrolled": SampledUnrolled(optimiser, of.baseline, 30, steps=8, step_size=1.0, tuples=64),
        "pbrl": SampledPBRL(optimiser, of.baseline, 10.0, ridge=1e-6, visited=2**13, **of.features),
    }


@pytest.mark.parametrize("name", ["preference", "contract"])
@pytest.mark.parametrize("method", ["parl", "unrolled", "pbrl"])
def test_thirty_steps_lower_the_loss(name, method):
    of = case(name)
    leader = leaders(of, optax.adam(0.05))[method]

    @eqx.filter_jit
    def run(state, keys):
        def step(state, key):
            return step_on_table(leader, of.problem, state, key, 128)

        return jax.lax.scan(step, state, keys)

    state, stats = run(begin(leader, of), jax.random.split(jax.random.key(4), 30))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(stats))
    before, after = (float(rs.hypergradient(of.exact, x)[0]) for x in (of.x, state.x))
    assert after < before - 0.1


@pytest.mark.parametrize("method", ["parl", "unrolled"])
def test_steps_behind_an_end_are_not_used(method):
    of = case("warm")
    leader = leaders(of, SGD)[method]
    clips = draw_clips(of.problem, of.follower, leader.needs, jax.random.key(1), 16)
    valid = clips.valid.at[:, :, 9:].set(False)

    @jax.jit
    def second(observations, valid):
        recent = LabelledClips(observations, clips.actions, valid, None)
        return leader._second(of.problem, of.x, Evidence(recent, recent, of.follower), jax.random.key(2))

    ended = second(clips.observations, valid)
    np.testing.assert_allclose(second(clips.observations.at[:, :, 9:].set(0), valid), ended, rtol=1e-10)
    assert relative_error(second(clips.observations, clips.valid), ended) > 1e-3


@pytest.mark.parametrize("method", ["parl", "unrolled", "pbrl"])
def test_networks_in_single_precision(method):
    with jax.enable_x64(False):
        sizes, keys = (6, 2, 12), jax.random.split(jax.random.key(0), 6)
        policy = TanhGaussianPolicy(3, 2, (8,), key=keys[0])
        net = MLP([5, 8, 1], key=keys[1])
        problem = BilevelProblem(
            SimulatedWorld("none", 0.9),
            lambda x, observation, action: x(jnp.concatenate([observation, action]))[0],
            PreferenceLoss(4),
            "auto",
        )
        observations = jax.random.normal(keys[2], (*sizes, 3))
        actions = jnp.tanh(jax.random.normal(keys[3], (*sizes, 2)))
        clips = LabelledClips(observations, actions, jnp.ones(sizes, bool), jnp.ones(6))
        seen, taken = observations.reshape(2, 72, 3), actions.reshape(2, 72, 2)
        visited = jax.vmap(lambda o, a: Visits(o, a, o, jnp.zeros(72, bool), jnp.full(72, 10 / 72)))(
            seen, taken
        )
        evidence = Evidence(clips, clips, Follower(policy, jnp.array(0.1)), None, visited)
        leader = {
            "parl": SampledPARL(optax.adam(1e-3), further=8, curvature_batch=16),
            "unrolled": SampledUnrolled(optax.adam(1e-3), further=8, tuples=2, curvature_batch=16),
            "pbrl": SampledPBRL(optax.adam(1e-3)),
        }[method]
        state = leader.init(net, observations[0, 0, 0], actions[0, 0, 0], keys[4])

        @eqx.filter_jit
        def run(state, keys):
            moving, rest = eqx.partition(state, eqx.is_array)

            def step(moving, key):
                new, stats = leader.step(problem, eqx.combine(moving, rest), evidence, key)
                return eqx.filter(new, eqx.is_array), stats

            moving, stats = jax.lax.scan(step, moving, keys)
            return eqx.combine(moving, rest), stats

        new, stats = run(state, jax.random.split(keys[5], 3))
        for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True):
            if eqx.is_array(before):
                assert before.dtype == after.dtype and before.shape == after.shape
                assert jnp.isfinite(after).all()
        assert (stats.second_norm > 0).all() and jnp.isfinite(stats.second_norm).all()


def test_bad_settings():
    for bad in (
        lambda: SampledPARL(SGD, further=-1),
        lambda: SampledPARL(SGD, damping=0.0),
        lambda: SampledPARL(SGD, cg_steps=0),
        lambda: SampledPARL(SGD, curvature_batch=0),
        lambda: SampledPARL(SGD, weight=-1.0),
        lambda: SampledUnrolled(SGD, further=-1),
        lambda: SampledUnrolled(SGD, steps=0),
        lambda: SampledUnrolled(SGD, step_size=float("inf")),
        lambda: SampledUnrolled(SGD, tuples=1),
        lambda: SampledUnrolled(SGD, bound=0.0),
        lambda: SampledPBRL(SGD, penalty=0.0),
        lambda: SampledPBRL(SGD, ridge=0.0),
        lambda: SampledPBRL(SGD, rate=0.0),
        lambda: SampledPBRL(SGD, num_actions=1),
        lambda: SampledPBRL(SGD, visited=0),
    ):
        with pytest.raises(rs.InputError, match="give"):
            bad()


@pytest.mark.parametrize("method, count", [("parl", 1), ("unrolled", 3)])
def test_batches_too_small_to_share_out(method, count):
    of = case("warm")
    leader = leaders(of, SGD)[method]
    clips = draw_clips(of.problem, of.follower, leader.needs, jax.random.key(1), count)
    with pytest.raises(rs.InputError, match="give at least"):
        leader._second(of.problem, of.x, Evidence(clips, clips, of.follower), jax.random.key(2))
