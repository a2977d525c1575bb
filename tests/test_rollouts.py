"""Trajectories from tables: the right frequencies, the right ends, in every form of P."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith._core import InputError
from rewardsmith.mdp import MDP, SharedTransition, SparseTransition, state_action_occupancy
from rewardsmith.mdp.rollouts import _cumulative, _draw, roll_out

STATES, ACTIONS, DISCOUNT = 4, 3, 0.7


pytestmark = pytest.mark.usefixtures("double_precision")


def random_world(form, seed=0):
    """Some successors impossible, state 2 terminal, actions 0 and 2 alike."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.ones(STATES), (STATES, ACTIONS))
    P[rng.random(P.shape) < 0.3] = 0
    P[..., 0] += 0.1
    P /= P.sum(-1, keepdims=True)
    P[:, 2] = P[:, 0]
    P[2] = 0
    transition = {
        "dense": lambda: P,
        "sparse": lambda: SparseTransition(
            np.broadcast_to(np.arange(STATES)[::-1], P.shape), np.ascontiguousarray(P[..., ::-1])
        ),
        "shared": lambda: SharedTransition(P[:, :2], [0, 1, 0]),
    }[form]()
    world = MDP(transition, rng.dirichlet(np.ones(STATES)), DISCOUNT)
    return world, jnp.asarray(rng.dirichlet(np.ones(ACTIONS), STATES)), P


@pytest.mark.parametrize("form", ["dense", "sparse", "shared"])
def test_visits_are_the_occupancy(form):
    world, policy, _ = random_world(form)
    drawn = jax.jit(lambda key: roll_out(world, policy, key, 4000, 60))(jax.random.key(1))
    weights = np.asarray(drawn.alive) * DISCOUNT ** np.arange(60)
    visits = np.zeros((4000, STATES, ACTIONS))
    np.add.at(visits, (np.arange(4000)[:, None], drawn.states, drawn.actions), weights)
    error = visits.mean(axis=0) - state_action_occupancy(world, policy)
    # Twelve numbers: one in a thousand such tests would fail by chance, and the key is fixed.
    assert np.all(abs(error) < 4 * visits.std(axis=0) / np.sqrt(4000))


def test_an_end_pays_once_and_nothing_impossible_happens():
    world, policy, P = random_world("dense", 3)
    drawn = roll_out(world, policy, jax.random.key(0), 300, 40)
    states, actions, alive = (np.asarray(part) for part in (drawn.states, drawn.actions, drawn.alive))
    assert alive[:, 0].all() and states.dtype == actions.dtype == np.int32
    ended = alive[:, :-1] & (states[:, :-1] == 2)
    goes_on = alive[:, :-1] & ~ended
    np.testing.assert_array_equal(alive[:, 1:], goes_on)
    assert ended.sum() > 100
    assert np.all(P[states[:, :-1], actions[:, :-1], states[:, 1:]][goes_on] > 0)


def test_a_chain_is_walked_to_its_end():
    # 0 → 1 → 2 and no further.
    world = MDP(
        SparseTransition(np.array([[[1]], [[2]], [[0]]]), np.array([[[1.0]], [[1.0]], [[0.0]]])),
        [1.0, 0, 0],
        0.5,
    )
    drawn = roll_out(world, jnp.ones((3, 1)), jax.random.key(0), 2, 5)
    np.testing.assert_array_equal(drawn.alive, [[True] * 3 + [False] * 2] * 2)
    np.testing.assert_array_equal(drawn.states[:, :3], [[0, 1, 2]] * 2)


def test_a_start_of_ones_own():
    world, policy, _ = random_world("dense")
    drawn = roll_out(world, policy, jax.random.key(0), 50, 2, initial=jnp.eye(STATES)[3])
    assert np.all(drawn.states[:, 0] == 3)


def test_what_has_no_weight_is_never_drawn():
    # Sums made in parallel round up and down; here that alone would give some hundred empty entries weight.
    weights = np.random.default_rng(0).random(10_000, np.float32) * (np.arange(10_000) % 2)
    weights = jnp.asarray(weights / weights.sum(), jnp.float32)
    steps = np.diff(_cumulative(weights))
    assert np.all(steps[weights[1:] == 0] == 0) and np.all(steps >= 0)
    drawn = jax.vmap(lambda u: _draw(weights, u))(jnp.linspace(0, 1 - 2**-23, 999, dtype=jnp.float32))
    assert np.all(weights[drawn] > 0) and drawn[0] == 1 and drawn[-1] == 9999


def test_a_sparse_world_stays_sparse():
    successors = np.random.default_rng(0).integers(0, 50, (50, 3, 2))
    world = MDP(SparseTransition(successors, np.full((50, 3, 2), 0.5)), np.full(50, 1 / 50), 0.9)
    policy = jnp.full((50, 3), 1 / 3)
    graph = str(jax.make_jaxpr(lambda key: roll_out(world, policy, key, 7, 4))(jax.random.key(0)))
    assert "50,3,50" not in graph and "7,50" not in graph


def test_vmap_over_keys_and_worlds():
    worlds, policies, _ = zip(*[random_world("dense", seed) for seed in (0, 1)], strict=True)
    keys = jax.random.split(jax.random.key(0), 2)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *worlds)
    together = jax.vmap(lambda w, p, k: roll_out(w, p, k, 20, 10))(batch, jnp.stack(policies), keys)
    alone = roll_out(worlds[1], policies[1], keys[1], 20, 10)
    np.testing.assert_array_equal(together.states[1], alone.states)
    np.testing.assert_array_equal(together.alive[1], alone.alive)


def test_bad_input():
    world, policy, _ = random_world("dense")
    key = jax.random.key(0)
    with pytest.raises(InputError, match="num_trajectories is 0"):
        roll_out(world, policy, key, 0, 5)
    with pytest.raises(InputError, match="horizon is 0"):
        roll_out(world, policy, key, 5, 0)
    with pytest.raises(InputError, match=r"policy has shape \(3, 4\)"):
        roll_out(world, policy.T, key, 5, 5)
    with pytest.raises(InputError, match=r"initial has shape \(3,\)"):
        roll_out(world, policy, key, 5, 5, initial=jnp.ones(3))
