"""HPGD and BC-HG with sampled followers, against the exact hyper-gradient of tables."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sampled_tables import SGD, cosine, relative_error, session, standard_scores, steps_of, table

from rewardsmith.bilevel.sampled._credits import credited_rewards
from rewardsmith.bilevel.sampled.bchg import SampledBCHG
from rewardsmith.bilevel.sampled.data import LabelledClips
from rewardsmith.bilevel.sampled.hpgd import SampledHPGD

pytestmark = pytest.mark.usefixtures("double_precision", "compile_quickly")

FURTHER = 40
COUNTS = {"preference": 256, "contract": 64}

# ---- HPGD ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, mean", [("preference", 0.9), ("contract", 0.85)])
def test_hpgd_is_the_hypergradient(name, mean):
    of = table(name)
    # A fit for each of the 40 steps of `contract` would have fewer rows than features.
    leader = SampledHPGD(SGD, of.baseline, FURTHER, of.pairs, 1e-6, shared=name == "contract")
    estimates = steps_of(leader, of, COUNTS[name], 4, 30).gradients.reshape(120, -1)
    assert cosine(estimates, of.hypergradient).mean() > mean
    assert cosine(estimates.mean(axis=0) - of.first, of.second) > 0.95
    assert standard_scores(estimates, of.hypergradient).max() < 4
    assert relative_error(estimates.mean(axis=0), of.hypergradient) < 0.08


def test_credited_rewards_against_a_double_loop():
    rng, discount, horizon, length = np.random.default_rng(0), 0.7, 2, 5
    rewards, credits = rng.normal(size=(3, 2, length)), rng.normal(size=(3, 2, horizon))
    valid = np.arange(length) < rng.integers(horizon, length + 1, size=(3, 2, 1))
    clips = LabelledClips(jnp.asarray(rewards), jnp.zeros((3, 2, length)), jnp.asarray(valid), None)

    @jax.jit
    def both(credits):
        return [credited_rewards(lambda o, a: o, clips, credits, discount, now=now) for now in (True, False)]

    for actual, now in zip(both(credits), (True, False), strict=True):
        expected = sum(
            discount ** (k - h) * np.sum((valid * rewards)[:, :, k] * credits[:, :, h])
            for h in range(horizon)
            for k in range(h if now else h + 1, length)
        )
        np.testing.assert_allclose(actual, expected, rtol=1e-12)


# ---- BC-HG --------------------------------------------------------------------------------------


def exact_leader_values(of):
    """E[l | s_h = s, a_h = a] − E[l] of either clip, (N, H), by enumeration of all pairs of clips."""
    pairs = of.pi.size
    steps = np.indices((pairs, pairs)).reshape(2, -1).T
    states, actions = np.divmod(steps, of.actions)
    moves = np.asarray(of.problem.world.transition)[states[:, 0], actions[:, 0], states[:, 1]]
    chance = np.asarray(of.problem.world.initial)[states[:, 0]] * moves
    chance = chance * of.pi[states, actions].prod(axis=1)
    both = np.indices((len(steps),) * 2).reshape(2, -1).T
    losses = jax.jit(jax.vmap(lambda s, a: of.problem.clip_loss(of.x, s, a)))(states[both], actions[both])
    expected = (np.asarray(losses).reshape(len(steps), -1) * chance).sum(axis=1)
    weight = chance[:, None, None] * (steps[:, :, None] == np.arange(pairs))
    return ((weight * expected[:, None, None]).sum(axis=0) / weight.sum(axis=0)).T - chance @ expected


def with_values(state, values):
    """The critic whose hidden units tell the pairs of both steps apart, h/H being 0 or ½."""
    pairs = len(values)
    first = np.hstack([np.eye(pairs), -2 * np.ones((pairs, 1))])
    second = np.hstack([np.eye(pairs), 2 * np.ones((pairs, 1))])
    network = eqx.tree_at(
        lambda n: (n.weights, n.biases),
        state.memory.network,
        (
            [jnp.asarray(np.vstack([first, second])), jnp.asarray(values.T.reshape(1, -1))],
            [jnp.asarray(np.repeat([0.0, -1.0], pairs)), jnp.zeros(1)],
        ),
    )
    return eqx.tree_at(lambda s: s.memory.network, state, network)


def bchg(of):
    return SampledBCHG(SGD, (12,), 1e-2, further=FURTHER, features=of.pairs)


def test_bchg_is_unbiased_with_the_right_critic():
    of = table("preference")
    leader = bchg(of)
    state = with_values(of.begun(leader), exact_leader_values(of))
    estimates = steps_of(leader, of, COUNTS["preference"], 4, 30, state).gradients.reshape(120, -1)
    # Whatever the critic has learned since is of other clips than those it weighs.
    assert standard_scores(estimates, of.hypergradient).max() < 4
    assert relative_error(estimates.mean(axis=0), of.hypergradient) < 0.08


def test_bchg_learns_its_critic():
    of = table("preference")
    found = steps_of(bchg(of), of, COUNTS["preference"], 4, 30)
    assert cosine(found.gradients[:, -10:], of.hypergradient).mean() > 0.9
    # Each step weighs with the critic of the step before, which is 0 at first.
    assert (found.stats.second_norm[:, 0] == 0.0).all() and (found.stats.second_norm[:, 1:] > 0.0).all()


def test_a_session_on_a_queue():
    session(SampledBCHG(optax.adam(0.01), (4,), 1e-2, further=2), table("preference"))


@pytest.mark.parametrize(
    "bad",
    [
        lambda: SampledHPGD(SGD, further=-1),
        lambda: SampledHPGD(SGD, num_actions=0),
        lambda: SampledHPGD(SGD, ridge=0.0),
        lambda: SampledHPGD(SGD, weight=-1.0),
        lambda: SampledBCHG(SGD, hidden=(64, 0)),
        lambda: SampledBCHG(SGD, critic_learning_rate=0.0),
        lambda: SampledBCHG(SGD, critic_steps=0),
        lambda: SampledBCHG(SGD, num_actions=0),
        lambda: SampledBCHG(SGD, bound=-1.0),
    ],
)
def test_bad_settings(bad):
    with pytest.raises(ValueError, match="give|must"):
        bad()
