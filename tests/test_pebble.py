"""PEBBLE: the reward of exploring against its definition, critics that start anew, and runs of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import assert_same, killed_at, measured, settings

from rewardsmith._core import InputError
from rewardsmith.agents import SAC, exploration_rewards, neighbour_distance
from rewardsmith.runs.exploration import with_fresh_critics
from rewardsmith.runs.train import resume, train
from rewardsmith.runs.training import Training

pytestmark = pytest.mark.usefixtures("compile_quickly")


def by_sorting(states, visited, scale, neighbours):
    distances = np.linalg.norm((visited[None] - states[:, None]) / scale, axis=2)
    return np.array([np.sort(row[row > 0])[neighbours - 1] for row in distances])


@pytest.mark.parametrize("neighbours", (1, 5))
def test_distances_to_the_neighbours(neighbours):
    rng = np.random.default_rng(0)
    visited = rng.normal(size=(40, 3)).astype(np.float32) * [1.0, 10.0, 0.1]
    visited = visited.astype(np.float32)
    # Some of them are among the visited, and no neighbours of themselves.
    states = np.concatenate([visited[:4], rng.normal(size=(4, 3)).astype(np.float32)])
    scale = visited.std(axis=0) + np.float32(1e-6)
    seen, size = jnp.asarray(visited), jnp.asarray(scale)
    found = jax.vmap(lambda s: neighbour_distance(s, seen, size, neighbours))(jnp.asarray(states))
    wanted = by_sorting(states, visited, scale, neighbours)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    paid = exploration_rewards(jnp.asarray(states), jnp.asarray(visited), neighbours)
    np.testing.assert_allclose(paid, wanted / wanted.mean(), rtol=1e-4)


def test_exploring_pays_alike_in_any_units():
    rng = np.random.default_rng(1)
    visited, states = (rng.normal(size=(n, 2)).astype(np.float32) for n in (200, 16))
    units = np.array([1e-3, 1e3], np.float32)
    plain, scaled = (
        exploration_rewards(jnp.asarray(states * by), jnp.asarray(visited * by), 5) for by in (1.0, units)
    )
    np.testing.assert_allclose(plain, scaled, rtol=1e-2)
    assert np.mean(np.asarray(plain)) == pytest.approx(1.0, rel=1e-5)


def test_all_states_alike_pay_nothing_that_is_not_finite():
    paid = exploration_rewards(jnp.ones((4, 2)), jnp.ones((20, 2)), 5)
    assert np.isfinite(np.asarray(paid)).all()


def test_critics_start_anew_and_the_policy_stays():
    sac = SAC(hidden=(8,))
    old, fresh = (sac.init(3, 1, key=jax.random.key(seed)) for seed in (0, 1))
    mixed = with_fresh_critics(old, fresh)
    for name in ("critic", "target_critic", "critic_optimiser"):
        for one, other in zip(*(jax.tree.leaves(getattr(s, name)) for s in (mixed, fresh)), strict=True):
            np.testing.assert_array_equal(one, other)
    for one, other in zip(*(jax.tree.leaves(s.policy) for s in (mixed, old)), strict=True):
        np.testing.assert_array_equal(one, other)


PEBBLE = {"env": "Pendulum-v1", "method": "pebble", "pretrain_steps": 120, "snapshot_every": None}


def test_a_run_explores_then_asks(tmp_path, monkeypatch):
    rewards = []
    session = Training._session

    def watched(self):
        rewards.append((self.step, self.follower_updates, self.leader_updates))
        session(self)

    monkeypatch.setattr(Training, "_session", watched)
    folder = train(settings(**PEBBLE), tmp_path / "run")
    # Nothing is asked before both the random and the exploring steps are over; the policy learned meanwhile.
    assert rewards[0] == (280, 120, 0)
    rows = measured(folder).filter(kind="leader")
    assert rows["comparisons"][0] > 0
    assert rows["second_norm"].null_count() == len(rows)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = train(settings(**PEBBLE, checkpoint_every=200), tmp_path / "whole")
    with killed_at(520):
        train(settings(**PEBBLE, checkpoint_every=200), tmp_path / "killed")
    assert_same(whole, resume(tmp_path / "killed"))


def test_it_is_for_vectors(tmp_path):
    with pytest.raises(InputError, match="pebble explores among vectors"):
        train(settings(**PEBBLE | {"env": "ALE/Pong-v5", "clip_length": 5}), tmp_path / "run")
    with pytest.raises(InputError, match="--pretrain-steps is 600: leave some"):
        settings(**PEBBLE | {"pretrain_steps": 600})
