"""Rewards on pictures, blocks of tuples, and closed-form expectations where actions can be counted."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith._core import ImageSpec, InputError, Layer
from rewardsmith.agents import CategoricalPolicy
from rewardsmith.bilevel.sampled import _blocks
from rewardsmith.bilevel.sampled._blocks import over_tuples, value_and_grad_over_tuples
from rewardsmith.bilevel.sampled.adjoint import FittedAdjoint
from rewardsmith.bilevel.sampled.data import FinitePolicy, LabelledClips, Visits
from rewardsmith.bilevel.sampled.estimator import minus_expected, noise_of_mean
from rewardsmith.bilevel.sampled.features import (
    ActionInteractions,
    Pairs,
    RandomFeatures,
    action_vector,
    state_vector,
)
from rewardsmith.bilevel.sampled.one_step import OneStep
from rewardsmith.rewards import RewardEnsemble

pytestmark = pytest.mark.usefixtures("compile_quickly")

SPEC = ImageSpec(12, 10, 1, 2)
ACTIONS, MEMBERS = 4, 3
KEY = jax.random.key(0)
# Half of the pictures is hidden from the reward.
VISIBLE = np.arange(12)[:, None] >= np.zeros(10) + 6


def ensemble(discrete=True, **options):
    layers = (Layer(4, 4, 2), Layer(6, 3, 1))
    size = ACTIONS if discrete else 2
    return RewardEnsemble(SPEC, size, (8,), MEMBERS, discrete=discrete, layers=layers, key=KEY, **options)


def pictures(*count, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(256, size=(*count, *SPEC.shape)), jnp.uint8)


def actions(*count, seed=0, discrete=True):
    rng = np.random.default_rng(seed)
    if discrete:
        return jnp.asarray(rng.integers(ACTIONS, size=count), jnp.int32)
    return jnp.asarray(rng.uniform(-1, 1, size=(*count, 2)), jnp.float32)


def rewards_of(x, observation, action):
    return eqx.filter_jit(lambda x: jax.vmap(x)(observation, action))(x)


def louder(x, factor):
    """The members' rewards times a factor."""
    last = lambda x: (x.networks.head.weights[-1], x.networks.head.biases[-1])  # noqa: E731
    return eqx.tree_at(last, x, [factor * leaf for leaf in last(x)])


# ---- the ensemble -------------------------------------------------------------------------------


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_members_are_single_networks(discrete, norm):
    x, seen = ensemble(discrete, norm=norm, output="raw"), pictures(6)
    taken = actions(6, discrete=discrete)
    if norm == "batch":
        x = x.normalise(seen, taken)
    together = eqx.filter_jit(lambda x: jax.vmap(x.members)(seen, taken))(x)
    assert together.shape == (6, MEMBERS) and together.dtype == jnp.float32

    @eqx.filter_jit
    def alone(network):
        def one(observation, action):
            vector = network.encoder(observation)
            if discrete:
                # An output each: all of r(s), of which the action picks its own.
                return jnp.sum(network.head(vector) * (jnp.arange(ACTIONS) == action))
            return network.head(jnp.concatenate([vector, action]))[0]

        return jax.vmap(one)(seen, taken)

    for member in range(MEMBERS):
        network = jax.tree.map(lambda leaf, m=member: leaf[m] if eqx.is_array(leaf) else leaf, x.networks)
        np.testing.assert_allclose(together[:, member], alone(network), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rewards_of(x, seen, taken), together.mean(axis=1), rtol=1e-4, atol=1e-5)
    for member in range(1, MEMBERS):
        assert (abs(together[:, member] - together[:, 0]) > 1e-3).all()
    # Both, what is seen and what is done, count.
    one = jnp.repeat(seen[:1], 6, axis=0)
    assert np.std(rewards_of(x, one, taken)) > 1e-3
    assert np.std(rewards_of(x, seen, jnp.repeat(taken[:1], 6, axis=0))) > 1e-4


