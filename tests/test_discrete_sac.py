"""Soft actor-critic with actions that can be counted, and on pictures: by hand, and on small worlds.

The hand computation is NumPy in float64 with linear networks, so that every gradient can be written down.
"""

from dataclasses import replace
from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rewardsmith._core import ImageSpec, InputError
from rewardsmith.agents import (
    SAC,
    CategoricalPolicy,
    DiscreteTwinCritic,
    Replay,
    Transition,
    act,
    act_greedily,
    add,
    empty_replay,
    sample,
)
from rewardsmith.agents.losses import expected_soft_value, sampled_soft_value

pytestmark = pytest.mark.usefixtures("compile_quickly")

OBSERVATION, BATCH = 3, 5
COUNTS = [1, 2, 9, 18]

update_once = eqx.filter_jit(lambda sac, *args: sac.update_on_batch(*args))


def batch_of(num_actions, seed=0, size=BATCH):
    """Transitions, some at the end of an episode, and their rewards."""
    rng = np.random.default_rng(seed)
    batch = Transition(
        jnp.asarray(rng.normal(size=(size, OBSERVATION)), jnp.float32),
        jnp.asarray(rng.integers(num_actions, size=size), jnp.int32),
        jnp.asarray(rng.normal(size=(size, OBSERVATION)), jnp.float32),
        jnp.arange(size) % 3 == 1,
    )
    return batch, jnp.asarray(rng.normal(size=size), jnp.float32), jnp.zeros((size, 2, 0))


