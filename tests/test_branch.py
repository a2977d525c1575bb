"""`Branch`: fresh roll-outs off restored states, against exact hyper-gradients of tables."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled_tables import Way, cosine, relative_error, second_terms, standard_scores, table

from rewardsmith.bilevel.sampled.baselines import Baseline
from rewardsmith.bilevel.sampled.branch import Branch
from rewardsmith.bilevel.sampled.data import Branches, LabelledClips
from rewardsmith.bilevel.sampled.table import TablePolicy
from rewardsmith.mdp import roll_out_from

pytestmark = pytest.mark.usefixtures("double_precision", "compile_quickly")

FURTHER = 30


class StateBaseline(Baseline):
    """A bad one: 3 times the number of the state."""

    def fit(self, observations, losses):
        return 3.0 * observations.astype(losses.dtype)


def redrawn(evidence, key):
    """With roll-out 1 of each pair anew from the same start, by random numbers of its own."""
    of, branches = table("preference"), evidence.recent.branches
    policy = jnp.asarray(of.pi)
    starts = [leaf[..., 1, 0].ravel() for leaf in (branches.observations, branches.actions)]
    walks = jax.vmap(lambda key, s, a: roll_out_from(of.problem.world, policy, key, s, a, FURTHER))(
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
    return eqx.tree_at(lambda e: e.recent.branches, evidence, Branches(branches.step, *pairs))


@pytest.fixture(scope="module")
def estimates():
    """Second terms of 64 batches of 128 pairs, (64, n) each."""
    of = table("preference")
    ways = {
        "both": Way(Branch(2, FURTHER), of.baseline),
        "values": Way(Branch(2, FURTHER), StateBaseline()),
        "baseline": Way(Branch(2, FURTHER, values=False), of.baseline),
        "neither": Way(Branch(2, FURTHER, values=False), StateBaseline()),
        "independent": Way(Branch(2, FURTHER), of.baseline, redrawn),
    }
    with jax.enable_x64(True):
        found = second_terms(of, list(ways.values()), 128, jax.random.split(jax.random.key(1), 64))
    return dict(zip(ways, found, strict=True))


@pytest.mark.parametrize("way", ["both", "values", "baseline"])
def test_branch_is_right_with_values_or_with_the_baseline(estimates, way):
    samples, exact = estimates[way], table("preference").second
    assert (standard_scores(samples, exact) < 4).all()
    assert cosine(samples.mean(axis=0), exact) > 0.98


def test_branch_with_neither_is_wrong(estimates):
    samples, exact = estimates["neither"], table("preference").second
    assert standard_scores(samples, exact).max() > 20
    assert relative_error(samples.mean(axis=0), exact) > 1


def test_common_random_numbers_lower_the_variance(estimates):
    common, independent = estimates["both"], estimates["independent"]
    assert (standard_scores(independent, table("preference").second) < 4).all()
    assert common.var(axis=0).sum() < 0.5 * independent.var(axis=0).sum()


def test_branch_on_long_clips_that_earn():
    of = table("contract")
    estimator = Branch(num_branches=4, length=60)
    keys = jax.random.split(jax.random.key(2), 16)
    samples = second_terms(of, [Way(estimator, of.baseline)], 256, keys)[0]
    assert (standard_scores(samples, of.second) < 4).all()
    assert cosine(samples.mean(axis=0), of.second) > 0.95


def test_branch_by_hand():
    """r = x · (s + a); M = 2, H = 3, T = 3, γ = ½; the second roll-out of one pair ends after 1 step."""
    observations = np.array([[[1, 2, 3], [4, 5, 6]], [[0, 1, 0], [2, 7, 7]]])[None, None]
    valid = np.array([[[1, 1, 1], [1, 1, 1]], [[1, 1, 1], [1, 0, 0]]], bool)[None, None]
    branches = Branches(*(jnp.asarray(a) for a in (np.array([[[2, 0]]]), observations, observations, valid)))
    nothing = jnp.zeros((1, 1, 3))
    clips = LabelledClips(nothing, nothing, jnp.ones((1, 1, 3), bool), None, None, branches)
    weights, anyone = jnp.array([[[10.0, 20.0, 30.0]]]), TablePolicy(jnp.zeros((8, 8)))

    @jax.jit
    @jax.grad
    def slopes(x, values):
        def slope(estimator):
            return estimator.surrogate(
                lambda s, a: x * (s + a), clips, weights, None, anyone, 0.5, jax.random.key(0)
            )

        return jnp.where(values, slope(Branch(2, 3)), slope(Branch(2, 3, values=False)))

    first = 2 * (1 + 2 / 2 + 3 / 4), 2 * (1 / 2)
    second = 2 * (4 + 5 / 2 + 6 / 4), 2 * 2
    expected = 1.5 * (30 * (first[0] - second[0]) + 10 * (first[1] - second[1]))
    np.testing.assert_allclose(slopes(1.0, True), expected)
    np.testing.assert_allclose(slopes(1.0, False), 1.5 * (30 * first[0] + 10 * first[1]))


def test_bad_settings():
    for wrong in (lambda: Branch(0), lambda: Branch(length=0)):
        with pytest.raises(ValueError, match="give"):
            wrong()
