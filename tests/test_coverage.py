"""The distance to the true reward on simulators whose rewards are known in closed form."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith._core import InputError, TrueReward, TrueRewardReader
from rewardsmith.agents import CategoricalPolicy, TanhGaussianPolicy
from rewardsmith.envs import GymnasiumEnv
from rewardsmith.rewards import LearnedReward, RewardEnsemble, starc_estimate
from rewardsmith.runs.audit import coverage as room
from rewardsmith.runs.audit.coverage import advantages, cover, distance_to_true
from rewardsmith.runs.config import TrainConfig

pytestmark = pytest.mark.usefixtures("compile_quickly")

PENDULUM = TrainConfig(env="Pendulum-v1", discount=0.9)


class Given(LearnedReward):
    """A reward by a formula."""

    formula: Any = eqx.field(static=True)
    networks: Any = None
    visible: Any = None

    def __call__(self, observation, action):
        return jnp.asarray(self.formula(observation, action), jnp.float32)

    def normalise(self, observation, action, least_deviation=1e-3):
        return self


def paid(observation, action):
    """What Pendulum pays: gymnasium.envs.classic_control.pendulum."""
    angle = jnp.arctan2(observation[1], observation[0])
    return -(angle**2 + 0.1 * observation[2] ** 2 + 0.001 * (2.0 * action[0]) ** 2)


def moved(observation, action):
    """The angle's cosine and sine and the speed after a step of Pendulum."""
    speed = observation[2] + 0.05 * (15.0 * observation[1] + 3.0 * 2.0 * action[0])
    speed = jnp.clip(speed, -8.0, 8.0)
    angle = jnp.arctan2(observation[1], observation[0]) + 0.05 * speed
    return jnp.stack([jnp.cos(angle), jnp.sin(angle), speed])


def potential(observation):
    return 3.0 * observation[0] - 2.0 * observation[1] + 0.1 * observation[2] ** 2


def shaped(observation, action):
    after = moved(observation, action)
    return 0.1 * paid(observation, action) + 0.9 * potential(after) - potential(observation)


def pendulum_policy():
    return TanhGaussianPolicy(3, 1, (8,), key=jax.random.key(0))


@pytest.fixture(scope="module", autouse=True)
def few_episodes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_EPISODES", 20)
        yield


@pytest.fixture(scope="module")
def pendulum(few_episodes):
    return cover(PENDULUM, pendulum_policy(), states=80, repeats=2, seed=0)


def test_the_true_reward_is_at_distance_0_and_its_opposite_at_2(pendulum):
    assert distance_to_true(pendulum, Given(paid)).high < 1e-3
    opposite = distance_to_true(pendulum, Given(lambda o, a: -3.0 * paid(o, a) + 1.0))
    assert opposite.low > 1.999
    assert opposite.num_samples == 80 and opposite.num_groups == 20


def test_shaping_moves_a_reward_by_no_more_than_is_cut_off(pendulum):
    found = distance_to_true(pendulum, Given(shaped))
    assert found.high < 0.3
    longer = cover(PENDULUM, pendulum_policy(), states=80, repeats=2, seed=0, horizon=80)
    assert distance_to_true(longer, Given(shaped)).high < 0.01
    # Step by step they are quite different.
    seen, taken = pendulum.observations.reshape(-1, 3), pendulum.actions.reshape(-1, 1)
    rho = np.corrcoef(jax.vmap(paid)(seen, taken), jax.vmap(shaped)(seen, taken))[0, 1]
    assert rho < 0.9


def test_a_reward_of_noise_is_at_a_right_angle(pendulum):
    def hashed(observation, action):
        return jnp.sin(1e3 * (jnp.sum(observation * jnp.asarray([3.1, 5.3, 7.7])) + 11.9 * action[0]))

    found = distance_to_true(pendulum, Given(hashed))
    assert found.low < np.sqrt(2.0) < found.high and found.trivial == (False, False)
    assert found.low > 1.0
    nothing = distance_to_true(pendulum, Given(lambda o, a: jnp.float32(0.3)))
    assert (nothing.value, nothing.low, nothing.high) == (1.0, 1.0, 1.0) and nothing.trivial == (False, True)


def test_what_a_coverage_holds(pendulum):
    assert pendulum.valid.shape == (80, 2, 2, 28) and pendulum.valid.all()
    assert (pendulum.horizon, pendulum.policy_share, pendulum.sampled) == (28, 0.5, False)
    assert isinstance(pendulum.true_advantages, TrueReward) and pendulum.on_policy.sum() == 40
    # All four roll-outs start in the state, and those of Q with the action.
    first = pendulum.observations[:, :, :, 0]
    assert (first == first[:, :1, :1]).all()
    assert (pendulum.actions[:, 0, 0, 0] == pendulum.actions[:, 1, 0, 0]).all()
    assert pendulum.steps >= 20 + 80 * 2 * 2 * 28
    # Where neither policy nor world leaves anything to chance, repeats are alike.
    assert (pendulum.observations[:, 0] == pendulum.observations[:, 1]).all()
    assert distance_to_true(pendulum, Given(paid)).noise == pytest.approx((0.0, 0.0))


