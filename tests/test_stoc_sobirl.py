"""Stoc-SoBiRL: its recursion, and the importance weights that give it the gradient of the step before."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sampled_tables import SGD, cosine, relative_error, session, standard_scores, steps_of, table

from rewardsmith import hypergradient
from rewardsmith.bilevel import ConstantBaseline, OneStep, SoBiRL, Suffix
from rewardsmith.bilevel.sampled._ridge import left_out_predictions
from rewardsmith.bilevel.sampled.data import Evidence, Needs
from rewardsmith.bilevel.sampled.stoc_sobirl import StocSoBiRL
from rewardsmith.bilevel.sampled.table import draw_evidence, exact_follower
from rewardsmith.bilevel.sampled.terms import both_terms, drawn_by, importance_weights

pytestmark = pytest.mark.usefixtures("double_precision", "compile_quickly")

ADAM = optax.adam(0.03)


@eqx.filter_jit
def drawn(problem, follower, key):
    """16 pairs of clips whose actions' log-probabilities were kept."""
    return draw_evidence(Needs(log_prob=True), problem, [follower], key, 16)


# ---- the recursion ------------------------------------------------------------------------------


def test_momentum_of_one_is_sobirl():
    of, options = table("preference"), {"bound": 0.5, "weight": 0.7, "importance": True}
    plain = SoBiRL(ADAM, OneStep(), ConstantBaseline(), **options)
    leader = StocSoBiRL(ADAM, OneStep(), ConstantBaseline(), momentum=1.0, **options)
    assert leader.needs == plain.needs
    state, other = of.begun(leader), of.begun(plain)
    step, other_step = eqx.filter_jit(leader.step), eqx.filter_jit(plain.step)
    for key in jax.random.split(jax.random.key(1), 3):
        follower, x = of.solve(state.x), state.x
        evidence = drawn(of.problem, follower, key)
        state, stats = step(of.problem, state, evidence, key)
        other, other_stats = other_step(of.problem, other, evidence, key)
        assert (state.x != x).any()
        for told, wanted in zip(
            jax.tree.leaves((state.x, stats)), jax.tree.leaves((other.x, other_stats)), strict=True
        ):
            np.testing.assert_allclose(told, wanted, rtol=1e-12)


@pytest.mark.parametrize("importance", [False, True])
def test_recursion_by_hand(importance):
    of, sizes = table("preference"), [0.7, 0.3, 0.2]
    leader = StocSoBiRL(
        optax.sgd(0.1),
        OneStep(),
        ConstantBaseline(),
        momentum=lambda k: jnp.asarray(sizes)[k],
        bound=0.8,
        importance=importance,
    )
    state, step = of.begun(leader), eqx.filter_jit(leader.step)

    @eqx.filter_jit
    def g(x, evidence, follower, key):
        first_weights = None
        if importance:
            clips = drawn_by(evidence.follower.policy, evidence.clips)
            first_weights, _ = importance_weights(follower.policy, clips)
        _, first, second, _ = both_terms(
            of.problem,
            x,
            evidence,
            follower,
            leader.estimator,
            leader.baseline,
            key,
            importance=importance,
            first_importance=first_weights,
        )
        shrink = jnp.minimum(1.0, 0.8 * jnp.linalg.norm(first) / jnp.linalg.norm(second))
        return first + shrink * second

    h = before = None
    for k in range(3):
        x, key, now = state.x, jax.random.key(k), of.solve(state.x)
        evidence = drawn(of.problem, now, jax.random.key(10 + k))
        expected = g(x, evidence, now, key)
        if before is not None:
            then = before[1] if importance else now
            expected = expected + (1 - sizes[k]) * (h - g(before[0], evidence, then, key))
        state, _ = step(of.problem, state, evidence, key)
        np.testing.assert_allclose((x - state.x) / 0.1, expected, rtol=1e-9)
        h, before = expected, (x, now)
    assert state.memory.count == 3 and (state.memory.follower is not None) == importance


def test_variance_falls_where_x_moves_slowly():
    of = table("preference")
    leader = StocSoBiRL(SGD, Suffix(30, features=of.pairs, ridge=1e-6), of.baseline, momentum=0.1)
    directions = steps_of(leader, of, 128, 8, 20, rate=1e-3).gradients
    variance = directions.var(axis=0, ddof=1).sum(axis=1)
    # The first direction is g itself. In the limit ρ/(2 − ρ) = 0.05 of its variance is left where x stands.
    assert variance[-1] < 0.25 * variance[0]
    mean = directions[:, -1].mean(axis=0)
    assert relative_error(mean, of.hypergradient) < 0.15 and cosine(mean, of.hypergradient) > 0.99