def test_clamp_and_raw():
    seen, taken = pictures(24), actions(24)
    raw, clamped = (louder(ensemble(output=output), 8.0) for output in ("raw", "clamp"))
    plain, cut = rewards_of(raw, seen, taken), rewards_of(clamped, seen, taken)
    outside = np.abs(plain) > 1
    assert outside.any() and not outside.all()
    np.testing.assert_allclose(cut, np.clip(plain, -1, 1), rtol=1e-5)
    slopes = eqx.filter_jit(
        lambda x: jax.vmap(eqx.filter_grad(lambda x, o, a: x(o, a)), (None, 0, 0))(x, seen, taken)
    )
    of_raw, of_cut = (slopes(x).networks.head.weights[-1] for x in (raw, clamped))
    assert not np.asarray(of_cut)[outside].any()
    np.testing.assert_allclose(np.asarray(of_cut)[~outside], np.asarray(of_raw)[~outside], rtol=1e-5)
    assert abs(np.asarray(of_raw)).max(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("discrete, norm", [(True, "none"), (True, "batch"), (False, "group")])
def test_normalised_on_the_given_steps(discrete, norm):
    seen, taken = pictures(40), actions(40, discrete=discrete)
    before = ensemble(discrete, norm=norm)
    x = eqx.filter_jit(lambda x: x.normalise(seen, taken))(before)
    found = rewards_of(x, seen, taken)
    np.testing.assert_allclose(found.mean(), 0.0, atol=1e-3)
    np.testing.assert_allclose(found.std(), 1.0, atol=1e-3)
    jax.tree.map(np.testing.assert_array_equal, before.networks.head, x.networks.head)
    for old, new in zip(before.networks.encoder.norms, x.networks.encoder.norms, strict=True):
        # Each member has moments of its own.
        assert np.allclose(old.mean, new.mean) == (norm == "group")
        assert norm == "group" or not np.allclose(new.mean[0], new.mean[1])
    # A reward that is all but constant is not blown up.
    flat = louder(before, 0.0).normalise(seen, taken, least_deviation=0.5)
    assert flat.deviation == 0.5


def test_no_gradient_reaches_the_moments():
    seen, taken = pictures(10), actions(10)
    x = ensemble(norm="batch", visible=VISIBLE).normalise(seen, taken)
    slope = eqx.filter_jit(eqx.filter_grad(lambda x: jnp.sum(jax.vmap(x)(seen, taken) ** 2)))(x)
    assert slope.mean == 0 and slope.deviation == 0 and slope.visible is None
    for norm in slope.networks.encoder.norms:
        assert not norm.mean.any() and not norm.variance.any() and norm.scale.any()


@pytest.mark.parametrize("visible", [VISIBLE, 255 * VISIBLE.astype(np.uint8)])
def test_hidden_pixels_cannot_change_the_reward(visible):
    first, other, taken = pictures(5), pictures(5, seed=1), actions(5)
    x = ensemble(norm="batch", visible=visible)
    x = x.normalise(first, taken)
    mask = jnp.asarray(VISIBLE[:, :, None])
    as_first = jnp.where(mask, first, other)
    np.testing.assert_array_equal(rewards_of(x, as_first, taken), rewards_of(x, first, taken))
    assert (abs(rewards_of(x, jnp.where(mask, other, first), taken) - rewards_of(x, first, taken)) > 0).all()
    # They cannot change its moments either, and what is visible is seen as it is.
    again = x.normalise(as_first, taken)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), again, x)
    bare = eqx.tree_at(lambda x: x.visible, x, None)
    np.testing.assert_allclose(
        rewards_of(bare, jnp.where(mask, first, 0), taken), rewards_of(x, first, taken), rtol=1e-5, atol=1e-6
    )


def test_a_mask_of_another_size_is_refused():
    for mask in (VISIBLE.T, VISIBLE[:1], VISIBLE[:, :, None]):
        with pytest.raises(InputError, match=r"give height × width \(12, 10\)"):
            ensemble(visible=mask)
    with pytest.raises(InputError, match="visible is for pictures"):
        RewardEnsemble(3, 2, visible=VISIBLE, key=KEY)


