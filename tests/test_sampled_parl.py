"""PARL and Unrolled from samples, against the exact Fisher matrix and hyper-gradient of tables."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sampled_tables import (
    SGD,
    cosine,
    networks,
    relative_error,
    standard_scores,
    steps_of,
    table,
    three_steps,
)

import rewardsmith as rs
from rewardsmith.bilevel.sampled._scores import draw_curvature
from rewardsmith.bilevel.sampled.data import LabelledClips
from rewardsmith.bilevel.sampled.parl import SampledPARL
from rewardsmith.bilevel.sampled.table import draw_clips
from rewardsmith.bilevel.sampled.unrolled import SampledUnrolled

pytestmark = pytest.mark.usefixtures("double_precision", "compile_quickly")


def test_curvature_is_the_fisher_matrix():
    of = table("warm")

    @jax.jit
    def sampled(draw_key, key):
        clips = draw_clips(of.problem, of.follower, SampledPARL(SGD, of.baseline).needs, draw_key, 256)
        curvature = draw_curvature(of.follower.policy, clips, of.problem.world.discount, 2**15, key)
        product = curvature.operator()

        def column(v):
            policy = eqx.tree_at(lambda p: p.logits, of.follower.policy, v.reshape(of.pi.shape))
            return product(policy).logits.ravel()

        matrix = jax.vmap(column)(jnp.eye(of.pi.size))
        return curvature.mass * matrix, curvature.mass * curvature.trace()

    matrix, trace = sampled(*jax.random.split(jax.random.key(1)))
    assert relative_error(np.asarray(matrix), of.fisher) < 0.05
    np.testing.assert_allclose(trace, np.trace(matrix), rtol=1e-6)


def along_the_fisher(of, share):
    """∂²_{xθ}V share(c)/c ∂f/∂θ over the eigenvalues c of τ E[Σ_k γ^k F(s_k)]; 1 makes it the second term."""
    values, vectors = np.linalg.eigh(of.tau * of.fisher)
    moves = values > 1e-9
    inverse = np.where(moves, share(values) / np.where(moves, values, 1.0), 0.0)
    return of.mixed_derivative @ (vectors * inverse) @ vectors.T @ of.slope_of_logits


def test_what_both_follow_from():
    of = table("warm")
    np.testing.assert_allclose(along_the_fisher(of, np.ones_like), of.second, rtol=1e-5, atol=1e-7)


# ---- PARL ---------------------------------------------------------------------------------------


def damped(of, damping):
    """What PARL gives when nothing is sampled."""
    shift = damping * of.tau * np.trace(of.fisher) / of.pi.size
    return along_the_fisher(of, lambda values: values / (values + shift))


def test_parl_is_the_damped_inverse():
    of = table("warm")
    leader = SampledPARL(SGD, of.baseline, 60, damping=0.01, curvature_batch=4096)
    samples = steps_of(leader, of, 512, 1, 32).gradients[0] - of.first
    limit = damped(of, 0.01)
    assert (standard_scores(samples, limit) < 4).all()
    assert relative_error(samples.mean(axis=0), limit) < 0.1
    assert cosine(samples.mean(axis=0), of.second) > 0.99
    assert relative_error(limit, of.second) < 0.05 < relative_error(damped(of, 1.0), of.second)


# ---- Unrolled -----------------------------------------------------------------------------------


def richardson(of, steps, step_size):
    """What K steps of the size give when nothing is sampled."""
    trace = of.tau * np.trace(of.fisher)
    return along_the_fisher(of, lambda values: 1 - (1 - step_size * values / trace) ** steps)


def test_unrolled_is_richardsons_iteration():
    of = table("warm")
    leader = SampledUnrolled(SGD, of.baseline, 60, steps=3, tuples=256, curvature_batch=4096)
    samples = steps_of(leader, of, 512, 1, 32).gradients[0] - of.first
    mean, limit = samples.mean(axis=0), richardson(of, 3, leader.step_size)
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    # 1 %: the step is measured in a trace that is sampled.
    assert (abs(mean - limit) < 4 * error + 0.01 * abs(limit)).all()
    assert relative_error(mean, limit) < 0.1
    assert relative_error(mean, of.second) > 0.3
    assert relative_error(richardson(of, 1000, leader.step_size), of.second) < 1e-3


# ---- both ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "leader",
    [
        SampledPARL(optax.adam(1e-3), further=8, curvature_batch=16),
        SampledUnrolled(optax.adam(1e-3), further=8, tuples=2, curvature_batch=16),
    ],
)
def test_networks_in_single_precision(leader):
    with jax.enable_x64(False):
        of = networks()
        step, states, stats = three_steps(leader, of)
        assert all(told.second_norm > 0 for told in stats)
        # Nothing is read from behind an end.
        clips, key = of.evidence.clips, jax.random.key(6)

        def second_norm(observations, valid):
            recent = LabelledClips(observations, clips.actions, valid, clips.label)
            evidence = eqx.tree_at(lambda e: e.recent, of.evidence, recent)
            return step(states[-1], evidence, key)[1].second_norm

        behind = np.arange(12) >= 9
        valid = jnp.asarray(np.broadcast_to(~behind, clips.valid.shape))
        elsewhere = jnp.asarray(np.where(behind[:, None], 0.0, clips.observations), jnp.float32)
        ended = second_norm(clips.observations, valid)
        np.testing.assert_allclose(second_norm(elsewhere, valid), ended, rtol=1e-5)
        assert abs(second_norm(clips.observations, clips.valid) - ended) > 1e-3 * ended
        if isinstance(leader, SampledPARL):
            # Each half of the batch is weighed with the other's direction, which is 0 if that has no steps.
            lost = np.arange(6)[:, None, None] >= 3
            assert second_norm(clips.observations, jnp.asarray(~lost & np.asarray(clips.valid))) == 0.0


@pytest.mark.parametrize(
    "leader, fewest", [(SampledPARL(SGD, further=8), 2), (SampledUnrolled(SGD, further=8), 4)]
)
def test_batches_too_small_to_share_out(leader, fewest):
    of = networks()

    def step(count):
        def first_of_the_batch(state):
            few = jax.tree.map(lambda leaf: leaf[:count], of.evidence.clips)
            evidence = eqx.tree_at(lambda e: (e.clips, e.recent), of.evidence, (few, few))
            return leader.step(of.problem, state, evidence, jax.random.key(2))[0]

        return eqx.filter_eval_shape(first_of_the_batch, of.begun(leader))

    with jax.enable_x64(False):
        step(fewest)
        with pytest.raises(rs.InputError, match="give at least"):
            step(fewest - 1)


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
    ):
        with pytest.raises(rs.InputError, match="give"):
            bad()
