"""Rewards of vectors and of groups: what the follower is given, what is held still, what is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith._core import ImageSpec, InputError, Layer
from rewardsmith.preferences.models import skew_product
from rewardsmith.rewards import EmbeddingEnsemble, GroupEnsemble, RewardEnsemble, make_networks

SIZE, ACTIONS, WIDTH, MEMBERS, KEY = 3, 2, 4, 2, jax.random.key(0)


def steps(count, discrete, seed=0):
    rng = np.random.default_rng(seed)
    seen = jnp.asarray(rng.normal(size=(count, SIZE)), jnp.float32)
    if discrete:
        return seen, jnp.asarray(rng.integers(ACTIONS, size=count))
    return seen, jnp.asarray(rng.normal(size=(count, ACTIONS)), jnp.float32)


def networks(discrete=False, width=WIDTH):
    return make_networks(SIZE, ACTIONS, (8,), MEMBERS, discrete=discrete, width=width, key=KEY)


@pytest.mark.parametrize("discrete", [False, True])
def test_a_width_of_outputs_for_each_action(discrete):
    x = EmbeddingEnsemble(networks(discrete), skew_product, key=KEY)
    seen, taken = steps(1, discrete)
    said = x.members(seen[0], taken[0])
    assert said.shape == (MEMBERS, WIDTH)
    if discrete:
        said_of_all = eqx.filter_vmap(lambda n: n.head(seen[0]))(x.networks)
        at = int(taken[0]) * WIDTH
        np.testing.assert_allclose(said, said_of_all[:, at : at + WIDTH], rtol=1e-6)


@pytest.mark.parametrize("discrete", [False, True])
def test_the_reward_of_vectors_is_how_far_a_step_beats_what_was_visited(discrete):
    x = EmbeddingEnsemble(networks(discrete), skew_product, output="raw", key=KEY)
    visited = steps(200, discrete)
    x = x.normalise(*visited)
    vectors = np.asarray(jax.vmap(x.members)(*visited))
    np.testing.assert_allclose(x.against, vectors.mean(axis=0), rtol=1e-5, atol=1e-6)
    seen, taken = steps(5, discrete, seed=1)
    found = jax.vmap(x)(seen, taken)
    against = jnp.broadcast_to(vectors.mean(axis=0), (5, MEMBERS, WIDTH))
    by_hand = jnp.mean(skew_product(jax.vmap(x.members)(seen, taken), against), axis=1)
    np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-6)
    # Against itself the mean of all is even.
    np.testing.assert_allclose(jnp.mean(jax.vmap(x)(*visited)), 0.0, atol=1e-6)
    unit = EmbeddingEnsemble(networks(discrete), skew_product, key=KEY).normalise(*visited)
    rewards = jax.vmap(unit)(*visited)
    np.testing.assert_allclose([jnp.mean(rewards), jnp.std(rewards)], [0.0, 1.0], atol=1e-3)


@pytest.mark.parametrize("discrete", [False, True])
def test_the_reward_of_groups_is_their_weighted_sum(discrete):
    x = GroupEnsemble(networks(discrete, 3))
    visited = steps(200, discrete)
    x = x.normalise(*visited).weighed(jnp.asarray([0.2, 0.4, 1.4]))
    of_groups = np.asarray(jax.vmap(x.of_groups)(*visited))
    unit = (of_groups - of_groups.mean(axis=0)) / of_groups.std(axis=0)
    # An optimiser may have shrunk all weights alike.
    np.testing.assert_allclose(jax.vmap(x)(*visited), unit @ [0.1, 0.2, 0.7], rtol=1e-3, atol=1e-4)
    mean = jnp.mean(x.members(visited[0][0], visited[1][0]), axis=0)
    np.testing.assert_allclose(of_groups[0], mean, rtol=1e-5)


def test_what_is_measured_is_held_still():
    visited = steps(50, False)
    for x, names in (
        (EmbeddingEnsemble(networks(), skew_product, key=KEY), ("against", "mean", "deviation")),
        (GroupEnsemble(networks(width=2)), ("weights", "mean", "deviation")),
    ):
        gradient = eqx.filter_grad(lambda x: x(visited[0][0], visited[1][0]) ** 2)(x.normalise(*visited))
        for name in names:
            assert not np.any(getattr(gradient, name))
        assert abs(gradient.networks.head.weights[-1]).max() > 0


def test_pictures_are_measured_and_thinned_alike():
    spec, layers = ImageSpec(12, 12, 1), (Layer(2, 4, 4),)
    options = {"discrete": True, "layers": layers, "norm": "batch", "width": 2}
    made = make_networks(spec, ACTIONS, (4,), MEMBERS, **options, key=KEY)
    seen = jnp.asarray(np.random.default_rng(0).integers(256, size=(20, *spec.shape)), jnp.uint8)
    taken = jnp.zeros(20, jnp.int32)
    x = GroupEnsemble(made, visible=jnp.ones((12, 12, 1), jnp.uint8)).normalise(seen, taken)
    thin = x.thinned(jax.random.key(3))
    assert set(np.unique(thin.networks.kept)) == {0, 2} and isinstance(thin, GroupEnsemble)
    np.testing.assert_array_equal(thin.whole()(seen[0], taken[0]), x(seen[0], taken[0]))


def test_networks_of_one_output_start_as_they_always_did():
    x = RewardEnsemble(SIZE, ACTIONS, (8,), MEMBERS, key=KEY)
    same = make_networks(SIZE, ACTIONS, (8,), MEMBERS, key=KEY)
    assert eqx.tree_equal(x.networks, same)
    assert x.members(*(part[0] for part in steps(1, False))).shape == (MEMBERS,)
    np.testing.assert_array_equal(eqx.tree_at(lambda r: r.deviation, x, jnp.float32(3.0)).unit, 3.0)
    assert RewardEnsemble(SIZE, ACTIONS, output="raw", key=KEY).unit == 1.0


def test_what_is_refused():
    for width in (None, 1, 3):
        with pytest.raises(InputError, match=f"width of the embedding is {width}"):
            EmbeddingEnsemble(networks(width=width), skew_product, key=KEY)
    for width in (None, 1):
        with pytest.raises(InputError, match="at least 2 groups"):
            GroupEnsemble(networks(width=width))