def test_types():
    """Stored steps may be float16 and uint8; rewards are float32 all the same."""
    halves = actions(5, discrete=False).astype(jnp.float16)
    x = ensemble(discrete=False)
    found = rewards_of(x, pictures(5), halves)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, rewards_of(x, pictures(5), halves.astype(jnp.float32)), rtol=1e-5)
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float16)
    flat = RewardEnsemble(3, 2, (8,), key=KEY)
    found = rewards_of(flat, vectors, halves)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(
        found, rewards_of(flat, vectors.astype(jnp.float32), halves.astype(jnp.float32)), rtol=1e-5
    )
    assert ensemble(visible=VISIBLE)._seen(pictures(2)).dtype == jnp.uint8


# ---- blocks of tuples ---------------------------------------------------------------------------


def clip_value(x, observations, actions, label):
    """Of one tuple: something that no sum over steps gives."""
    total = jnp.sum(jax.vmap(x)(observations, actions))
    return jnp.tanh(total) * (1.0 if label is None else label)


@pytest.mark.parametrize("count, steps", [(7, 1), (8, 1), (9, 1), (5, 2), (2, 4), (3, 1)])
def test_blocks_give_what_vmap_gives(monkeypatch, count, steps):
    monkeypatch.setattr(_blocks, "_PICTURES_AT_ONCE", 3)
    x, seen, taken = ensemble(output="raw"), pictures(count, steps), actions(count, steps)
    labels = None if count == 8 else jnp.linspace(-1.0, 2.0, count)

    def plain(x):
        return jax.vmap(partial(clip_value, x))(seen, taken, labels)

    def in_blocks(x):
        return over_tuples(partial(clip_value, x), seen, taken, labels)

    assert ("scan" in str(eqx.filter_make_jaxpr(in_blocks)(x)[0])) == (count * steps > 3)
    tight = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    tight(eqx.filter_jit(in_blocks)(x), eqx.filter_jit(plain)(x))
    weights = jnp.arange(1.0, count + 1)
    slopes = (eqx.filter_grad(lambda x, f=f: weights @ f(x)) for f in (in_blocks, plain))
    jax.tree.map(tight, *(eqx.filter_jit(f)(x) for f in slopes))
    added = eqx.filter_jit(partial(value_and_grad_over_tuples, clip_value))(x, seen, taken, labels)
    summed = eqx.filter_value_and_grad(lambda x: jnp.sum(plain(x)))
    jax.tree.map(tight, added, eqx.filter_jit(summed)(x))


def test_vectors_go_all_at_once(monkeypatch):
    monkeypatch.setattr(_blocks, "_PICTURES_AT_ONCE", 3)
    rows = jnp.arange(20.0).reshape(10, 2)
    for way in (
        lambda rows: over_tuples(jnp.sum, rows),
        lambda rows: value_and_grad_over_tuples(lambda x, row: x @ row, jnp.ones(2), rows),
    ):
        assert "scan" not in str(jax.make_jaxpr(way)(rows))
    np.testing.assert_allclose(over_tuples(jnp.sum, rows), rows.sum(axis=1))


# ---- expectations over countable actions --------------------------------------------------------


class Sampled(eqx.Module):
    """A policy whose probabilities nobody may ask for."""

    policy: CategoricalPolicy

    def sample(self, observation, key):
        return self.policy.sample(observation, key)

    def log_prob(self, observation, action):
        return self.policy.log_prob(observation, action)


@pytest.fixture(scope="module")
def policy():
    """On vectors of 3 numbers, not too even."""
    made = CategoricalPolicy(3, ACTIONS, (8,), key=jax.random.key(1))
    return eqx.tree_at(lambda p: p.trunk.weights[-1], made, 3 * made.trunk.weights[-1])


def vectors(*count, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*count, 3)), jnp.float32)


def two_numbers(observation, action):
    """Of a pair: not linear in anything."""
    return jnp.stack([jnp.sin(observation[0] + action), observation[1] * action**2])


def test_which_policies_can_be_counted(policy):
    assert isinstance(policy, FinitePolicy) and not isinstance(Sampled(policy), FinitePolicy)
    assert noise_of_mean(policy, 3) == 0.0 and noise_of_mean(Sampled(policy), 3) == 0.25


