"""`FittedAdjoint`: a signed density fitted to replayed transitions, against exact tables."""

from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled_tables import Way, cosine, relative_error, second_terms, table

from rewardsmith.bilevel.sampled.adjoint import FittedAdjoint, least_squares_density, projected_density
from rewardsmith.bilevel.sampled.data import Evidence, LabelledClips, Visits
from rewardsmith.bilevel.sampled.features import RandomFeatures
from rewardsmith.mdp import state_action_occupancy

pytestmark = pytest.mark.usefixtures("double_precision", "compile_quickly")

# ---- moments that are known exactly -------------------------------------------------------------


PROJECTED_DENSITY = jax.jit(projected_density, static_argnums=5)


def projected(of, features, law, ridge=0.0):
    """(1/τ) E_D[ω ∇r] with b, P, π and D known, for features ψ (N, f)."""
    there, target = of.moves @ features, features.T @ of.slope_of_logits
    density = PROJECTED_DENSITY(features, there, law, target, of.discount, ridge)
    return of.reward_gradients.T @ (law * density) / of.tau


def laws(of):
    """The follower's own, and any other that reaches all pairs."""
    visits = np.asarray(jax.jit(state_action_occupancy)(of.problem.world, of.follower.policy.table)).ravel()
    return visits / visits.sum(), np.random.default_rng(0).dirichlet(np.ones(visits.size))


@pytest.mark.parametrize("name", ["preference", "contract"])
def test_projected_is_exact_with_full_features(name):
    of = table(name)
    for law in laws(of):
        assert relative_error(projected(of, np.eye(len(law)), law), of.second) < 1e-6


def test_projected_needs_the_values_or_the_adjoint():
    of, rng = table("preference"), np.random.default_rng(1)
    steps = np.eye(of.pi.size) - of.discount * of.moves
    q_gradients, adjoint = (
        np.linalg.solve(steps, of.reward_gradients),
        np.linalg.solve(steps.T, of.slope_of_logits),
    )
    states, actions = (jnp.asarray(a.reshape(-1, 1), float) for a in np.indices(of.pi.shape))
    many = np.asarray(jax.jit(jax.vmap(RandomFeatures(32)))(states, actions))
    for law in laws(of):
        holds_adjoint = np.column_stack([adjoint / law, rng.normal(size=(len(law), 3))])
        for features in (q_gradients, holds_adjoint):
            assert relative_error(projected(of, features, law), of.second) < 1e-6
        assert relative_error(projected(of, many, law, 1e-9), of.second) < 1e-3
        neither = rng.normal(size=(len(law), 4))
        assert relative_error(projected(of, neither, law), of.second) > 0.05


def least_squares(of, law):
    """(1/τ) E_D[(ν − γν') ∇r] with one-hot features, over all (s, a, s') with their probabilities."""
    pairs, states = of.transition.shape
    here, there = np.repeat(np.eye(pairs), states, axis=0), np.tile(of.acting, (pairs, 1))
    weights = (law[:, None] * of.transition).ravel()
    density = jax.jit(partial(least_squares_density, ridge=0.0))(
        here, there, there, weights, of.slope_of_logits, of.discount
    )
    return np.repeat(of.reward_gradients, states, axis=0).T @ (weights * density) / of.tau


def test_least_squares_is_exact_in_deterministic_worlds():
    of = table("deterministic")
    for law in laws(of):
        assert relative_error(least_squares(of, law), of.second) < 1e-6


def test_least_squares_is_biased_in_stochastic_worlds():
    of = table("preference")
    errors = [relative_error(least_squares(of, law), of.second) for law in laws(of)]
    # On the follower's own law, with everything known exactly.
    np.testing.assert_allclose(errors[0], 0.122, atol=0.001)
    assert min(errors) > 0.1


# ---- samples ------------------------------------------------------------------------------------


BUDGET, SHARE = 8192, 16


def a_small_share(evidence, key):
    """The first 1/16 of the clips and of the visits, which are in trajectories of 100."""
    visits = jax.tree.map(lambda leaf: leaf[: 100 * round(BUDGET / SHARE / 100)], evidence.visits)
    visits = eqx.tree_at(lambda v: v.weights, visits, visits.weights / jnp.sum(visits.weights))
    clips = evidence.recent.take(jnp.arange(BUDGET // SHARE))
    return Evidence(clips, clips, evidence.follower, visits)


@pytest.fixture(scope="module")
def estimates():
    """Second terms of 16 batches where every action is taken often, (16, n) each."""
    of = table("warm")
    whole = FittedAdjoint(of.pairs, visits=BUDGET, ridge=1e-6)
    ways = {
        "whole": Way(whole, of.baseline),
        "share": Way(whole, of.baseline, a_small_share),
        "least-squares": Way(replace(whole, equation="least-squares"), of.baseline),
    }
    with jax.enable_x64(True):
        found = second_terms(of, list(ways.values()), BUDGET, jax.random.split(jax.random.key(4), 16))
    return dict(zip(ways, found, strict=True))


def test_error_falls_with_the_root_of_the_budget(estimates):
    exact = table("warm").second
    large, small = (
        np.sqrt(np.mean(np.sum((estimates[way] - exact) ** 2, axis=1))) for way in ("share", "whole")
    )
    assert cosine(estimates["whole"], exact).min() > 0.99
    assert small < 0.1 * np.linalg.norm(exact)
    assert 0.35 < np.log(large / small) / np.log(SHARE) < 0.65


def test_sampled_least_squares_tends_to_its_biased_limit(estimates):
    # Where a pair is hardly ever visited the sampled form is near singular instead.
    of, mean = table("warm"), estimates["least-squares"].mean(axis=0)
    assert relative_error(mean, least_squares(of, laws(of)[0])) < 0.05
    assert relative_error(mean, of.second) > 0.09


def test_nothing_follows_an_end():
    of, rng = table("preference"), np.random.default_rng(7)

    def drawn(*shape):
        states, actions = (jnp.asarray(rng.integers(n, size=shape, dtype=np.int32)) for n in of.pi.shape)
        return states, actions

    clips = LabelledClips(*drawn(64, 2, 2), jnp.ones((64, 2, 2), bool), None)
    weights = jnp.asarray(rng.normal(size=(64, 2, 2)))
    (states, actions), (successors, _) = drawn(500), drawn(500)
    visits = Visits(states, actions, successors, jnp.zeros(500, bool), jnp.full(500, 1 / 500))

    @jax.jit
    @partial(jax.grad, argnums=0)
    def slope(x, visits, discount):
        return FittedAdjoint(of.pairs, ridge=1e-6).surrogate(
            partial(of.problem.reward_at, x),
            clips,
            weights,
            visits,
            of.follower.policy,
            discount,
            jax.random.key(8),
        )

    ended = eqx.tree_at(lambda v: v.terminated, visits, jnp.ones(500, bool))
    np.testing.assert_allclose(slope(of.x, ended, 0.8), slope(of.x, visits, 0.0), rtol=1e-9)
    assert relative_error(slope(of.x, visits, 0.8), slope(of.x, visits, 0.0)) > 0.01


def test_bad_settings():
    for wrong in (
        lambda: FittedAdjoint(visits=0),
        lambda: FittedAdjoint(num_actions=0),
        lambda: FittedAdjoint(ridge=0.0),
    ):
        with pytest.raises(ValueError, match="give"):
            wrong()
