"""`Branch`, `FittedAdjoint` and the shared `Suffix` against exact hyper-gradients of tables."""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith import hypergradient
from rewardsmith.bilevel.enumeration import exact_upper_loss
from rewardsmith.bilevel.sampled.adjoint import FittedAdjoint, least_squares_density, projected_density
from rewardsmith.bilevel.sampled.baselines import Baseline, LinearBaseline
from rewardsmith.bilevel.sampled.branch import Branch
from rewardsmith.bilevel.sampled.data import Branches, LabelledClips
from rewardsmith.bilevel.sampled.features import (
    OneHotPairs,
    OneHotStates,
    RandomFeatures,
)
from rewardsmith.bilevel.sampled.suffix import Suffix
from rewardsmith.bilevel.sampled.table import TablePolicy, draw_evidence, exact_follower, on_clips
from rewardsmith.bilevel.sampled.terms import second_term
from rewardsmith.mdp import MDP, roll_out_from, state_action_occupancy
from rewardsmith.problem import BilevelProblem
from rewardsmith.problems import make
from rewardsmith.problems.preference import preference_from

pytestmark = pytest.mark.usefixtures("double_precision")

STATES, ACTIONS, HORIZON, FURTHER = 3, 2, 2, 30
PAIRS = OneHotPairs(STATES, ACTIONS)
BASELINE = LinearBaseline(OneHotStates(STATES), 1e-6)


class Exact(NamedTuple):
    """A problem with its exact quantities, all pairs (s, a) in one axis of length N = S·A."""

    problem: BilevelProblem[MDP]
    x: jax.Array
    follower: Any
    second: np.ndarray
    # P (N, S), π (S, N) with 0 at pairs of other states, K = P π (N, N).
    transition: np.ndarray
    acting: np.ndarray
    moves: np.ndarray
    # ∂E[l]/∂ logits is b: E l Σ (δ_{s,a} − δ_s ⊗ π).
    measure: np.ndarray
    gradients: np.ndarray
    discount: float
    tau: float

    @property
    def q_gradients(self):
        return np.linalg.solve(np.eye(len(self.moves)) - self.discount * self.moves, self.gradients)

    @property
    def adjoint(self):
        return np.linalg.solve(np.eye(len(self.moves)) - self.discount * self.moves.T, self.measure)


def exact(task):
    x = task.start(jax.random.key(0))
    problem = on_clips(task.problem)
    follower = exact_follower(problem, problem.reward(x))
    policy = follower.policy
    assert isinstance(policy, TablePolicy)
    logits = policy.logits

    @jax.jit
    def derivatives(x):
        loss = partial(exact_upper_loss, task.problem)
        first = jax.grad(loss)(x, jax.nn.softmax(logits))
        measure = jax.grad(lambda logits: loss(x, jax.nn.softmax(logits)))(logits)
        return hypergradient(task.problem, x)[1] - first, measure, jax.jacobian(problem.reward)(x)

    second, measure, gradients = (np.asarray(a) for a in derivatives(x))
    states, actions = measure.shape
    assert isinstance(problem.world.transition, jax.Array)
    transition = np.asarray(problem.world.transition).reshape(-1, states)
    acting = np.einsum("sa,st->tsa", policy.table, np.eye(states)).reshape(states, -1)
    return Exact(
        problem,
        x,
        follower,
        second,
        transition,
        acting,
        transition @ acting,
        measure.ravel(),
        gradients.reshape(states * actions, -1),
        float(problem.world.discount),
        float(problem.tau),
    )


@pytest.fixture(scope="module")
def stochastic():
    with jax.enable_x64(True):
        return exact(make("preference"))


@pytest.fixture(scope="module")
def deterministic():
    rng = np.random.default_rng(3)
    successors = np.array([[1, 2], [2, 0], [0, 1]])
    with jax.enable_x64(True):
        task = preference_from(
            np.eye(STATES)[successors],
            rng.dirichlet(np.ones(STATES)),
            rng.normal(size=(STATES, ACTIONS, 4)),
            2.0 * rng.normal(size=(STATES, ACTIONS)),
            HORIZON,
            0.8,
            0.5,
        )
        return exact(task)


