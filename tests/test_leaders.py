"""Leaders: what one step does, and which comparisons a session of steps draws from."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rewardsmith._core import InputError
from rewardsmith.agents import TanhGaussianPolicy
from rewardsmith.bilevel import (
    DRLHF,
    ConstantBaseline,
    Evidence,
    Follower,
    LabelledClips,
    Leader,
    LeaderState,
    LeaderStats,
    Needs,
    OneStep,
    SoBiRL,
    Suffix,
    first_term,
    lead,
    second_term,
)
from rewardsmith.problem import BilevelProblem, PreferenceLoss, SimulatedWorld
from rewardsmith.rewards import RewardEnsemble

HORIZON, FURTHER, PAIRS = 3, 4, 6


def _reward(x, observation, action):
    return x(observation, action)


def _members(x, observation, action):
    return x.members(observation, action)


PROBLEM = BilevelProblem(
    SimulatedWorld("Pendulum-v1", 0.9), _reward, PreferenceLoss(HORIZON, members=_members), "auto"
)


def clips_of(seed, pairs=PAIRS):
    rng = np.random.default_rng(seed)
    shape = (pairs, 2, HORIZON + FURTHER)
    return LabelledClips(
        jnp.asarray(rng.normal(size=(*shape, 3)), jnp.float32),
        jnp.asarray(rng.uniform(-1, 1, (*shape, 1)), jnp.float32),
        jnp.ones(shape, bool),
        jnp.asarray(rng.random(pairs), jnp.float32),
    )


@pytest.fixture(scope="module")
def setting():
    x = RewardEnsemble(3, 1, (8,), 2, key=jax.random.key(0))
    policy = TanhGaussianPolicy(3, 1, (8,), key=jax.random.key(1))
    return x, Follower(policy, jnp.asarray(0.2)), clips_of(0), clips_of(1)


@eqx.filter_jit
def step_once(leader, x, clips, recent, follower):
    return leader.step(PROBLEM, begun(leader, x), Evidence(clips, recent, follower), jax.random.key(2))


def begun(leader, x):
    return leader.init(x, jnp.zeros(3), jnp.zeros(1), jax.random.key(9))


def assert_same(a, b, rtol=0.0, atol=0.0):
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=rtol, atol=atol), a, b)


def test_without_the_second_term_it_is_drlhf(setting, drlhf_step):
    state, stats = step_once(SoBiRL(optax.sgd(1.0), Suffix(FURTHER), weight=0.0), *_ordered(setting))
    assert_same(state.x, drlhf_step[0].x)
    assert stats.loss == drlhf_step[1].loss
    assert stats.second_norm > 0.0 == drlhf_step[1].second_norm


def _ordered(setting):
    x, follower, clips, recent = setting
    return x, clips, recent, follower


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.fixture(scope="module")
def drlhf_step(setting):
    return step_once(DRLHF(optax.sgd(1.0)), *_ordered(setting))


@pytest.fixture(scope="module")
def terms(setting, drlhf_step):
    x, follower, _, recent = setting
    # The first term from all comparisons, the second from the newest.
    first = flat(x) - flat(drlhf_step[0].x)
    second = eqx.filter_jit(second_term)(
        PROBLEM, x, recent, follower, OneStep(), ConstantBaseline(), jax.random.key(2)
    )
    return first, flat(second)


def test_drlhf_follows_the_first_term(setting, terms):
    x, _, clips, _ = setting
    loss, gradient = eqx.filter_jit(first_term)(PROBLEM, x, clips)
    np.testing.assert_allclose(flat(gradient), terms[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(loss, jnp.mean(jax.vmap(partial(PROBLEM.clip_loss, x))(
        clips.observations[:, :, :HORIZON], clips.actions[:, :, :HORIZON], clips.label
    )), rtol=1e-5)  # fmt: skip


@pytest.mark.parametrize("bound", [None, 0.1])
def test_step_is_the_sum_of_both_terms(setting, terms, bound):
    first, second = terms
    leader = SoBiRL(optax.sgd(1.0), OneStep(), ConstantBaseline(), weight=0.5, bound=bound)
    state, stats = step_once(leader, *_ordered(setting))
    first_norm, second_norm = np.linalg.norm(first), np.linalg.norm(second)
    assert second_norm > 0.2 * first_norm, "or the bound would not bind"
    shrink = 1.0 if bound is None else bound * first_norm / second_norm
    moved = flat(state.x) - flat(setting[0])
    np.testing.assert_allclose(moved, -first - 0.5 * shrink * second, rtol=1e-4, atol=1e-6)
    # Norms and cosine tell of the two terms as they are, whatever is made of them.
    np.testing.assert_allclose([stats.first_norm, stats.second_norm], [first_norm, second_norm], rtol=1e-4)
    np.testing.assert_allclose(stats.cosine, first @ second / (first_norm * second_norm), rtol=1e-3)


def test_normalisation_is_no_parameter(setting):
    x, follower, clips, recent = setting
    x = x.normalise(clips.observations.reshape(-1, 3), clips.actions.reshape(-1, 1))
    state, _ = step_once(DRLHF(optax.sgd(1.0)), x, clips, recent, follower)
    assert_same((state.x.mean, state.x.deviation), (x.mean, x.deviation))
    rewards = jax.vmap(x)(clips.observations.reshape(-1, 3), clips.actions.reshape(-1, 1))
    np.testing.assert_allclose([rewards.mean(), rewards.std()], [0.0, 1.0], atol=1e-5)


def test_needs_are_what_the_estimator_wants():
    optimiser = optax.sgd(1.0)
    assert SoBiRL(optimiser, Suffix(7)).needs == Needs(further=7)
    assert SoBiRL(optimiser, OneStep()).needs == DRLHF(optimiser).needs == Needs()
    assert SoBiRL(optimiser, Suffix(7), importance=True).needs == Needs(further=7, log_prob=True)


class Watcher(Leader):
    """Remembers which labels it was given: x counts them."""

    @property
    def needs(self):
        return Needs()

    def init(self, x, observation, action, key):
        return LeaderState(x, optax.EmptyState())

    def step(self, problem, state, evidence, key):
        seen, newest = (
            counts.at[batch.label.astype(int)].add(1)
            for counts, batch in zip(state.x, (evidence.clips, evidence.recent), strict=True)
        )
        return LeaderState((seen, newest), state.optimiser), LeaderStats(*[jnp.zeros(())] * 5)


@pytest.mark.parametrize("total, stored, newest", [(3, {0, 1, 2}, {1, 2}), (8, set(range(3, 8)), {6, 7})])
def test_session_draws_from_the_ring(setting, total, stored, newest):
    # A ring of 5 in which comparison number i, labelled i, lies in slot i mod 5; 99 was never stored.
    capacity = 5
    label = np.full(capacity, 99.0, np.float32)
    for index in range(total):
        label[index % capacity] = index
    ring = eqx.tree_at(lambda c: c.label, clips_of(2, capacity), jnp.asarray(label))
    counts = jnp.zeros(100, int)
    state, _ = lead(
        Watcher(),
        PROBLEM,
        LeaderState((counts, counts), optax.EmptyState()),
        ring,
        jnp.asarray(total),
        setting[1],
        jax.random.key(0),
        num_steps=20,
        batch_size=8,
        recent_batch_size=4,
        recent=2,
    )
    seen, seen_lately = (np.asarray(c) for c in state.x)
    assert set(np.flatnonzero(seen)) == stored and seen.sum() == 160
    assert set(np.flatnonzero(seen_lately)) == newest and seen_lately.sum() == 80
    # Four draws of two: none comes a third time before the other has come twice.
    assert set(seen_lately[list(newest)]) == {40}


def test_what_is_not_a_number_to_learn_is_left_alone(setting):
    _, follower, clips, recent = setting
    problem = BilevelProblem(
        PROBLEM.world,
        lambda x, o, a: x["gain"] * jnp.sum(o) * x["sign"],
        PreferenceLoss(HORIZON),
        "auto",
    )
    x = {"gain": jnp.asarray(0.5), "sign": jnp.asarray(-1)}
    leader = DRLHF(optax.adamw(1e-2))

    @jax.jit
    def step(x):
        evidence = Evidence(clips, recent, follower)
        return leader.step(problem, begun(leader, x), evidence, jax.random.key(0))

    state, _ = step(x)
    assert state.x["sign"] == -1 and state.x["gain"] != 0.5


def test_drlhf_explains_the_answers(setting):
    x, follower, clips, _ = setting
    # Labelled by the sum of the first coordinate: a reward that an ensemble can represent.
    sums = clips_of(3, 64).observations[:, :, :HORIZON, 0].sum(axis=2)
    clips = eqx.tree_at(lambda c: c.label, clips_of(3, 64), (sums[:, 0] > sums[:, 1]).astype(jnp.float32))
    leader = DRLHF(optax.adam(1e-2))
    session = eqx.filter_jit(
        lambda state, key: lead(
            leader, PROBLEM, state, clips, jnp.asarray(64), follower, key,
            num_steps=150, batch_size=32, recent_batch_size=1, recent=1,
        )
    )  # fmt: skip
    state, before = session(begun(leader, x), jax.random.key(0))
    _, after = session(state, jax.random.key(1))
    assert after.loss < 0.5 * before.loss < 0.5 * np.log(2)


@pytest.mark.parametrize(
    "name, value",
    [("weight", -1.0), ("weight", np.inf), ("weight", np.nan), ("bound", 0.0), ("bound", np.nan)],
)
def test_bad_settings(name, value):
    with pytest.raises(InputError, match=name):
        SoBiRL(optax.sgd(1.0), **{name: value})
