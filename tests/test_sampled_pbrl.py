"""PBRL from samples: its credit, and a bias that falls with the penalty."""

import dataclasses
from functools import partial

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
from rewardsmith.bilevel.enumeration import exact_upper_loss
from rewardsmith.bilevel.sampled.pbrl import SampledPBRL
from rewardsmith.bilevel.sampled.table import TablePolicy, exact_follower
from rewardsmith.mdp import state_occupancy

pytestmark = pytest.mark.usefixtures("double_precision", "compile_quickly")

PENALTY = 3.0


def pbrl(of):
    return SampledPBRL(
        SGD,
        of.baseline,
        PENALTY,
        features=of.pairs,
        state_features=of.one_hot_states,
        ridge=1e-6,
        visited=2**15,
    )


@pytest.fixture(scope="module")
def found():
    """22 steps, x held still while y settles."""
    of = table("preference")
    with jax.enable_x64(True):
        return steps_of(pbrl(of), of, 1024, 1, 22)


def limits(of, penalties):
    """The gradients when nothing is sampled, ∂f/∂x + λ (∇V^π̂ − ∇V^y) at y = π*(r − c_y/λ)."""
    world, loss = of.problem.world, partial(exact_upper_loss, of.exact)

    def at(penalty):
        def answer(y, _):
            slope = jax.grad(loss, argnums=1)(of.x, y)
            credit = (slope - jnp.sum(y * slope, axis=1, keepdims=True)) / state_occupancy(world, y)[:, None]
            policy = exact_follower(of.problem, of.problem.reward(of.x) - credit / penalty).policy
            assert isinstance(policy, TablePolicy)
            # Half way, or y would jump to and fro under the weak penalty.
            return 0.5 * (y + policy.table), None

        y = jax.lax.scan(answer, jnp.asarray(of.pi), length=60)[0]
        return jax.grad(loss)(of.x, y), y, state_occupancy(world, y)

    first, y, visits = map(np.asarray, jax.jit(partial(jax.lax.map, at))(jnp.asarray(penalties)))
    more = (of.visits[:, None] * of.pi - visits[:, :, None] * y).reshape(len(penalties), -1)
    return first + np.asarray(penalties)[:, None] * (more @ of.reward_gradients)


def test_bias_falls_with_the_penalty(found):
    of = table("preference")
    penalties = [PENALTY / 10, PENALTY, PENALTY * 10]
    weak, strong, stronger = limits(of, penalties)
    errors = [relative_error(limit, of.hypergradient) for limit in (weak, strong, stronger)]
    assert errors[0] > 0.5 and errors[1] < 0.25 and errors[2] < 0.03
    # The first term alone points away.
    assert cosine(of.first, of.hypergradient) < 0
    samples = found.gradients[0, 6:]
    assert (standard_scores(samples, strong) < 4).all()
    assert relative_error(samples.mean(axis=0), strong) < 0.2
    assert cosine(samples.mean(axis=0), of.hypergradient) > 0.98


def credits(found, leader):
    """c of the first step, when y was π̂, at all pairs; and what is remembered of that step."""
    of = table("preference")
    memory = jax.tree.map(lambda leaf: leaf[0, 0], found.memories)
    state = eqx.tree_at(lambda s: s.memory, of.begun(leader), memory)
    of_pair = jax.vmap(lambda s, a: leader.rewards(of.problem, state, s, a))
    rewards = np.asarray(jax.jit(of_pair)(*(jnp.asarray(a.ravel()) for a in np.indices(of.pi.shape))))
    np.testing.assert_allclose(rewards[:, 1], np.ravel(of.problem.reward(of.x)), rtol=1e-12)
    return PENALTY * (rewards[:, 1] - rewards[:, 0]), memory


def test_credit_is_what_an_action_does_to_the_loss(found):
    of = table("preference")
    credit, memory = credits(found, pbrl(of))
    visits = (of.visits[:, None] * of.pi).ravel()
    assert relative_error(visits * credit, of.slope_of_logits) < 0.15
    np.testing.assert_allclose(memory.square, visits @ credit**2 / visits.sum(), rtol=0.1)


def test_credit_is_cut(found):
    whole, memory = credits(found, pbrl(table("preference")))
    cut, _ = credits(found, dataclasses.replace(pbrl(table("preference")), clip=0.8))
    largest = 0.8 * np.sqrt(memory.square)
    assert (abs(whole) > largest).any() and (abs(whole) < largest).any()
    np.testing.assert_allclose(cut, np.clip(whole, -largest, largest), rtol=1e-9)


def test_networks_in_single_precision():
    with jax.enable_x64(False):
        _, states, stats = three_steps(SampledPBRL(optax.adam(1e-3)), networks())
        # y and π̂ were at the same steps: the gradient is the first term, and credit is given all the same.
        for told in stats:
            assert told.second_norm < 1e-3 * told.first_norm
        assert (states[-1].memory.credit.action != 0).any() and states[-1].memory.steps == 3


def test_bad_settings():
    for bad in (
        lambda: SampledPBRL(SGD, penalty=0.0),
        lambda: SampledPBRL(SGD, ridge=0.0),
        lambda: SampledPBRL(SGD, rate=0.0),
        lambda: SampledPBRL(SGD, num_actions=1),
        lambda: SampledPBRL(SGD, clip=0.0),
        lambda: SampledPBRL(SGD, visited=0),
    ):
        with pytest.raises(rs.InputError, match="give"):
            bad()