def test_advantages_are_what_is_paid_more_than_by_the_policy():
    """γ = 0: A^π(s, a) = r(s, a) − r(s, a′), a′ of the policy."""
    config, policy = TrainConfig(env="Pendulum-v1", discount=0.0), pendulum_policy()
    found = cover(config, policy, states=30, repeats=3, seed=1, sampled=True)
    assert found.horizon == 1 and found.sampled
    rewards = jax.vmap(jax.vmap(jax.vmap(jax.vmap(paid))))(found.observations, found.actions)[..., 0]
    true = found.true_advantages.reveal(TrueRewardReader.EVALUATOR)
    np.testing.assert_allclose(rewards[:, :, 0] - rewards[:, :, 1], true, atol=1e-5)
    # The policy draws anew each time.
    own = found.actions[:, :, 1, 0, 0]
    assert (own[:, 0] != own[:, 1]).all() and (own[:, 1] != own[:, 2]).all()


def test_actions_are_half_the_policys():
    def of(share):
        # A policy that pushes fully to the right.
        policy = eqx.tree_at(
            lambda p: (p.trunk.weights[-1], p.trunk.biases[-1]),
            pendulum_policy(),
            (jnp.zeros((2, 8)), jnp.asarray([9.0, -5.0])),
        )
        found = cover(PENDULUM, policy, states=60, repeats=2, seed=0, horizon=2, policy_share=share)
        return np.mean(found.actions[:, 0, 0, 0] > 0.999), np.mean(found.on_policy)

    assert of(1.0) == (1.0, 1.0) and of(0.0)[0] < 0.05 and of(0.0)[1] == 0.0
    assert 0.3 < of(0.5)[0] < 0.7 and of(0.5)[1] == 0.5


def test_an_episode_that_ends_pays_nothing_more():
    """CartPole pays 1 until the pole falls: a learned reward of 1 is the true one, and knows of no end."""
    config = TrainConfig(env="CartPole-v1", discount=0.95)
    policy = CategoricalPolicy(4, 2, (8,), key=jax.random.key(3))
    told: list[tuple[int, int]] = []
    found = cover(config, policy, states=40, repeats=2, seed=0, done=lambda *now: told.append(now))
    assert told[-1] == (80, 80) and len(told) > 1
    assert not found.valid.all() and found.actions.dtype == np.int32
    true = found.true_advantages.reveal(TrueRewardReader.EVALUATOR)
    np.testing.assert_allclose(advantages(found, Given(lambda o, a: jnp.float32(1.0))), true, atol=1e-5)
    assert distance_to_true(found, Given(lambda o, a: jnp.float32(2.0))).high < 1e-6


def test_a_seed_is_a_coverage_and_blocks_do_not_matter(pendulum, monkeypatch):
    policy = pendulum_policy()
    again = cover(PENDULUM, policy, states=80, repeats=2, seed=0)
    np.testing.assert_array_equal(again.observations, pendulum.observations)
    other = cover(PENDULUM, policy, states=80, repeats=2, seed=1)
    assert (other.observations[:, 0, 0, 0] != pendulum.observations[:, 0, 0, 0]).any(axis=1).all()
    reward = RewardEnsemble(3, 1, (8,), 2, key=jax.random.key(5))
    whole = advantages(pendulum, reward)
    monkeypatch.setattr(room, "_STEPS_AT_ONCE", 28 * 7)
    np.testing.assert_allclose(advantages(pendulum, reward), whole, atol=1e-4)
    found = distance_to_true(pendulum, reward)
    true = pendulum.true_advantages.reveal(TrueRewardReader.EVALUATOR)
    assert found.value == pytest.approx(starc_estimate(true, whole).value, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"states": 1}, "states is 1: give a whole number of at least 2"),
        ({"repeats": 1}, "repeats is 1"),
        ({"horizon": 0}, "horizon is 0"),
        ({"horizon": 201}, "episodes of Pendulum-v1 last 200"),
        ({"policy_share": 1.5}, "policy_share is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"states": 10**6}, "over 1 GiB: give at most"),
    ],
)
def test_what_cannot_be_covered(options, says):
    with pytest.raises(InputError, match=says):
        cover(PENDULUM, pendulum_policy(), **({"states": 4, "repeats": 2, "seed": 0} | options))


def test_a_world_that_cannot_be_restored(monkeypatch):
    def make_env(config, num_envs, judged):
        env = GymnasiumEnv(config.env, num_envs)
        env.restorable = False
        return env

    monkeypatch.setattr(room, "make_env", make_env)
    with pytest.raises(InputError, match=r"cannot be restored to a state: compare returns"):
        cover(PENDULUM, pendulum_policy(), states=4, repeats=2, seed=0)