def sampled(case, ways, count, keys, variants=lambda clips, key: [clips]):
    """Second terms (variants · ways, keys, n), each key's from `count` tuples.

    A way is an estimator and a baseline; all variants of the clips of a key go to each.
    """

    @jax.jit
    def run(keys):
        def one(key):
            draw_key, change_key, key = jax.random.split(key, 3)
            evidence = draw_evidence(ways[0][0].needs, case.problem, [case.follower], draw_key, count)
            return [
                second_term(
                    case.problem,
                    case.x,
                    clips,
                    case.follower,
                    estimator,
                    baseline,
                    key,
                    visits=evidence.visits,
                )
                for clips in variants(evidence.recent, change_key)
                for estimator, baseline in ways
            ]

        return jax.lax.map(one, keys)

    return np.asarray(run(keys))


def standard_scores(samples, wanted):
    return abs(samples.mean(axis=0) - wanted) / (samples.std(axis=0, ddof=1) / np.sqrt(len(samples)))


def relative_error(estimate, wanted):
    return np.linalg.norm(estimate - wanted) / np.linalg.norm(wanted)


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


# ---- branch -------------------------------------------------------------------------------------


class StateBaseline(Baseline):
    """A bad one: 3 times the number of the state."""

    def fit(self, observations, losses):
        return 3.0 * observations.astype(losses.dtype)


def test_branch_is_right_with_values_or_with_the_baseline(stochastic):
    cases = {
        (values, good): (Branch(2, FURTHER, values=values), BASELINE if good else StateBaseline())
        for values in (True, False)
        for good in (True, False)
    }
    keys = jax.random.split(jax.random.key(1), 48)
    found = sampled(stochastic, list(cases.values()), 256, keys)
    for (values, good), samples in zip(cases, found, strict=True):
        scores = standard_scores(samples, stochastic.second)
        if values or good:
            assert (scores < 4).all()
            assert cosine(samples.mean(axis=0), stochastic.second) > 0.98
        else:
            assert scores.max() > 20
            assert relative_error(samples.mean(axis=0), stochastic.second) > 1


def test_branch_on_long_clips_that_earn():
    with jax.enable_x64(True):
        case = exact(make("contract", levels=5, efforts=3))
    estimator = Branch(num_branches=4, length=80)
    keys = jax.random.split(jax.random.key(2), 16)
    samples = sampled(case, [(estimator, LinearBaseline(OneHotStates(5), 1e-6))], 512, keys)[0]
    assert (standard_scores(samples, case.second) < 4).all()
    assert cosine(samples.mean(axis=0), case.second) > 0.95


def test_common_random_numbers_lower_the_variance(stochastic):
    world, table = stochastic.problem.world, stochastic.follower.policy.table

    def redraw(clips, key):
        """As they are, and with roll-out 1 of each pair anew from the same start."""
        branches = clips.branches
        starts = [leaf[..., 1, 0].ravel() for leaf in (branches.observations, branches.actions)]
        walks = jax.vmap(lambda key, s, a: roll_out_from(world, table, key, s, a, FURTHER))(
            jax.random.split(key, starts[0].size), *starts
        )
        pairs = (
            jnp.stack([leaf[..., 0, :], fresh.reshape(leaf[..., 1, :].shape)], axis=-2)
            for leaf, fresh in (
                (branches.observations, walks.states),
                (branches.actions, walks.actions),
                (branches.valid, walks.alive),
            )
        )
        redrawn = eqx.tree_at(lambda clips: clips.branches, clips, Branches(branches.step, *pairs))
        return [clips, redrawn]

    way, keys = (Branch(length=FURTHER), BASELINE), jax.random.split(jax.random.key(3), 128)
    common, independent = sampled(stochastic, [way], 32, keys, redraw)
    assert (standard_scores(independent, stochastic.second) < 4).all()
    assert common.var(axis=0).sum() < 0.5 * independent.var(axis=0).sum()


