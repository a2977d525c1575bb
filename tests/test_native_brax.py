"""brax's and playground's robots as native worlds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith._core import InputError, TrueRewardReader
from rewardsmith.envs import make
from rewardsmith.envs.native import advance, begin, make_native, rows

READ = TrueRewardReader.EVALUATOR


@pytest.fixture
def brax():
    return pytest.importorskip("brax")


@pytest.fixture
def playground():
    return pytest.importorskip("mujoco_playground")


def carried(env):
    worlds = jax.eval_shape(lambda: begin(env, 0, 2))
    action = jax.ShapeDtypeStruct((2, *env.spec.action_shape), jnp.float32)
    return worlds, *jax.eval_shape(lambda w, a: advance(env, w, a), worlds, action)


def test_the_trivial_task_by_its_own_rules(brax):
    """It starts at rest, gains 0.02 of speed from any push forward, and is paid its position."""
    env = make("brax/fast", 2)
    assert env.spec.max_episode_steps == 1000 and env.spec.can_terminate is False
    np.testing.assert_array_equal(env.reset(seed=0), np.zeros((2, 2)))
    position, speed = np.zeros(2), np.zeros(2)
    for push in np.random.default_rng(0).uniform(-1, 1, (30, 2)):
        speed = speed + 0.02 * (push > 0)
        position = position + 0.02 * speed
        result = env.step(push[:, None])
        np.testing.assert_allclose(result.observation, np.stack([position, speed], 1), rtol=1e-5)
        np.testing.assert_allclose(result.reward.reveal(READ), position, rtol=1e-5)
    state = env.get_state()
    env.set_state(state | {"elapsed": np.array([999, 998])})
    result = env.step(np.ones((2, 1)))
    np.testing.assert_array_equal(result.truncated, [True, False])
    np.testing.assert_array_equal(result.observation[0], [0, 0])
    assert (result.next_observation[0] > 0).all()


def test_a_pole_falls_and_is_put_up_again_and_states_are_exact(brax):
    env = make("brax/inverted_pendulum/spring", 3)
    assert env.spec.can_terminate is True
    np.testing.assert_allclose(env.reset(seed=0), 0.0, atol=0.011)
    pushes = np.random.default_rng(0).uniform(-1, 1, (60, 3, 1)).astype(np.float32)
    ends = 0
    for push in pushes[:40]:
        result = env.step(push)
        np.testing.assert_array_equal(np.abs(result.next_observation[:, 1]) > 0.2, result.terminated)
        np.testing.assert_allclose(result.observation[result.terminated], 0.0, atol=0.011)
        np.testing.assert_array_equal(result.reward.reveal(READ), 1.0)
        ends += result.terminated.sum()
    assert ends > 0
    state = env.get_state()
    expected = [env.step(push).observation for push in pushes[40:]]
    env.set_state(state)
    for push, observation in zip(pushes[40:], expected, strict=True):
        np.testing.assert_array_equal(env.step(push).observation, observation)


def test_the_state_says_nothing_of_rewards_and_a_loop_can_carry_it(brax):
    env = make_native("brax/halfcheetah/spring")
    worlds, after, step = carried(env)
    assert jax.tree.map(str, jax.tree.leaves(after)) == jax.tree.map(str, jax.tree.leaves(worlds))
    names = jax.eval_shape(rows, worlds)
    assert "state.pipeline_state.q" in names and not [name for name in names if "reward" in name]
    assert step.observation.shape == (2, 17) and env.spec.action_shape == (6,)
    np.testing.assert_array_equal(env.from_policy(jnp.full(6, 2.0)), np.ones(6))


@pytest.mark.parametrize(
    "env_id, message",
    [
        ("brax/halfcheeta", "did you mean brax/halfcheetah"),
        ("brax/zzzz", "brax has ant, fast, halfcheetah"),
        ("brax/ant/newton", "unknown physics 'newton' in brax/ant/newton: choose one of generalized"),
    ],
)
def test_bad_names_say_what_to_do(brax, env_id, message):
    with pytest.raises(InputError, match=message) as caught:
        make(env_id, 2)
    assert "\n" not in str(caught.value)


def test_playground_in_plain_jax(playground):
    env = make("playground/PendulumSwingup", 2)
    assert env.spec.max_episode_steps == 1000 and env.spec.can_terminate is False
    first = env.reset(seed=0)
    np.testing.assert_allclose((first[:, :2] ** 2).sum(axis=1), 1.0, rtol=1e-5)
    state = env.get_state()
    assert not [name for name in state if "reward" in name or name.endswith("info.rng")]
    expected = [env.step(np.ones((2, 1))).observation for _ in range(10)]
    assert (np.abs(expected[-1] - first).max(axis=1) > 1e-3).all()
    env.set_state(state)
    for observation in expected:
        np.testing.assert_array_equal(env.step(np.ones((2, 1))).observation, observation)


def test_playground_fetches_nothing_unasked(playground):
    with pytest.raises(InputError, match="clone https://"):
        make("playground/Go1JoystickFlatTerrain", 2)
    with pytest.raises(InputError, match="did you mean playground/CheetahRun"):
        make("playground/CheetaRun", 2)