def fresh(sac, num_actions, seed=0):
    """A state whose targets are networks of their own, so that mixing them up with the critics shows."""
    state = sac.init(OBSERVATION, num_actions, discrete=True, key=jax.random.key(seed))
    target = DiscreteTwinCritic(OBSERVATION, num_actions, sac.hidden, key=jax.random.key(seed + 99))
    return eqx.tree_at(lambda s: s.target_critic, state, target)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def differ(a, b):
    return any((x != y).any() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# ---- expectations -------------------------------------------------------------------------------


@pytest.mark.parametrize("num_actions", COUNTS)
def test_the_soft_value_is_the_expectation(num_actions):
    policy_key, critic_key, action_key = jax.random.split(jax.random.key(0), 3)
    policy = CategoricalPolicy(OBSERVATION, num_actions, (), key=policy_key)
    policy = eqx.tree_at(lambda p: p.trunk.weights[0], policy, 3 * policy.trunk.weights[0])
    critic = DiscreteTwinCritic(OBSERVATION, num_actions, (4,), key=critic_key)
    seen, tau = jnp.array([0.5, -1.0, 2.0]), jnp.asarray(0.7)
    value, entropy = policy.soft_value(critic, seen, jnp.zeros(0), tau)
    q, chance = np.asarray(critic.action_values(seen), float), np.asarray(policy.probabilities(seen), float)
    surprise = np.array([-np.log(p) for p in chance])
    slow = sum(chance[a] * (min(q[0, a], q[1, a]) + 0.7 * surprise[a]) for a in range(num_actions))
    np.testing.assert_allclose(value, slow, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(entropy, chance @ surprise, rtol=1e-5, atol=1e-6)
    again = expected_soft_value(critic.action_values(seen), policy.log_probs(seen), tau)
    np.testing.assert_allclose(again, value, rtol=1e-5)
    assert num_actions > 1 or entropy == 0.0

    @jax.jit
    def draw(action):
        return sampled_soft_value(critic(seen, action), policy.log_prob(seen, action), tau)

    actions = act(policy, jnp.tile(seen, (4000, 1)), action_key)
    samples = np.asarray(jax.vmap(draw)(actions), float)
    error = samples.std() / np.sqrt(len(samples))
    assert abs(samples.mean() - slow) <= 4 * error + 1e-5


@pytest.mark.parametrize("num_actions", COUNTS)
def test_actions_and_their_probabilities_agree(num_actions):
    policy = CategoricalPolicy(OBSERVATION, num_actions, (8,), key=jax.random.key(1))
    policy = eqx.tree_at(lambda p: p.trunk.weights[-1], policy, 3 * policy.trunk.weights[-1])
    seen = jnp.array([0.5, -1.0, 2.0])
    chance = policy.probabilities(seen)
    np.testing.assert_allclose(chance.sum(), 1.0, rtol=1e-5)
    logs = [float(policy.log_prob(seen, jnp.int32(a))) for a in range(num_actions)]
    np.testing.assert_allclose(np.exp(logs), chance, rtol=1e-5)
    actions = act(policy, jnp.tile(seen, (4000, 1)), jax.random.key(2))
    assert actions.shape == (4000,) and actions.dtype == jnp.int32
    counts = np.bincount(actions, minlength=num_actions)
    assert len(counts) == num_actions
    expected = 4000 * np.asarray(chance, float) / np.sum(np.asarray(chance, float))
    assert num_actions == 1 or stats.chisquare(counts, expected).pvalue > 0.01
    greedy = act_greedily(policy, seen[None])
    assert greedy.dtype == jnp.int32 and greedy.tolist() == [int(np.argmax(chance))]
    # Logits far apart: no NaN, though π of one action is 0.
    sure = eqx.tree_at(lambda p: p.trunk.biases[-1], policy, 400.0 * jnp.arange(num_actions))
    critic = DiscreteTwinCritic(OBSERVATION, num_actions, (), key=jax.random.key(3))
    value, entropy = sure.soft_value(critic, seen, jnp.zeros(0), jnp.asarray(0.5))
    np.testing.assert_allclose(value, critic(seen, jnp.int32(num_actions - 1)).min(), rtol=1e-5)
    assert entropy == 0.0


# ---- one update by hand -------------------------------------------------------------------------


def linear(network):
    """Weight and bias of a network without hidden layers."""
    return [np.asarray(leaf[0], float) for leaf in (network.weights, network.biases)]


def moved(sac, value, gradient):
    """Adam's first step: m̂ = g, √v̂ = |g|."""
    return value - sac.learning_rate * gradient / (np.abs(gradient) + sac.adam_epsilon)


def by_hand(sac, state, batch, reward, target_entropy):
    """One update, transition by transition and action by action."""
    tau = float(jnp.exp(state.log_temperature))
    policy_w, policy_b = linear(state.policy.trunk)
    twins, targets = (
        [linear(c.first.head), linear(c.second.head)] for c in (state.critic, state.target_critic)
    )
    seen, then = (np.asarray(o, float) for o in (batch.observation, batch.next_observation))
    num_actions, size = len(policy_b), len(seen)

    def probabilities(s):
        logits = policy_w @ s + policy_b
        return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()

    def soft_q(critics, s, chance):
        smaller = np.min([w @ s + b for w, b in critics], axis=0)
        return np.array([smaller[a] - tau * np.log(chance[a]) for a in range(num_actions)])

    steps, critic_loss, q_mean = [[np.zeros_like(w), np.zeros_like(b)] for w, b in twins], 0.0, 0.0
    for i in range(size):
        chance = probabilities(then[i])
        value = 0.0 if batch.terminated[i] else chance @ soft_q(targets, then[i], chance)
        y, action = float(reward[i]) + sac.discount * value, int(batch.action[i])
        for (w, b), step in zip(twins, steps, strict=True):
            q = w[action] @ seen[i] + b[action]
            critic_loss += 0.5 * (q - y) ** 2 / size
            q_mean += q / (2 * size)
            step[0][action] += (q - y) * seen[i] / size
            step[1][action] += (q - y) / size
    twins = [
        [moved(sac, v, g) for v, g in zip(*pair, strict=True)] for pair in zip(twins, steps, strict=True)
    ]

    step, actor_loss, entropy = [np.zeros_like(policy_w), np.zeros_like(policy_b)], 0.0, 0.0
    for i in range(size):
        chance = probabilities(seen[i])
        q = soft_q(twins, seen[i], chance)
        value = chance @ q
        actor_loss -= value / size
        entropy -= chance @ np.log(chance) / size
        # ∂V/∂logit_a = π_a (q_a − V): the slopes of the entropy's own log π add up to 0.
        slope = np.array([-chance[a] * (q[a] - value) for a in range(num_actions)])
        step[0] += np.outer(slope, seen[i]) / size
        step[1] += slope / size
    return {
        "policy": [moved(sac, v, g) for v, g in zip((policy_w, policy_b), step, strict=True)],
        "critics": twins,
        "log_temperature": moved(sac, np.log(tau), entropy - target_entropy),
        "stats": [critic_loss, actor_loss, entropy, q_mean, tau],
    }


@pytest.mark.parametrize("num_actions", COUNTS)
@pytest.mark.parametrize("target_entropy", [None, 0.3])
def test_one_update_by_hand(num_actions, target_entropy):
    # With so large an ε Adam's first step shows how large each slope is, not its sign alone.
    sac = SAC(hidden=(), discount=0.9, learning_rate=0.5, adam_epsilon=0.5, target_entropy=target_entropy)
    state = eqx.tree_at(lambda s: s.log_temperature, fresh(sac, num_actions), jnp.log(jnp.asarray(0.6)))
    batch, reward, noise = batch_of(num_actions)
    new, seen = update_once(sac, state, batch, reward, noise)
    wanted = 0.89 * np.log(num_actions) if target_entropy is None else target_entropy
    expected = by_hand(sac, state, batch, reward, wanted)
    tight = {"rtol": 1e-4, "atol": 2e-5}
    for found, by in zip(linear(new.policy.trunk), expected["policy"], strict=True):
        np.testing.assert_allclose(found, by, **tight)
    for network, pair in zip((new.critic.first, new.critic.second), expected["critics"], strict=True):
        for found, by in zip(linear(network.head), pair, strict=True):
            np.testing.assert_allclose(found, by, **tight)
    np.testing.assert_allclose(new.log_temperature, expected["log_temperature"], **tight)
    found = [seen.critic_loss, seen.actor_loss, seen.entropy, seen.q_mean, seen.temperature]
    np.testing.assert_allclose(found, expected["stats"], **tight)
    if num_actions == 1:
        assert not differ(new.policy, state.policy) and seen.entropy == 0.0
        assert (new.log_temperature == state.log_temperature) == (target_entropy is None)


def test_only_what_was_done_is_learned():
    """The values of actions that no transition of the batch took stay."""
    sac = SAC(hidden=(), learning_rate=0.1)
    state = fresh(sac, 4)
    batch, reward, noise = batch_of(4)
    batch = eqx.tree_at(lambda b: b.action, batch, jnp.full(BATCH, 2, jnp.int32))
    new, _ = update_once(sac, state, batch, reward, noise)
    for before, after in ((state.critic.first, new.critic.first), (state.critic.second, new.critic.second)):
        changed = (before.head.weights[0] != after.head.weights[0]).all(axis=1)
        assert changed.tolist() == [False, False, True, False]


# ---- targets, learning rate, temperature --------------------------------------------------------


def run(sac, state, count, num_actions=3):
    states = [state]
    for index in range(count):
        states.append(update_once(sac, states[-1], *batch_of(num_actions, seed=index))[0])
    return states


def test_targets_are_copied_every_so_many_updates():
    sac = SAC(hidden=(4,), learning_rate=1e-2, target_every=3)
    states = run(sac, fresh(sac, 3), 7)
    copied = [0, 0, 0, 3, 3, 3, 6, 6]
    for index, source in enumerate(copied):
        wanted = states[0].target_critic if source == 0 else states[source].critic
        assert_equal(states[index].target_critic, wanted)
        assert int(states[index].updates) == index
    assert all(differ(old.critic, new.critic) for old, new in zip(states[:-1], states[1:], strict=True))
    # The same in one call.
    batches = [batch_of(3, seed=index) for index in range(7)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(b[0] for b in batches))
    rewards = jnp.stack([b[1] for b in batches])
    stacked = eqx.tree_at(lambda b: b.true_reward, stacked, rewards, is_leaf=lambda leaf: leaf is None)
    found, _ = eqx.filter_jit(sac.update_on_batches)(
        states[0], stacked, lambda t: t.true_reward, jax.random.key(0)
    )
    for actual, expected in ((found.target_critic, states[6].critic), (found.critic, states[7].critic)):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), actual, expected)


