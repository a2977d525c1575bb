"""Environments that pay a learned reward: which observation belongs to which action, what others expect."""

import copy
import functools
import re
import warnings

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import Autoreset, FlattenObservation, RescaleAction
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from rewardsmith._core import ImageSpec, InputError, Layer
from rewardsmith.agents import CategoricalPolicy
from rewardsmith.envs import LearnedRewardVectorWrapper, LearnedRewardWrapper, make, make_single
from rewardsmith.exported import ExportedReward, Spaces
from rewardsmith.rewards import RewardEnsemble
from rewardsmith.runs.train import train
from tests.small_runs import measured, settings

pytestmark = pytest.mark.usefixtures("compile_quickly")
MODES = list(AutoresetMode)
IMAGE = ImageSpec(8, 8, 1, 1)


class Counter(gymnasium.Env):
    """Observes (episode, step), always in the same array, and pays 100; episodes of two to six steps."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    metadata = {"render_modes": []}

    def __init__(self, first=0):
        self.seen, self.first = np.zeros(2), first

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen[:] = self.seen[0] + 1, 0
        return self.seen, {}

    def step(self, action):
        self.seen[1] += 1
        at_end = self.seen[1] >= 2 + self.first + self.seen[0] % 3
        action *= 0
        return self.seen, 100.0, bool(at_end and self.first == 0), bool(at_end and self.first), {"step": 1}


class Signs(gymnasium.Env):
    """Pictures, and actions that are counted from 5."""

    observation_space = gymnasium.spaces.Box(0, 255, IMAGE.shape, np.uint8)
    action_space = gymnasium.spaces.Discrete(3, start=5)
    metadata = {"render_modes": []}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._show(), {}

    def step(self, action):
        assert action in self.action_space
        return self._show(), 100.0, bool(self.np_random.random() < 0.2), False, {}

    def _show(self):
        return self.np_random.integers(256, size=IMAGE.shape, dtype=np.uint8)


def told(observations, actions):
    """What belongs together, as one number: episode, step, action."""
    return 100 * observations[:, 0] + 10 * observations[:, 1] + actions[:, 0]


def picture_reward(of=None):
    of = Spaces("Signs", IMAGE, None, None, 3) if of is None else of
    sizes, layers = (of.observation, of.action_size, (4,), 2), (Layer(2, 3, 2),)
    learned = RewardEnsemble(*sizes, discrete=of.discrete, layers=layers, key=jax.random.key(0))
    return ExportedReward(learned, of, {})


def test_a_step_is_paid_for_what_was_seen_before_it():
    env = LearnedRewardWrapper(Counter(), told)
    env.reset(seed=0)
    paid = []
    for action in (1.0, 2.0, -1.0):
        _, reward, terminated, truncated, info = env.step(np.float32([action]))
        paid.append(reward)
        assert type(reward) is float and info == {"step": 1}
    assert paid == [101.0, 112.0, 119.0] and terminated and not truncated
    env.reset()
    assert env.step(np.float32([0.5]))[1] == 200.5


def test_the_true_reward_is_kept_only_if_asked_for():
    env = LearnedRewardWrapper(Counter(), told, keep_true="true_reward")
    env.reset()
    assert env.step(np.float32([0]))[4] == {"step": 1, "true_reward": 100.0}
    taken = LearnedRewardWrapper(Counter(), told, keep_true="step")
    taken.reset()
    with pytest.raises(InputError, match="'step' already"):
        taken.step(np.float32([0]))


def played(envs, steps, seed=0):
    """Observations before, actions, rewards, ends and infos of a vector that is reset as its mode wants."""
    rng, found = np.random.default_rng(seed), []
    observations, _ = envs.reset(seed=seed)
    for _ in range(steps):
        actions = rng.uniform(-2, 2, (envs.num_envs, 1)).astype(np.float32)
        given = observations.copy(), actions.copy()
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        ended = terminated | truncated
        found.append((*given, rewards, ended, infos))
        if envs.unwrapped.autoreset_mode == AutoresetMode.DISABLED and ended.any():
            observations, _ = envs.reset(options={"reset_mask": ended})
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("copy", [True, False])
def test_a_vector_pays_what_single_environments_pay(mode, copy):
    makers = [functools.partial(Counter, first) for first in range(3)]
    envs = LearnedRewardVectorWrapper(
        SyncVectorEnv(makers, copy=copy, autoreset_mode=mode), told, keep_true="true_reward"
    )
    singles = [LearnedRewardWrapper(maker(), told) for maker in makers]
    for single in singles:
        single.reset()
    ended, restarts = np.zeros(3, bool), 0
    for observations, actions, rewards, ends, infos in played(envs, 40):
        for i, single in enumerate(singles):
            if mode == AutoresetMode.NEXT_STEP and ended[i]:
                restarts += 1
                assert rewards[i] == 0 and not infos["_true_reward"][i] and infos["true_reward"][i] == 0
                single.reset()
                continue
            expected = told(observations[i : i + 1], actions[i : i + 1])[0]
            _, reward, terminated, truncated, _ = single.step(actions[i].copy())
            assert rewards[i] == pytest.approx(expected) == pytest.approx(reward)
            assert ends[i] == (terminated or truncated)
            assert infos["_true_reward"][i] and infos["true_reward"][i] == 100
            if ends[i] and mode != AutoresetMode.NEXT_STEP:
                single.reset()
        ended = ends
    assert (restarts > 10) == (mode == AutoresetMode.NEXT_STEP)


def test_a_reset_amid_an_episode_restarts_no_step():
    envs = LearnedRewardVectorWrapper(SyncVectorEnv([Counter, Counter]), told)
    envs.reset()
    zero = np.zeros((2, 1), np.float32)
    while not envs.step(zero.copy())[2].any():
        pass
    envs.reset()
    assert np.all(envs.step(zero.copy())[1] > 0)


def test_the_mode_of_other_vectors_of_the_class_does_not_count():
    envs = SyncVectorEnv([Counter], autoreset_mode=AutoresetMode.NEXT_STEP)
    SyncVectorEnv([Counter], autoreset_mode=AutoresetMode.SAME_STEP)
    paid = [reward[0] for *_, reward, _, _ in played(LearnedRewardVectorWrapper(envs, told), 12)]
    assert paid.count(0.0) == 3


def test_a_vector_that_does_not_say_how_it_restarts_is_refused():
    class Silent(SyncVectorEnv):
        metadata = {}

    envs = Silent([Counter])
    envs.autoreset_mode, envs.metadata = None, {}  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match="autoreset_mode"):
        LearnedRewardVectorWrapper(envs, told)


def test_a_step_in_which_a_single_environment_restarts_pays_nothing():
    env = LearnedRewardWrapper(Autoreset(Counter()), told, keep_true="true_reward")
    env.reset()
    paid = [env.step(np.float32([1.0])) for _ in range(5)]
    assert [step[1] for step in paid] == [101.0, 111.0, 121.0, 0.0, 201.0]
    assert ["true_reward" in step[4] for step in paid] == [True, True, True, False, True]


def test_pictures_and_actions_that_do_not_count_from_0():
    reward = picture_reward()
    rng = np.random.default_rng(0)
    envs = LearnedRewardVectorWrapper(SyncVectorEnv([Signs, Signs]), reward)
    seen, _ = envs.reset(seed=3)
    single = LearnedRewardWrapper(Signs(), reward)
    alone, _ = single.reset(seed=3)
    ended = np.zeros(2, bool)
    for _ in range(12):
        actions = rng.integers(5, 8, 2)
        expected = np.where(ended, 0.0, reward(seen, actions - 5))
        if ended[0]:
            alone, _ = single.reset()
        else:
            np.testing.assert_array_equal(alone, seen[0])
            alone, paid, *_ = single.step(actions[0])
            assert paid == pytest.approx(expected[0], abs=1e-5)
        seen, rewards, terminated, truncated, _ = envs.step(actions)
        np.testing.assert_allclose(rewards, expected, atol=1e-5)
        ended = terminated | truncated
    assert single.spec is None and copy.deepcopy(reward).spaces.num_actions == 3


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.filterwarnings(
    "ignore:.*different from the unwrapped", "ignore:.*we recommend using a symmetric"
)
@pytest.mark.filterwarnings("ignore:.*space (minimum|maximum) value is")
def test_gymnasium_finds_nothing_wrong(env_id):
    env = gymnasium.make(env_id)
    discrete = isinstance(env.action_space, gymnasium.spaces.Discrete)
    size = env.observation_space.shape[0]
    reward = picture_reward(
        Spaces(env_id, size, None, None, 2)
        if discrete
        else Spaces(env_id, size, env.action_space.low, env.action_space.high, None)
    )
    wrapped = LearnedRewardWrapper(env, reward)
    check_env(wrapped, skip_render_check=True)
    again = wrapped.spec.make()
    assert isinstance(again, LearnedRewardWrapper) and again._reward.spaces.env_id == env_id
    # Wrappers of others on top, which copy the specification.
    assert FlattenObservation(wrapped).spec is not None
    envs = RecordEpisodeStatistics(
        LearnedRewardVectorWrapper(gymnasium.make_vec(env_id, 2, vectorization_mode="sync"), reward)
    )
    envs.reset(seed=0)
    assert envs.step(envs.action_space.sample())[1].shape == (2,)


PENDULUM = Spaces("Pendulum-v1", 3, np.float32([-2]), np.float32([2]), None)
RESCALED = RescaleAction(gymnasium.make("Pendulum-v1"), np.float32(-1), np.float32(1))


@pytest.mark.parametrize(
    ("make_env", "told"),
    [
        (lambda: RESCALED, "wrappers that rescale actions above"),
        (lambda: gymnasium.make("MountainCarContinuous-v0"), "observations have shape"),
        (lambda: gymnasium.make("Acrobot-v1"), "observations have shape"),
        (lambda: gymnasium.make("Blackjack-v1"), "Tuple"),
        (lambda: gymnasium.wrappers.DiscretizeAction(gymnasium.make("Pendulum-v1"), 3), "Discrete"),
    ],
)
def test_an_environment_that_the_reward_was_not_learned_on_is_refused(make_env, told):
    with pytest.raises(InputError, match=told) as refused:
        LearnedRewardWrapper(make_env(), picture_reward(PENDULUM))
    assert "\n" not in str(refused.value)


def test_rewards_that_are_none_are_refused():
    for reward, what in (
        (lambda o, a: o, "one number for each"),
        (lambda o, a: np.asarray([np.nan]), "not finite"),
    ):
        env = LearnedRewardWrapper(Counter(), reward)
        with pytest.raises(InputError, match="call reset"):
            env.step(np.float32([0]))
        env.reset()
        with pytest.raises(InputError, match=what):
            env.step(np.float32([0]))
    envs = LearnedRewardVectorWrapper(SyncVectorEnv([Counter]), told)
    with pytest.raises(InputError, match=re.escape("call reset()")):
        envs.step(np.zeros((1, 1), np.float32))


# ---- learners -----------------------------------------------------------------------------------


def test_our_own_sac_learns_from_it(tmp_path):
    def standing(observations, actions):
        return observations[:, 0] - 0.001 * actions[:, 0] ** 2

    gymnasium.register(
        "Standing-v0",
        lambda **options: LearnedRewardWrapper(gymnasium.make("Pendulum-v1", **options), standing),
        max_episode_steps=200,
    )
    try:
        run = train(settings(env="Standing-v0", method="sac", temperature=0.1, steps=320), tmp_path / "run")
    finally:
        gymnasium.registry.pop("Standing-v0")
    returns = measured(run)["true_return"].drop_nulls()
    # Not Pendulum's own reward, whose episodes are worth -16 a step at the worst and never above 0.
    assert len(returns) == 2 and returns.min() > -201 and returns.max() < 200


def test_a_loop_over_a_vector_learns_what_is_paid():
    """REINFORCE in a dozen lines: it presses what the learned reward pays, not what the true one does."""
    envs = LearnedRewardVectorWrapper(
        gymnasium.make_vec("CartPole-v1", 8, vectorization_mode="sync"),
        lambda observations, actions: actions.astype(np.float32),
    )
    policy = CategoricalPolicy(4, 2, (8,), key=jax.random.key(0))
    act = jax.jit(jax.vmap(policy.log_probs))
    logits, rng = np.zeros(2), np.random.default_rng(0)
    observations, _ = envs.reset(seed=0)
    for _ in range(60):
        log_probs = np.asarray(act(observations.astype(np.float32))) + logits
        p = np.exp(log_probs) / np.exp(log_probs).sum(1, keepdims=True)
        actions = (rng.random(8) < p[:, 1]).astype(np.int64)
        observations, rewards, *_ = envs.step(actions)
        logits += 0.5 * np.mean((np.eye(2)[actions] - p) * (rewards - rewards.mean())[:, None], axis=0)
    assert logits[1] - logits[0] > 0.5


def test_environments_of_this_house_can_be_wrapped():
    env = LearnedRewardWrapper(make_single("Pendulum-v1"), told)
    seen, _ = env.reset(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paid = env.step(np.float32([1.5]))[1]
    assert paid == pytest.approx(told(seen[None], np.float32([[1.5]]))[0])
    assert make("Pendulum-v1", 1).spec.observation_shape == (3,)
