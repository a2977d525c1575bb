"""Soft actor-critic on worlds so small that the answer is known; each fails for one reason.

Experience is gathered once, by uniformly random actions: the follower learns off-policy, so that is all it
needs, and a probe shows what the learner does and not how it explored.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith.agents import SAC, Replay, Transition, act, act_greedily, add, empty_replay

STEPS, UPDATES, DISCOUNT, TEMPERATURE = 512, 500, 0.5, 0.01
SOFT_ACTOR_CRITIC = SAC(
    hidden=(32, 32),
    discount=DISCOUNT,
    learning_rate=3e-3,
    batch_size=64,
    polyak=0.05,
    temperature=TEMPERATURE,
)
# Entropy of a one-dimensional action is at most log 2, so it adds at most this much to a value.
BONUS = TEMPERATURE * np.log(2) / (1 - DISCOUNT)


@jax.jit
def _learn(replay: Replay, seed):
    state = SOFT_ACTOR_CRITIC.init(1, 1, key=jax.random.key(seed))
    return SOFT_ACTOR_CRITIC.update(
        state, replay, lambda transition: transition.true_reward, UPDATES, jax.random.key(seed + 1)
    )


def _replay(observation, action, next_observation, terminated, reward):
    column = lambda values: jnp.asarray(np.broadcast_to(values, STEPS), jnp.float32)[:, None]  # noqa: E731
    transitions = Transition(
        column(observation),
        column(action),
        column(next_observation),
        jnp.asarray(np.broadcast_to(terminated, STEPS), bool),
        column(reward)[:, 0],
    )
    return add(empty_replay(STEPS, 1, 1, with_true_reward=True), transitions)


def aim_at_a_point(rng):
    """One step, reward −(a − ½)²: can the policy follow its critic at all?"""
    action = rng.uniform(-1, 1, STEPS)
    return _replay(0.0, action, 0.0, True, -((action - 0.5) ** 2))


def aim_at_what_you_see(rng):
    """One step, reward −(a − s)²: does the observation reach critic and policy?"""
    seen, action = rng.uniform(-0.8, 0.8, STEPS), rng.uniform(-1, 1, STEPS)
    return _replay(seen, action, 0.0, True, -((action - seen) ** 2))


def paid_at_the_second_step(rng):
    """s = 0 leads to s = 1, which pays 1 and ends: is the future discounted once?"""
    place = rng.integers(2, size=STEPS)
    return _replay(place, rng.uniform(-1, 1, STEPS), 1.0, place == 1, place)


def paid_for_ever(rng):
    """Reward 1, never over: a time limit may cut episodes, but the replay does not call that an end."""
    return _replay(0.0, rng.uniform(-1, 1, STEPS), 0.0, False, 1.0)


def paid_once(rng):
    """Reward 1 and over."""
    return _replay(0.0, rng.uniform(-1, 1, STEPS), 0.0, True, 1.0)


@cache
def learned(probe, seed=0):
    return _learn(probe(np.random.default_rng(seed)), seed)


def modes(state, *observations):
    return np.asarray(act_greedily(state.policy, jnp.asarray(observations)[:, None]))[:, 0]


def values(state, observation):
    """Both critics at a few actions."""
    actions = jnp.linspace(-0.8, 0.8, 5)[:, None]
    return np.asarray(jax.vmap(lambda action: state.critic(jnp.array([observation]), action))(actions))


def test_aims_at_a_point():
    state, _ = learned(aim_at_a_point)
    np.testing.assert_allclose(modes(state, 0.0), [0.5], atol=0.08)


def test_is_as_random_as_its_temperature_asks():
    # π ∝ exp(−(a − ½)²/τ) is a Gaussian of variance τ/2 that hardly reaches the ends of (−1, 1).
    state, _ = learned(aim_at_a_point)
    actions = act(state.policy, jnp.zeros((2000, 1)), jax.random.key(0))
    np.testing.assert_allclose(np.std(actions), np.sqrt(TEMPERATURE / 2), rtol=0.3)


def test_aims_at_what_it_sees():
    state, _ = learned(aim_at_what_you_see)
    places = np.array([-0.6, -0.2, 0.2, 0.6], np.float32)
    np.testing.assert_allclose(modes(state, *places), places, atol=0.12)


def test_discounts_the_second_step_once():
    state, _ = learned(paid_at_the_second_step)
    np.testing.assert_allclose(values(state, 1.0), 1.0, atol=0.04)
    np.testing.assert_allclose(values(state, 0.0), DISCOUNT, atol=0.04 + BONUS)


@pytest.mark.parametrize("probe, value", [(paid_for_ever, 1 / (1 - DISCOUNT)), (paid_once, 1.0)])
def test_only_termination_ends_the_sum(probe, value):
    state, stats = learned(probe)
    np.testing.assert_allclose(values(state, 0.0), value, atol=0.04 + BONUS)
    assert np.isfinite(stats.critic_loss)


def test_same_seed_same_answer():
    states = [_learn(aim_at_a_point(np.random.default_rng(3)), 3)[0] for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, *states)