def test_without_a_period_targets_move_by_polyak():
    sac = SAC(hidden=(4,), learning_rate=1e-2, polyak=0.1)
    old, new = run(sac, fresh(sac, 3), 1)
    expected = jax.tree.map(lambda before, critic: 0.9 * before + 0.1 * critic, old.target_critic, new.critic)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), new.target_critic, expected)


def test_the_learning_rate_falls_to_zero():
    rate = 1e-2
    sac = SAC(hidden=(4,), learning_rate=rate, decay_updates=4, target_entropy=1e6)
    states = run(sac, fresh(sac, 3), 6)
    # The temperature's slope is all but constant, so each step of Adam is the learning rate of then.
    steps = np.diff([float(s.log_temperature) for s in states])
    np.testing.assert_allclose(steps, rate * np.array([1, 0.75, 0.5, 0.25, 0, 0]), atol=1e-6)
    for old, new in zip(states[:-1], states[1:], strict=True):
        for name in ("policy", "critic"):
            assert differ(getattr(old, name), getattr(new, name)) == (int(old.updates) < 4)
    stays = run(replace(sac, decay_updates=None), states[0], 2)
    np.testing.assert_allclose(np.diff([float(s.log_temperature) for s in stays]), [rate, rate], atol=1e-6)
    assert_equal(stays[1].policy, states[1].policy)


