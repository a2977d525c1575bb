"""The batch against Gymnasium, bit for bit, and its states."""

import gymnasium
import numpy as np
import pytest

from rewardsmith._core import InputError, TrueRewardReader
from rewardsmith.envs import make
from rewardsmith.envs._mujoco import quiet_deprecations
from rewardsmith.envs.base import env_seeds
from rewardsmith.envs.mujoco_tasks import TASKS

STEPS = 300


def actions(spec, count, num_envs, seed=0):
    rng = np.random.default_rng(seed)
    return spec.from_unit(rng.uniform(-1, 1, (count, num_envs, *spec.action_shape)))


def assert_same_step(ours, theirs):
    for name, mine, other in zip(ours._fields, ours, theirs, strict=True):
        if name == "reward":
            mine, other = mine.reveal(TrueRewardReader.EVALUATOR), other.reveal(TrueRewardReader.EVALUATOR)
        np.testing.assert_array_equal(mine, other, err_msg=name)
        assert mine.dtype == other.dtype


@pytest.mark.parametrize("env_id", TASKS)
def test_parity_with_plain_gymnasium(env_id):
    """Against gymnasium itself, not our wrapper: same start, rewards, ends and restarts."""
    ours = make(env_id, 2, "mujoco")
    first = ours.reset(seed=5)
    script = actions(ours.spec, STEPS, 2)
    results = [ours.step(action) for action in script]
    ends = 0
    for i, seed in enumerate(env_seeds(5, 2)):
        with quiet_deprecations():
            theirs = gymnasium.make(env_id, disable_env_checker=True)
        observation, _ = theirs.reset(seed=int(seed))
        np.testing.assert_array_equal(first[i], observation)
        for action, result in zip(script, results, strict=True):
            observation, reward, terminated, truncated, _ = theirs.step(action[i])
            np.testing.assert_array_equal(result.next_observation[i], observation)
            assert result.reward.reveal(TrueRewardReader.EVALUATOR)[i] == reward
            assert (result.terminated[i], result.truncated[i]) == (terminated, truncated)
            if terminated or truncated:
                ends += 1
                observation, _ = theirs.reset()
            np.testing.assert_array_equal(result.observation[i], observation)
        theirs.close()
    assert (ends > 0) == (TASKS[env_id].healthy is not None)


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "InvertedPendulum-v5"])
def test_parity_of_backends_across_the_time_limit(env_id):
    batch, vector = make(env_id, 2, "mujoco"), make(env_id, 2, "gymnasium")
    np.testing.assert_array_equal(batch.reset(seed=1), vector.reset(seed=1))
    assert batch.spec.max_episode_steps == vector.spec.max_episode_steps == 1000
    assert batch.spec.can_terminate == vector.spec.can_terminate
    state = batch.get_state()
    for env, own in ((batch, state), (vector, vector.get_state())):
        env.set_state(own | {"elapsed": np.array([995, 3])})
    for k, action in enumerate(actions(batch.spec, 10, 2) * 0.1):
        ours, theirs = batch.step(action), vector.step(action)
        assert_same_step(ours, theirs)
        np.testing.assert_array_equal(ours.truncated, [k == 4, False])
        assert not ours.terminated.any()


def test_a_fall_in_the_last_step_is_no_truncation():
    env = make("Hopper-v5", 1)
    env.reset(seed=0)
    for action in actions(env.spec, STEPS, 1):
        before = env.get_state()
        if env.step(action).terminated[0]:
            break
    env.set_state(before | {"elapsed": np.array([999])})
    result = env.step(action)
    assert result.terminated[0] and not result.truncated[0]


@pytest.mark.parametrize("num_threads", [1, 2])
def test_restore_is_exact_and_threads_change_nothing(num_threads):
    env = make("Walker2d-v5", 3, num_threads=num_threads)
    env.reset(seed=2)
    script = actions(env.spec, 120, 3)
    for action in script[:40]:
        env.step(action)
    state = env.get_state()
    expected = [env.step(action) for action in script[40:]]
    assert any(result.terminated.any() for result in expected)

    for target in (env, make("Walker2d-v5", 3)):
        np.testing.assert_array_equal(target.set_state(state), env.set_state(state))
        for action, result in zip(script[40:], expected, strict=True):
            assert_same_step(target.step(action), result)


def test_branches_from_one_stored_state_move_alike():
    one, many = make("Hopper-v5", 2), make("Hopper-v5", 4)
    one.reset(seed=0)
    for action in actions(one.spec, 5, 2):
        one.step(action)
    many.set_state({name: np.repeat(array[1:2], 4, axis=0) for name, array in one.get_state().items()})
    for action in actions(one.spec, 20, 2, seed=3):
        result = one.step(action)
        branches = many.step(np.repeat(action[1:2], 4, axis=0))
        for k in range(4):
            np.testing.assert_array_equal(branches.observation[k], result.observation[1])


def test_a_run_depends_on_seed_and_index_only():
    few, many = make("Hopper-v5", 2), make("Hopper-v5", 5)
    np.testing.assert_array_equal(few.reset(seed=9), many.reset(seed=9)[:2])
    assert not np.array_equal(few.reset(seed=9), few.reset(seed=10))
    few.reset(seed=9)
    script = actions(many.spec, 60, 5)
    ends = 0
    for action in script:
        ours, theirs = few.step(action[:2]), many.step(action)
        np.testing.assert_array_equal(ours.observation, theirs.observation[:2])
        ends += ours.terminated.sum()
    assert ends > 0


def test_bad_use_is_one_line():
    with pytest.raises(InputError, match="backend='gymnasium'"):
        make("Pendulum-v1", 1, "mujoco")
    with pytest.raises(InputError, match="num_envs"):
        make("Hopper-v5", 0)
    env = make("Hopper-v5", 2)
    with pytest.raises(InputError, match="reset"):
        env.step(np.zeros((2, 3)))
    env.reset(seed=0)
    with pytest.raises(InputError, match=r"\(2, 3\)"):
        env.step(np.zeros((3, 3)))
    with pytest.raises(InputError, match="not finite"):
        env.step(np.full((2, 3), np.nan))
    with pytest.raises(InputError, match="does not fit"):
        env.set_state({name: array[:1] for name, array in env.get_state().items()})
    with pytest.raises(InputError, match="negative"):
        env.reset(seed=-1)


def test_nothing_is_written_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for backend in ("mujoco", "gymnasium"):
        make("HalfCheetah-v5", 1, backend).close()
    assert list(tmp_path.iterdir()) == []
