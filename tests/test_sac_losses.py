"""Soft actor-critic: losses by hand, densities against integrals, one update in detail."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from rewardsmith._core import InputError
from rewardsmith.agents import (
    SAC,
    TanhGaussianPolicy,
    Transition,
    TwinCritic,
    act,
    act_greedily,
    add,
    empty_replay,
    sample,
)
from rewardsmith.agents.losses import (
    actor_loss,
    critic_loss,
    expected_soft_value,
    sampled_soft_value,
    soft_target,
    temperature_loss,
)
from rewardsmith.agents.networks import tanh_gaussian_log_prob

OBSERVATION, ACTION = 3, 2


def scalar(value):
    return jnp.asarray(value, jnp.float32)


# ---- losses -------------------------------------------------------------------------------------


def test_soft_target():
    # y = 1.5 + 0.9 (min(4, 3) − 0.5·(−2)) = 1.5 + 0.9·4 = 5.1; nothing follows a terminated step: 1.5.
    value = sampled_soft_value(jnp.array([4.0, 3.0]), scalar(-2.0), scalar(0.5))
    np.testing.assert_allclose(soft_target(scalar(1.5), jnp.asarray(False), value, 0.9), 5.1, rtol=1e-6)
    np.testing.assert_allclose(soft_target(scalar(1.5), jnp.asarray(True), value, 0.9), 1.5, rtol=1e-6)


def test_the_smaller_critic_counts_whichever_it_is():
    for q in ([4.0, 3.0], [3.0, 4.0]):
        np.testing.assert_allclose(sampled_soft_value(jnp.array(q), scalar(0.0), scalar(1.0)), 3.0)


def test_the_expected_soft_value_is_the_mean_of_the_sampled_one():
    q = jnp.array([[1.0, 4.0, 0.5], [2.0, 3.0, 0.0]])
    probabilities = np.array([0.2, 0.5, 0.3], np.float32)
    log_probs, temperature = jnp.log(probabilities), scalar(0.7)
    sampled = [float(sampled_soft_value(q[:, a], log_probs[a], temperature)) for a in range(3)]
    np.testing.assert_allclose(
        expected_soft_value(q, log_probs, temperature), probabilities @ sampled, rtol=1e-6
    )


def test_critic_loss():
    # ½((1 − 2)² + (5 − 2)²) = 5, with slopes 1 − 2 and 5 − 2.
    q, y = jnp.array([1.0, 5.0]), scalar(2.0)
    np.testing.assert_allclose(critic_loss(q, y), 5.0)
    np.testing.assert_allclose(jax.grad(critic_loss)(q, y), [-1.0, 3.0])


def test_actor_loss():
    # 0.2·(−1.5) − min(0.7, 0.4) = −0.7.
    value = sampled_soft_value(jnp.array([0.7, 0.4]), scalar(-1.5), scalar(0.2))
    np.testing.assert_allclose(actor_loss(value), -0.7, rtol=1e-6)


def test_temperature_loss():
    # log 2 · (1.5 + 2) = 3.5 log 2; in log τ the slope is 3.5.
    log_tau = jnp.log(scalar(2.0))
    np.testing.assert_allclose(temperature_loss(log_tau, scalar(1.5), -2.0), 3.5 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(temperature_loss)(log_tau, scalar(1.5), -2.0), 3.5, rtol=1e-6)
    # Entropy 1 nat below the target: descending must raise τ. 1 nat above: lower it.
    assert jax.grad(temperature_loss)(log_tau, scalar(-2.0), -1.0) < 0
    assert jax.grad(temperature_loss)(log_tau, scalar(0.0), -1.0) > 0


# ---- the policy's density -----------------------------------------------------------------------


def log_density(action, mean, log_std):
    """log π(a), through our function, from a in (−1, 1)."""
    u = np.arctanh(action)
    noise = (u - mean) / np.exp(log_std)
    as_array = partial(jnp.asarray, dtype=jnp.float32)
    return jax.vmap(tanh_gaussian_log_prob)(*(as_array(v)[:, None] for v in (u, noise, log_std + 0 * u)))


@pytest.mark.parametrize("mean, log_std", [(0.0, 0.0), (0.8, -1.0), (-0.3, 0.3)])
def test_density_integrates_to_one(mean, log_std):
    # Points dense towards ±1, where the density of a wide Gaussian piles up.
    action = np.tanh(np.linspace(-8, 8, 4001))
    density = np.exp(np.asarray(log_density(action, mean, log_std), float))
    np.testing.assert_allclose(integrate.trapezoid(density, action), 1.0, atol=2e-3)


def test_density_equals_scipy():
    # Change of variables: log π(a) = log N(u; μ, σ²) − log(1 − a²), u = artanh a.
    mean, log_std, action = 0.4, -0.7, np.array([-0.9, -0.2, 0.0, 0.5, 0.97])
    expected = stats.norm.logpdf(np.arctanh(action), mean, np.exp(log_std)) - np.log(1 - action**2)
    np.testing.assert_allclose(log_density(action, mean, log_std), expected, rtol=1e-4, atol=1e-5)


def test_density_is_finite_and_smooth_where_tanh_saturates():
    for u in (-30.0, 30.0):
        value, slope = jax.value_and_grad(lambda v: tanh_gaussian_log_prob(v, jnp.zeros(1), jnp.zeros(1)))(
            jnp.full(1, u)
        )
        # 1 − tanh²u = 4 e^{−2|u|} to rounding, so −log of it is 2|u| − log 4.
        np.testing.assert_allclose(value, 60.0 - np.log(4) - 0.5 * np.log(2 * np.pi), rtol=1e-5)
        np.testing.assert_allclose(slope, [2.0 * np.sign(u)], rtol=1e-5)


def test_policy_samples_follow_its_density():
    policy = TanhGaussianPolicy(OBSERVATION, 1, (8,), key=jax.random.key(0))
    observation = jnp.array([0.5, -1.0, 2.0])
    mean, log_std = (np.asarray(v, float)[0] for v in policy.moments(observation))
    actions = act(policy, jnp.tile(observation, (2000, 1)), jax.random.key(1))
    normal = stats.norm(mean, np.exp(log_std))
    assert stats.kstest(np.arctanh(np.asarray(actions, float)[:, 0]), normal.cdf).pvalue > 0.01
    mode = act_greedily(policy, observation[None])
    np.testing.assert_allclose(mode, [[np.tanh(mean)]], rtol=1e-5)
    action, log_prob = policy.sample_from_noise(observation, jnp.array([0.3]))
    np.testing.assert_allclose(action, [np.tanh(mean + 0.3 * np.exp(log_std))], rtol=1e-5)
    np.testing.assert_allclose(log_prob, log_density(np.asarray(action, float), mean, log_std)[0], rtol=1e-3)


# ---- one update ---------------------------------------------------------------------------------


def batch_of(size, seed=0, **changed):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    batch = Transition(
        normal(size, OBSERVATION),
        jnp.tanh(normal(size, ACTION)),
        normal(size, OBSERVATION),
        jnp.zeros(size, bool),
    )
    batch = eqx.tree_at(lambda b: [getattr(b, n) for n in changed], batch, list(changed.values()))
    return batch, normal(size), normal(size, 2, ACTION)


def leaves_differ(a, b):
    return any((x != y).any() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def agent():
    sac = SAC(hidden=(8,), batch_size=4, learning_rate=1e-2, polyak=0.1)
    state = sac.init(OBSERVATION, ACTION, key=jax.random.key(0))
    # Target networks of their own, so that mixing them up with the critics shows.
    return sac, eqx.tree_at(lambda s: s.target_critic, state, TwinCritic(3, 2, (8,), key=jax.random.key(9)))


update_once = eqx.filter_jit(lambda sac, *args: sac.update_on_batch(*args))


def by_hand(sac, state, batch, reward, noise):
    """The same update in the order of its docstring, one term at a time; gradients by the same autodiff."""
    tau = jnp.exp(state.log_temperature)

    def log_prob_of(policy, observation, noise):
        mean, log_std = jax.vmap(policy.moments)(observation)
        u = mean + jnp.exp(log_std) * noise
        gaussian = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
        return jnp.tanh(u), jnp.sum(gaussian - jnp.log(1 - jnp.tanh(u) ** 2), axis=1)

    next_action, next_log_prob = log_prob_of(state.policy, batch.next_observation, noise[:, 1])
    next_q = jax.vmap(state.target_critic)(batch.next_observation, next_action).min(axis=1)
    target = reward + sac.discount * (1 - batch.terminated) * (next_q - tau * next_log_prob)

    def critic_objective(critic):
        return 0.5 * jnp.mean(
            ((jax.vmap(critic)(batch.observation, batch.action) - target[:, None]) ** 2).sum(1)
        )

    def policy_objective(policy, critic):
        action, log_prob = log_prob_of(policy, batch.observation, noise[:, 0])
        return jnp.mean(tau * log_prob - jax.vmap(critic)(batch.observation, action).min(axis=1))

    def first_adam_step(value, gradient):
        # Adam's first step: m̂ = g, v̂ = g², so −lr·g/(|g| + 1e-8).
        return jax.tree.map(lambda v, g: v - sac.learning_rate * g / (jnp.abs(g) + 1e-8), value, gradient)

    critic = first_adam_step(state.critic, jax.grad(critic_objective)(state.critic))
    policy = first_adam_step(state.policy, jax.grad(policy_objective)(state.policy, critic))
    _, log_prob = log_prob_of(state.policy, batch.observation, noise[:, 0])
    slope = -jnp.mean(log_prob) - (-ACTION)
    log_tau = first_adam_step(state.log_temperature, slope)
    return (
        critic,
        policy,
        log_tau,
        critic_objective(state.critic),
        policy_objective(state.policy, critic),
        log_prob,
    )


def test_update_in_the_order_written(agent):
    sac, state = agent
    terminated = jnp.array([False, True, False, False])
    batch, reward, noise = batch_of(4, terminated=terminated)
    new, stats_seen = update_once(sac, state, batch, reward, noise)
    critic, policy, log_tau, critic_value, policy_value, log_prob = eqx.filter_jit(by_hand)(
        sac, state, batch, reward, noise
    )
    for actual, expected in ((new.critic, critic), (new.policy, policy)):
        # Adam's first step is ±lr wherever the slope is not all but zero: compare to a small part of lr.
        jax.tree.map(partial(np.testing.assert_allclose, atol=2e-4), actual, expected)
    np.testing.assert_allclose(new.log_temperature, log_tau, atol=1e-6)
    np.testing.assert_allclose(stats_seen.critic_loss, critic_value, rtol=1e-4)
    # The policy answers to the critics of after their step, at the temperature of before its own.
    np.testing.assert_allclose(stats_seen.actor_loss, policy_value, rtol=1e-4)
    np.testing.assert_allclose(stats_seen.entropy, -log_prob.mean(), rtol=1e-4)
    np.testing.assert_allclose(stats_seen.temperature, 1.0)


def test_targets_move_by_polyak(agent):
    sac, state = agent
    new, _ = update_once(sac, state, *batch_of(4))
    assert leaves_differ(new.critic, state.critic)
    jax.tree.map(
        lambda target, old, critic: np.testing.assert_allclose(
            target, 0.9 * old + 0.1 * critic, rtol=1e-5, atol=1e-7
        ),
        new.target_critic,
        state.target_critic,
        new.critic,
    )


def test_only_termination_stops_the_bootstrap(agent):
    sac, state = agent
    loss = {}
    for ended in (False, True):
        for scale in (1.0, 3.0):
            batch, reward, noise = batch_of(4, terminated=jnp.full(4, ended))
            moved = eqx.tree_at(lambda b: b.next_observation, batch, scale * batch.next_observation)
            loss[ended, scale] = float(update_once(sac, state, moved, reward, noise)[1].critic_loss)
    assert loss[True, 1.0] == loss[True, 3.0]
    assert loss[False, 1.0] != loss[False, 3.0]


def test_fixed_temperature_stays(agent):
    sac = SAC(hidden=(8,), batch_size=4, temperature=0.3)
    state = sac.init(OBSERVATION, ACTION, key=jax.random.key(0))
    new, _ = update_once(sac, state, *batch_of(4))
    assert new.log_temperature == state.log_temperature
    np.testing.assert_allclose(new.temperature, 0.3, rtol=1e-6)


# ---- replay -------------------------------------------------------------------------------------


def test_replay_is_a_ring():
    rng, replay = np.random.default_rng(0), empty_replay(7, OBSERVATION, ACTION)
    store, reference = jax.jit(add), []
    for count in (3, 3, 3, 7, 1, 3):
        batch = batch_of(count, seed=rng.integers(100), terminated=jnp.asarray(rng.random(count) < 0.5))[0]
        replay = store(replay, batch)
        reference = (
            reference + [jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), batch) for i in range(count)]
        )[-7:]
        assert int(replay.size) == len(reference)
        oldest = (int(replay.position) - len(reference)) % replay.capacity
        for age, row in enumerate(reference):
            stored = jax.tree.map(lambda leaf, slot=(oldest + age) % 7: leaf[slot], replay.data)
            jax.tree.map(np.testing.assert_array_equal, stored, row)


def test_sampling_never_reads_an_empty_slot_and_is_uniform():
    replay = add(
        empty_replay(100, 1, 1), Transition(*(jnp.arange(1.0, 6.0)[:, None],) * 3, jnp.zeros(5, bool))
    )
    drawn = sample(replay, jax.random.key(0), (50, 40))
    assert drawn.observation.shape == (50, 40, 1) and drawn.true_reward is None
    counts = np.bincount(np.asarray(drawn.observation, int).ravel(), minlength=6)
    assert counts[0] == 0 and stats.chisquare(counts[1:]).pvalue > 0.01


def test_a_learner_of_rewards_has_no_column_for_the_true_one():
    assert empty_replay(4, 1, 1).data.true_reward is None
    assert empty_replay(4, 1, 1, with_true_reward=True).data.true_reward.shape == (4,)
    with pytest.raises(ValueError):
        add(empty_replay(4, 1, 1), Transition(*(jnp.ones((1, 1)),) * 3, jnp.zeros(1, bool), jnp.ones(1)))


# ---- the reward is handed in --------------------------------------------------------------------


class ScaledReward(eqx.Module):
    scale: jax.Array

    def __call__(self, transition):
        return self.scale * jnp.sum(transition.observation)


def test_update_uses_the_reward_of_now_and_compiles_once(agent):
    sac, state = agent
    replay = add(empty_replay(32, OBSERVATION, ACTION), batch_of(32)[0])
    traces = []

    @jax.jit
    def update(state, replay, reward, key):
        traces.append(0)
        return sac.update(state, replay, reward, 3, key)

    zero, again, large = (
        update(state, replay, ScaledReward(scalar(scale)), jax.random.key(1)) for scale in (0.0, 0.0, 10.0)
    )
    assert len(traces) == 1
    assert not leaves_differ(zero, again)
    assert large[1].critic_loss > 10 * zero[1].critic_loss
    assert leaves_differ(zero[0].critic, large[0].critic)

    # The same batches and noise, one update at a time: nothing else goes on inside.
    batch_key, noise_key = jax.random.split(jax.random.key(1))
    batches, noise = sample(replay, batch_key, (3, 4)), jax.random.normal(noise_key, (3, 4, 2, ACTION))
    one = state
    for index in range(3):
        batch = jax.tree.map(lambda leaf, i=index: leaf[i], batches)
        one, _ = update_once(sac, one, batch, 10.0 * batch.observation.sum(axis=1), noise[index])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), one.critic, large[0].critic)


def test_bad_settings():
    for name, value in (
        ("discount", 1.0),
        ("discount", -0.1),
        ("temperature", 0.0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("polyak", 0.0),
        ("polyak", 1.5),
    ):
        with pytest.raises(InputError, match=name):
            SAC(**{name: value})