def test_a_fixed_temperature_stays():
    sac = SAC(hidden=(4,), temperature=0.3)
    states = run(sac, fresh(sac, 3), 2)
    assert states[2].log_temperature == states[0].log_temperature
    np.testing.assert_allclose(states[2].temperature, 0.3, rtol=1e-6)


def test_bad_settings():
    for name, value in (
        ("target_every", 0),
        ("target_every", -1),
        ("decay_updates", 0),
        ("adam_epsilon", 0.0),
        ("adam_epsilon", float("nan")),
    ):
        with pytest.raises(InputError, match=name):
            SAC(**{name: value})


# ---- small worlds -------------------------------------------------------------------------------

STEPS = 512
LEARNER = SAC(hidden=(32,), discount=0.5, learning_rate=5e-3, batch_size=64, polyak=0.05, temperature=0.2)


def replay_of(observation, action, next_observation, terminated, reward):
    here, there, paid = (
        jnp.asarray(np.broadcast_to(v, STEPS), jnp.float32) for v in (observation, next_observation, reward)
    )
    over = jnp.asarray(np.broadcast_to(terminated, STEPS), bool)
    transitions = Transition(here[:, None], jnp.asarray(action, jnp.int32), there[:, None], over, paid)
    return add(empty_replay(STEPS, 1, 1, discrete=True, with_true_reward=True), transitions)


def paid_at_once(rng):
    """One step, three actions, paid 0, 0.2, 0.4."""
    action = rng.integers(3, size=STEPS)
    return replay_of(0.0, action, 0.0, True, 0.2 * action)


def paid_later(rng):
    """At 0 the first action ends all for 0.3; the second leads to 1, paid 1, the third to −1, paid 0."""
    place, action = rng.integers(-1, 2, size=STEPS), rng.integers(3, size=STEPS)
    over = (place != 0) | (action == 0)
    reward = np.where(place == 0, 0.3 * (action == 0), place == 1)
    return replay_of(place, action, np.where(action == 1, 1.0, -1.0), over, reward)