def test_minus_expected_is_the_limit_of_sampling(policy):
    seen, taken, many = vectors(2, 2, 3), actions(2, 2, 3), 4000
    exact = jax.jit(lambda key: minus_expected(two_numbers, seen, taken, policy, 1, key))
    found = exact(KEY)
    assert found.shape == (2, 2, 3, 2)
    np.testing.assert_array_equal(found, exact(jax.random.key(5)))
    limit = jax.jit(lambda key: minus_expected(two_numbers, seen, taken, Sampled(policy), many, key))(KEY)
    values = np.stack(
        [jax.vmap(two_numbers, (0, None))(seen.reshape(-1, 3), jnp.int32(a)) for a in range(ACTIONS)], axis=1
    )
    chance = np.asarray(jax.vmap(policy.probabilities)(seen.reshape(-1, 3)))
    mean = np.einsum("na,nak->nk", chance, values)
    error = np.sqrt(np.einsum("na,nak->nk", chance, (values - mean[:, None]) ** 2) / many)
    assert (abs(limit - found).reshape(-1, 2) < 4.5 * error + 1e-4).all()
    own = values[np.arange(12), np.asarray(taken).ravel()]
    np.testing.assert_allclose(found.reshape(-1, 2), own - mean, rtol=1e-4, atol=1e-5)


def test_its_mean_over_the_policy_is_zero(policy):
    state = vectors(1)[0]
    seen, taken = jnp.tile(state, (1, 1, ACTIONS, 1)), jnp.arange(ACTIONS, dtype=jnp.int32)[None, None]
    found = jax.jit(lambda: minus_expected(two_numbers, seen, taken, policy, 1, KEY))()[0, 0]
    assert abs(found).max() > 0.1
    np.testing.assert_allclose(policy.probabilities(state) @ found, 0.0, atol=2e-6)


def test_minus_expected_on_pictures_in_blocks(monkeypatch):
    spec, taken = ImageSpec(36, 36, 1), actions(3, 2, 2)
    seen = jnp.asarray(np.random.default_rng(0).integers(256, size=(3, 2, 2, *spec.shape)), jnp.uint8)
    reader = CategoricalPolicy(spec, ACTIONS, (4,), key=KEY)

    def found():
        # A function of its own at each call: a compiled one would not ask again how much goes at once.
        bright = lambda o, a: state_vector(o)[0] * a  # noqa: E731
        return jax.jit(lambda: minus_expected(bright, seen, taken, reader, 1, KEY))()

    at_once = found()
    monkeypatch.setattr(_blocks, "_PICTURES_AT_ONCE", 4)
    np.testing.assert_allclose(found(), at_once, rtol=1e-3, atol=1e-5)
    assert abs(at_once).max() > 0.1


def test_next_features_of_the_adjoint(policy):
    size, many = 6, 2000
    ended = jnp.arange(size) % 3 == 0
    visits = Visits(vectors(size), actions(size), vectors(size, seed=1), ended, jnp.full(size, 1 / size))
    features = RandomFeatures(8, num_actions=ACTIONS)
    exact = FittedAdjoint(features, visits=size)._next_features(visits, policy, KEY)
    assert exact.shape == (2, size, 9)
    np.testing.assert_array_equal(exact[0], exact[1])
    sampling = FittedAdjoint(features, visits=size, num_actions=many)
    sampled = jax.jit(lambda key: sampling._next_features(visits, Sampled(policy), key))(KEY)
    assert not np.array_equal(sampled[0], sampled[1])
    np.testing.assert_allclose(sampled, exact, atol=0.15)
    np.testing.assert_allclose(sampled.mean(), exact.mean(), rtol=0.02)
    assert not exact[:, ended].any() and exact[:, ~ended].any(axis=2).all()
    row = int(np.flatnonzero(~np.asarray(ended))[0])
    chance = policy.probabilities(visits.next_observations[row])
    by_hand = sum(chance[a] * features(visits.next_observations[row], jnp.int32(a)) for a in range(ACTIONS))
    np.testing.assert_allclose(exact[0, row], by_hand, rtol=1e-4, atol=1e-5)