def test_branch_by_hand():
    """r = x · (s + a); M = 2, H = 3, T = 3, γ = ½; the second roll-out of one pair ends after 1 step."""
    observations = np.array([[[1, 2, 3], [4, 5, 6]], [[0, 1, 0], [2, 7, 7]]])[None, None]
    valid = np.array([[[1, 1, 1], [1, 1, 1]], [[1, 1, 1], [1, 0, 0]]], bool)[None, None]
    branches = Branches(*(jnp.asarray(a) for a in (np.array([[[2, 0]]]), observations, observations, valid)))
    clips = LabelledClips(jnp.zeros((1, 1, 3)), jnp.zeros((1, 1, 3)), jnp.ones((1, 1, 3), bool), None)
    clips = LabelledClips(clips.observations, clips.actions, clips.valid, None, None, branches)
    weights = jnp.array([[[10.0, 20.0, 30.0]]])

    def slope(estimator):
        def total(x):
            return estimator.surrogate(
                lambda s, a: x * (s + a), clips, weights, None, None, 0.5, jax.random.key(0)
            )

        return float(jax.grad(total)(1.0))

    first = 2 * (1 + 2 / 2 + 3 / 4), 2 * (1 / 2)
    second = 2 * (4 + 5 / 2 + 6 / 4), 2 * 2
    expected = 1.5 * (30 * (first[0] - second[0]) + 10 * (first[1] - second[1]))
    np.testing.assert_allclose(slope(Branch(2, 3)), expected)
    np.testing.assert_allclose(slope(Branch(2, 3, values=False)), 1.5 * (30 * first[0] + 10 * first[1]))


# ---- adjoint: exact moments ---------------------------------------------------------------------


def projected(case, features, law, ridge=0.0):
    """(1/τ) E_D[ω ∇r] with b, P, π and D known, for features ψ (N, f)."""
    density = jax.jit(partial(projected_density, ridge=ridge))(
        features, case.moves @ features, law, features.T @ case.measure, case.discount
    )
    return case.gradients.T @ (law * density) / case.tau


def laws(case):
    visits = state_action_occupancy(case.problem.world, case.follower.policy.table).ravel()
    yield np.asarray(visits / visits.sum())
    yield np.random.default_rng(0).dirichlet(np.ones(visits.size))


@pytest.mark.parametrize("name, options", [("preference", {}), ("contract", {"levels": 5, "efforts": 3})])
def test_projected_is_exact_on_exact_tables(name, options):
    case = exact(make(name, **options))
    for law in laws(case):
        estimate = projected(case, np.eye(len(law)), law)
        assert relative_error(estimate, case.second) < 1e-6


def test_projected_needs_the_values_or_the_adjoint(stochastic):
    rng = np.random.default_rng(1)
    for law in laws(stochastic):
        density = stochastic.adjoint / law
        holds_adjoint = np.column_stack([density, rng.normal(size=(len(law), 2))])
        for features in (stochastic.q_gradients, holds_adjoint):
            assert relative_error(projected(stochastic, features, law), stochastic.second) < 1e-6
        pairs = np.indices((STATES, ACTIONS, 1)).reshape(3, -1).T[:, :2, None].astype(float)
        many = np.stack([RandomFeatures(32)(*(jnp.asarray(a) for a in pair)) for pair in pairs])
        assert relative_error(projected(stochastic, many, law, 1e-9), stochastic.second) < 1e-3
        neither = rng.normal(size=(len(law), 3))
        assert relative_error(projected(stochastic, neither, law), stochastic.second) > 0.05


def least_squares(case, law):
    """(1/τ) E_D[(ν − γν') ∇r] with one-hot features, over all (s, a, s') with their probabilities."""
    pairs, states = case.transition.shape
    here = np.repeat(np.eye(pairs), states, axis=0)
    there = np.tile(case.acting, (pairs, 1))
    weights = (law[:, None] * case.transition).ravel()
    density = jax.jit(partial(least_squares_density, ridge=0.0))(
        here, there, there, weights, case.measure, case.discount
    )
    return np.repeat(case.gradients, states, axis=0).T @ (weights * density) / case.tau


def test_least_squares_is_exact_in_deterministic_worlds(deterministic):
    for law in laws(deterministic):
        assert relative_error(least_squares(deterministic, law), deterministic.second) < 1e-6