# ---- importance weights -------------------------------------------------------------------------


def test_importance_weights_give_the_gradient_before():
    """g_k(x_{k−1}) from clips of the follower of x_k. At γ = 0 nothing is drawn from behind the clip."""
    of = table("preference")
    then, estimator = of.x, Suffix(30, features=of.pairs, ridge=1e-6)
    now = then + 0.3 * jax.random.normal(jax.random.key(5), then.shape)

    @jax.jit
    def estimates(discount):
        problem = eqx.tree_at(lambda p: p.world.discount, of.problem, discount)
        before, follower = (exact_follower(problem, problem.reward(x)) for x in (then, now))

        def one(inputs):
            importance, key = inputs
            draw, own = jax.random.split(key)
            evidence = draw_evidence(Needs(30, log_prob=True), problem, [follower], draw, 512)
            # As if the follower before had drawn them, where they are not to be weighed.
            unweighted = drawn_by(before.policy, evidence.recent)
            clips = jax.tree.map(lambda a, b: jnp.where(importance, a, b), evidence.recent, unweighted)
            weights, _ = importance_weights(before.policy, clips)
            _, first, second, _ = both_terms(
                problem,
                then,
                Evidence(clips, clips, follower),
                before,
                estimator,
                of.baseline,
                own,
                importance=True,
                first_importance=weights,
            )
            return first + second

        keys = jax.random.split(jax.random.key(3), 40)
        found = jax.lax.map(one, (jnp.repeat(jnp.array([True, False]), 40), jnp.tile(keys, 2)))
        return hypergradient(problem, then)[1], found.reshape(2, 40, -1)

    for discount, largest_error, unweighted_error in ((0.0, 0.06, 0.1), (0.8, 0.1, 0.5)):
        exact, (weighted, unweighted) = jax.tree.map(np.asarray, estimates(jnp.asarray(discount)))
        assert relative_error(weighted.mean(axis=0), exact) < largest_error
        assert relative_error(unweighted.mean(axis=0), exact) > unweighted_error
        assert standard_scores(unweighted, exact).max() > 5
        if discount == 0.0:
            assert standard_scores(weighted, exact).max() < 4


def test_weighted_predictions_against_refitting():
    rng = np.random.default_rng(1)
    batch, clips, size, ridge = 7, 2, 3, 0.05
    features, targets = rng.normal(size=(batch, clips, size)), rng.normal(size=(batch, clips))
    importance = rng.random(batch)

    @jax.jit
    def predict(features, targets, importance):
        return left_out_predictions(
            features, targets, ridge, intercept=False, noise_share=0.2, importance=importance
        )

    actual = predict(features, importance[:, None] * targets, importance)
    scaled = features / features.std(axis=(0, 1))
    for left_out in range(batch):
        rest = np.arange(batch) != left_out
        rows, wanted = scaled[rest].reshape(-1, size), targets[rest].ravel()
        weighted = np.repeat(importance[rest], clips)[:, None] * rows
        gram = 0.8 * weighted.T @ rows + ridge * batch * clips * np.eye(size)
        expected = scaled[left_out] @ np.linalg.solve(gram, weighted.T @ wanted)
        np.testing.assert_allclose(actual[left_out], expected, rtol=1e-9)


# ---- in use -------------------------------------------------------------------------------------


def test_a_session_on_a_queue():
    of = table("preference")
    leader = StocSoBiRL(optax.adam(0.01), OneStep(), ConstantBaseline(), importance=True)
    state, _ = session(leader, of)
    assert state.memory.count == 3
    jax.tree.map(np.testing.assert_array_equal, state.memory.follower, of.follower)
    # A state that has met a follower keeps its form.
    assert jax.tree.structure(leader.meet(state, of.follower)) == jax.tree.structure(state)


def test_bad_settings():
    for bad in (
        lambda: StocSoBiRL(ADAM, OneStep(), momentum=0.0),
        lambda: StocSoBiRL(ADAM, OneStep(), momentum=1.5),
        lambda: StocSoBiRL(ADAM, OneStep(), bound=0.0),
    ):
        with pytest.raises(ValueError, match="give"):
            bad()