def test_one_step_by_hand():
    """r_x(s, a) = x[a]·state_vector(s) on pictures: Σ w (∇r(s, a) − Σ_a' π(a'|s) ∇r(s, a'))."""
    spec, rng = ImageSpec(36, 36, 1, 2), np.random.default_rng(2)
    seen = jnp.asarray(rng.integers(256, size=(3, 2, 2, *spec.shape)), jnp.uint8)
    taken, weights = actions(3, 2, 2), jnp.asarray(rng.normal(size=(3, 2, 2)), jnp.float32)
    clips = LabelledClips(seen, taken, jnp.ones((3, 2, 2), bool), jnp.ones(3))
    policy = CategoricalPolicy(spec, ACTIONS, (4,), key=jax.random.key(2))
    x = jnp.asarray(rng.normal(size=(ACTIONS, 50)), jnp.float32)

    @jax.jit
    def both(x):
        def total(x):
            return OneStep().surrogate(
                lambda o, a: x[a] @ state_vector(o), clips, weights, None, policy, 0.9, KEY
            )

        return jax.value_and_grad(total)(x)

    value, slope = both(x)
    flat = seen.reshape(-1, *spec.shape)
    states = np.asarray(jax.vmap(state_vector)(flat), float)
    chances = np.asarray(jax.jit(jax.vmap(policy.probabilities))(flat), float)
    by_hand = np.zeros((ACTIONS, 50))
    for state, chance, a, weight in zip(
        states, chances, np.ravel(taken), np.ravel(np.asarray(weights, float)), strict=True
    ):
        by_hand[a] += weight * state
        for other in range(ACTIONS):
            by_hand[other] -= weight * chance[other] * state
    np.testing.assert_allclose(slope, by_hand, rtol=1e-3, atol=1e-4)
    # Linear in x, so the surrogate is x times its slope.
    np.testing.assert_allclose(value, np.sum(by_hand * np.asarray(x)), rtol=1e-3, atol=1e-3)


# ---- vectors of pictures and of indices ---------------------------------------------------------


def test_state_vector_of_a_picture():
    rng = np.random.default_rng(3)
    # 2 × 3 pixels a field; the last row and the last two columns belong to none.
    picture = rng.integers(256, size=(11, 17, 4)).astype(np.uint8)
    found = jax.jit(state_vector)(jnp.asarray(picture))
    assert found.shape == (50,) and found.dtype == jnp.float32
    for row, column in np.ndindex(5, 5):
        field = picture[2 * row : 2 * row + 2, 3 * column : 3 * column + 3].astype(float) / 255
        place = 5 * row + column
        np.testing.assert_allclose(found[place], field[..., -1].mean(), rtol=1e-5)
        np.testing.assert_allclose(
            found[25 + place], field[..., -1].mean() - field[..., 0].mean(), rtol=1e-4, atol=1e-6
        )
    still = state_vector(jnp.full((84, 84, 4), 255, jnp.uint8))
    np.testing.assert_allclose(still, np.repeat([1.0, 0.0], 25), atol=1e-6)
    np.testing.assert_array_equal(state_vector(jnp.arange(6).reshape(2, 3)), np.arange(6.0))


def test_features_of_indices():
    state, index, hot = jnp.array([1.0, -2.0, 0.5]), jnp.int32(2), jnp.array([0.0, 0.0, 1.0, 0.0])
    np.testing.assert_array_equal(action_vector(index, ACTIONS), hot)
    np.testing.assert_array_equal(action_vector(hot, None), hot)
    np.testing.assert_array_equal(Pairs(ACTIONS)(state, index), [1, -2, 0.5, 0, 0, 1, 0])
    found = ActionInteractions(ACTIONS)(state, index)
    np.testing.assert_array_equal(found, np.concatenate([hot, np.zeros(6), state, np.zeros(3)]))
    for make in (Pairs, ActionInteractions, partial(RandomFeatures, 16)):
        counted, plain = make(num_actions=ACTIONS), make()
        np.testing.assert_allclose(counted(state, index), plain(state, hot), rtol=1e-6)
        assert not np.allclose(counted(state, index), counted(state, jnp.int32(1)))
        assert counted != plain and hash(counted) == hash(make(num_actions=ACTIONS))
    assert RandomFeatures(16, num_actions=ACTIONS)(pictures(1)[0], index).shape == (17,)
    assert Pairs(ACTIONS)(pictures(1)[0], index).shape == (54,)