@cache
def learned(world):
    replay = world(np.random.default_rng(0))

    @jax.jit
    def learn(replay, key):
        state = LEARNER.init(1, 3, discrete=True, key=key)
        return LEARNER.update(state, replay, lambda t: t.true_reward, 600, key)[0]

    return learn(replay, jax.random.key(0))


def test_the_answer_to_a_bandit_is_a_softmax():
    rewards = np.array([0.0, 0.2, 0.4])
    expected = np.exp(rewards / LEARNER.temperature)
    chance = learned(paid_at_once).policy.probabilities(jnp.zeros(1))
    np.testing.assert_allclose(chance, expected / expected.sum(), atol=0.02)


def test_only_the_discounted_future_tells():
    state, tau = learned(paid_later), LEARNER.temperature
    # On the second step all actions are worth the same, so its value is what it pays and τ log 3.
    later = 0.5 * (np.array([1.0, 0.0]) + tau * np.log(3))
    q = np.array([0.3, *later])
    values = state.critic.action_values(jnp.zeros(1))
    np.testing.assert_allclose(values, np.broadcast_to(q, (2, 3)), atol=0.05)
    expected = np.exp(q / tau) / np.exp(q / tau).sum()
    np.testing.assert_allclose(state.policy.probabilities(jnp.zeros(1)), expected, atol=0.05)
    for place in (-1.0, 1.0):
        np.testing.assert_allclose(state.policy.probabilities(jnp.array([place])), 1 / 3, atol=0.06)


# ---- pictures -----------------------------------------------------------------------------------

SPEC = ImageSpec(36, 36, 1)


def pictures(rng, bright):
    """Noise, dark or bright."""
    level = np.where(bright, 180, 40)[:, None, None, None]
    return jnp.asarray(level + rng.integers(60, size=(len(bright), *SPEC.shape)), jnp.uint8)


@pytest.mark.parametrize("discrete", [True, False])
def test_learns_from_pictures(discrete):
    """One step; whether the picture is bright tells which action pays."""
    rng, size = np.random.default_rng(0), 128
    bright = rng.random(size) < 0.5
    if discrete:
        action = jnp.asarray(rng.integers(2, size=size), jnp.int32)
        reward = np.asarray(action) == bright
    else:
        action = jnp.asarray(rng.uniform(-1, 1, (size, 1)), jnp.float32)
        reward = -((np.asarray(action)[:, 0] - np.where(bright, 0.5, -0.5)) ** 2)
    transitions = Transition(
        pictures(rng, bright), action, pictures(rng, bright), jnp.ones(size, bool), jnp.asarray(reward, float)
    )
    replay = Replay(transitions, jnp.zeros((), jnp.int32), jnp.asarray(size, jnp.int32))
    assert sample(replay, jax.random.key(0), (2,)).observation.dtype == jnp.uint8
    sac = SAC(hidden=(64, 64), learning_rate=2e-3, batch_size=32, temperature=0.2 if discrete else 0.05)
    unseen = pictures(np.random.default_rng(1), np.array([False, True, True, False]))

    @jax.jit
    def learn(replay, key):
        state = sac.init(SPEC, 2 if discrete else 1, discrete=discrete, key=key)
        state, _ = sac.update(state, replay, lambda t: t.true_reward, 300, key)
        chance = jax.vmap(state.policy.probabilities)(unseen) if discrete else jnp.zeros((4, 2))
        return act_greedily(state.policy, unseen), chance[:, 1]

    greedy, chance = learn(replay, jax.random.key(1))
    if discrete:
        assert greedy.tolist() == [0, 1, 1, 0]
        # The softmax of 1 and 0, each over the temperature.
        np.testing.assert_allclose(np.where(greedy == 1, chance, 1 - chance), 1 / (1 + np.exp(-5)), atol=0.05)
    else:
        np.testing.assert_allclose(greedy[:, 0], [-0.5, 0.5, 0.5, -0.5], atol=0.2)