def test_least_squares_is_biased_in_stochastic_worlds(stochastic):
    errors = [relative_error(least_squares(stochastic, law), stochastic.second) for law in laws(stochastic)]
    # On the follower's own law, with everything known exactly.
    np.testing.assert_allclose(errors[0], 0.122, atol=0.001)
    assert min(errors) > 0.1


# ---- adjoint: sampled ---------------------------------------------------------------------------


def test_adjoint_error_falls_with_the_root_of_the_budget(stochastic):
    errors = []
    for budget in (512, 4096):
        estimator = FittedAdjoint(PAIRS, visits=budget, ridge=1e-6)
        samples = sampled(
            stochastic, [(estimator, BASELINE)], budget, jax.random.split(jax.random.key(4), 16)
        )[0]
        errors.append(np.sqrt(np.mean(np.sum((samples - stochastic.second) ** 2, axis=1))))
    assert cosine(samples[0], stochastic.second) > 0.99
    assert errors[1] < 0.1 * np.linalg.norm(stochastic.second)
    assert 0.3 < np.log(errors[0] / errors[1]) / np.log(8) < 0.7


def test_sampled_least_squares_tends_to_its_biased_limit(stochastic):
    # With 1/16 of the visits the sampled form is near singular: one pair has probability 3e-4.
    estimator = FittedAdjoint(PAIRS, visits=65536, ridge=1e-6, equation="least-squares")
    keys = jax.random.split(jax.random.key(6), 4)
    mean = sampled(stochastic, [(estimator, BASELINE)], 8192, keys)[0].mean(axis=0)
    limit = least_squares(stochastic, next(laws(stochastic)))
    assert relative_error(mean, limit) < 0.03 < relative_error(mean, stochastic.second)


@pytest.fixture
def replay(stochastic):
    @jax.jit
    def draw(key):
        needs = FittedAdjoint(PAIRS, visits=500).needs
        return draw_evidence(needs, stochastic.problem, [stochastic.follower], key, 64)

    evidence = draw(jax.random.key(7))
    return evidence.recent, evidence.visits


def test_nothing_follows_an_end(stochastic, replay):
    clips, visits = replay
    estimator = FittedAdjoint(PAIRS, ridge=1e-6)

    @jax.jit
    def slope(visits, discount):
        def total(x):
            reward_at = partial(stochastic.problem.reward_at, x)
            return estimator.surrogate(
                reward_at,
                clips,
                jnp.ones((64, 2, HORIZON)).at[:, :, 0].set(clips.actions[:, :, 0]),
                visits,
                stochastic.follower.policy,
                discount,
                jax.random.key(8),
            )

        return jax.grad(total)(stochastic.x)

    ended = eqx.tree_at(lambda v: v.terminated, visits, jnp.ones_like(visits.terminated))
    np.testing.assert_allclose(slope(ended, 0.8), slope(visits, 0.0), rtol=1e-9)
    assert relative_error(slope(visits, 0.8), slope(visits, 0.0)) > 0.01


# ---- one regression for all steps ---------------------------------------------------------------


def test_shared_suffix(stochastic):
    """With 8 pairs a batch, one regression is less noisy than one a step, and the mean stays about right."""
    ways = [
        (Suffix(FURTHER, features=PAIRS, ridge=1e-2, shared=shared), BASELINE) for shared in (True, False)
    ]
    samples = sampled(stochastic, ways, 8, jax.random.split(jax.random.key(10), 512))
    errors = np.mean(np.sum((samples - stochastic.second) ** 2, axis=2), axis=1)
    assert errors[0] < errors[1]
    assert cosine(samples[0].mean(axis=0), stochastic.second) > 0.98


def test_bad_settings():
    for wrong in (
        lambda: Branch(0),
        lambda: Branch(length=0),
        lambda: FittedAdjoint(visits=0),
        lambda: FittedAdjoint(num_actions=0),
        lambda: FittedAdjoint(ridge=0.0),
        lambda: RandomFeatures(0),
        lambda: RandomFeatures(scale=0.0),
    ):
        with pytest.raises(ValueError, match="give"):
            wrong()
