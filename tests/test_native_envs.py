"""Worlds inside compiled programs: their episodes, their rows, and what they share with all others."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith._core import InputError, TracedTrueReward, TrueReward, TrueRewardReader
from rewardsmith.envs import fork, make
from rewardsmith.envs.native import NativeVectorEnv, advance, begin, from_rows, make_native, rows
from tests.native_walk import Walk

READ = TrueRewardReader.EVALUATOR


def pushes(count, num_envs, seed=0):
    return np.random.default_rng(seed).uniform(-0.3, 0.4, (count, num_envs, 1)).astype(np.float32)


def shown(result):
    """All that a step says, the reward among it."""
    reward = result.reward.sealed() if isinstance(result.reward, TracedTrueReward) else result.reward
    return [*map(np.asarray, (*result[:2], *result[3:])), reward.reveal(READ)]


def record(env, actions):
    return [array for action in actions for array in shown(env.step(action))]


def assert_same(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)


def in_one_program(env, worlds, actions):
    return jax.jit(lambda w, a: jax.lax.scan(lambda w, a: advance(env, w, a), w, a))(worlds, actions)


def test_an_episode_ends_at_its_limit_or_by_itself_and_the_next_begins_in_the_same_step():
    env = NativeVectorEnv(Walk(noise=0.0, limit=3), 2)
    first = env.reset(seed=0)
    assert first.dtype == np.float32 and (np.abs(first[:, 0]) <= 0.5).all() and first[0, 0] != first[1, 0]
    # Copy 0 is pushed over the end in its second step; copy 1 in its third and last allowed one.
    for step, push in enumerate([[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]]):
        result = env.step(np.array(push, np.float32)[:, None])
        np.testing.assert_array_equal(result.terminated, [step == 1, step == 2])
        assert not result.truncated.any(), "an end in the last step is no truncation"
        reached = result.next_observation[:, 0]
        np.testing.assert_array_equal(result.reward.reveal(READ), reached)
        np.testing.assert_array_equal(reached > 1.0, result.terminated)
        begun = result.observation[result.terminated]
        assert (begun[:, 1] == 0).all() and (np.abs(begun[:, 0]) <= 0.5).all()
        going_on = ~result.terminated
        np.testing.assert_array_equal(result.observation[going_on], result.next_observation[going_on])
        if step == 1:
            assert begun[0, 0] != first[0, 0], "another start than the first"
    np.testing.assert_array_equal(env.get_state()["elapsed"], [1, 0])
    ends = [env.step(np.zeros((2, 1))).truncated for _ in range(3)]
    np.testing.assert_array_equal(ends, [[False, False], [True, False], [False, True]])


def test_without_a_limit_nothing_is_truncated():
    env = NativeVectorEnv(Walk(noise=0.0, limit=None), 1)
    env.reset(seed=0)
    results = [env.step(np.zeros((1, 1))) for _ in range(30)]
    assert not any(result.truncated[0] or result.terminated[0] for result in results)
    assert results[-1].next_observation[0, 1] == 30


def test_restore_is_exact_within_and_into_another():
    env, other = NativeVectorEnv(Walk(), 6), NativeVectorEnv(Walk(), 6)
    actions = pushes(60, 6)
    env.reset(seed=3)
    record(env, actions[:13])
    state = env.get_state()
    assert {name: (array.shape, array.dtype.name) for name, array in state.items()} == {
        "state.x": ((6,), "float32"),
        "state.visits.count": ((6,), "int32"),
        "observation": ((6, 2), "float32"),
        "elapsed": ((6,), "int32"),
        "rng": ((6, 2), "uint32"),
    }
    expected = record(env, actions[13:])
    assert np.concatenate(expected[2::5]).any() and np.concatenate(expected[3::5]).any(), "ends of both kinds"
    for target in (env, other):
        np.testing.assert_array_equal(target.set_state(state), state["observation"])
        assert_same(record(target, actions[13:]), expected)
    state["elapsed"][:] = 0
    with pytest.raises(InputError, match="does not fit walk"):
        env.set_state({name: array[:5] for name, array in state.items()})
    with pytest.raises(InputError, match="not of one number"):
        from_rows(env.worlds, state | {"elapsed": state["elapsed"][:2]})
    with pytest.raises(InputError, match="do not fit"):
        from_rows(env.worlds, {name: array for name, array in state.items() if name != "rng"})


def test_one_program_does_what_single_steps_do_and_hands_over_either_way():
    env, actions = NativeVectorEnv(Walk(), 4), pushes(50, 4)
    env.reset(seed=1)
    stepwise = [shown(env.step(action)) for action in actions]
    worlds, steps = in_one_program(env.env, begin(env.env, 1, 4), actions)
    for number, name in enumerate(("observation", "next_observation", "terminated", "truncated")):
        together = np.asarray(getattr(steps, name))
        np.testing.assert_allclose(np.stack([step[number] for step in stepwise]), together, rtol=1e-6)
    reward = steps.reward.sealed()
    assert isinstance(reward, TrueReward)
    np.testing.assert_allclose(np.stack([s[4] for s in stepwise]), reward.reveal(READ), rtol=1e-6)
    for name, array in env.get_state().items():
        np.testing.assert_allclose(array, rows(worlds)[name], rtol=1e-6, err_msg=name)

    other = NativeVectorEnv(env.env, 4)
    other.worlds = worlds
    assert_same(other.get_state().values(), map(np.asarray, rows(worlds).values()))
    with pytest.raises(InputError, match="4 worlds: pass 3"):
        NativeVectorEnv(env.env, 3).worlds = worlds


def test_rows_and_back_inside_a_program_and_to_another_number():
    worlds = begin(Walk(), 0, 3)
    same = jax.jit(lambda w: from_rows(w, rows(w)))(worlds)
    assert_same(map(np.asarray, rows(same).values()), map(np.asarray, rows(worlds).values()))
    many = from_rows(
        worlds, {name: jnp.repeat(array[1:2], 5, axis=0) for name, array in rows(worlds).items()}
    )
    _, steps = in_one_program(Walk(), many, np.tile(pushes(40, 1), (1, 5, 1)))
    futures = np.asarray(steps.observation)
    np.testing.assert_array_equal(futures, np.tile(futures[:, :1], (1, 5, 1)))


def test_a_copy_depends_on_seed_and_index_only():
    few, many = NativeVectorEnv(Walk(), 3), NativeVectorEnv(Walk(), 11)
    np.testing.assert_array_equal(few.reset(seed=9), many.reset(seed=9)[:3])
    actions = pushes(40, 11)
    for ours, theirs in zip(record(few, actions[:, :3]), record(many, actions), strict=True):
        np.testing.assert_allclose(ours, theirs[:3], rtol=1e-6)
    assert not np.array_equal(few.reset(seed=9), few.reset(seed=10))
    # Seeds beyond 32 bits are seeds of their own.
    assert not np.array_equal(few.reset(seed=1), few.reset(seed=1 + 2**32))


def test_streams_are_those_of_a_reset_and_reset_nothing():
    env = NativeVectorEnv(Walk(), 4)
    env.reset(seed=2)
    expected = env.get_state()["rng"]
    env.step(np.zeros((4, 1)))
    before = env.get_state()
    np.testing.assert_array_equal(env.streams(2), expected)
    assert_same(env.get_state().values(), before.values())
    assert len({tuple(row) for seed in range(5) for row in env.streams(seed)}) == 20


def test_seeds_side_by_side_are_those_seeds_one_by_one():
    env, actions = Walk(), pushes(50, 2)
    each = [begin(env, seed, 2) for seed in range(3)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    side_by_side = jax.vmap(lambda w, a: in_one_program(env, w, a), (0, None))
    worlds, steps = side_by_side(together, actions)
    assert np.asarray(steps.terminated).any() and np.asarray(steps.truncated).any()
    for seed in range(3):
        alone, single = in_one_program(env, each[seed], actions)
        np.testing.assert_allclose(steps.observation[seed], single.observation, rtol=1e-6)
        np.testing.assert_array_equal(steps.truncated[seed], single.truncated)
        np.testing.assert_array_equal(jax.random.key_data(worlds.key)[seed], jax.random.key_data(alone.key))


def test_the_randomness_of_starts_steps_and_copies_is_fresh():
    env = Walk(noise=1.0, limit=1)
    _, steps = in_one_program(env, begin(env, 0, 50), np.zeros((100, 50, 1), np.float32))
    starts = np.asarray(steps.observation)[..., 0]
    moves = np.asarray(steps.next_observation)[1:, :, 0] - starts[:-1]
    assert len(np.unique(starts)) > 4900 and len(np.unique(moves)) > 4900
    # 5000 of each: five standard errors.
    assert abs(starts.mean()) < 5 * 12**-0.5 / 5000**0.5 and abs(moves.mean()) < 5 / 5000**0.5
    np.testing.assert_allclose(moves.std(), 1.0, atol=5 * (1 / 10000) ** 0.5)
    between_copies = np.corrcoef(moves[:, :10].T) - np.eye(10)
    assert np.abs(between_copies).max() < 0.5
    for other in (starts[:-1], starts[1:]):
        assert abs(np.corrcoef(other.ravel(), moves.ravel())[0, 1]) < 5 / 5000**0.5


def test_forks_go_on_from_rows_and_share_randomness_by_stream():
    env = NativeVectorEnv(Walk(noise=0.2, limit=20), 4)
    observation = env.reset(0)
    for action in pushes(15, 4):
        observation = env.step(action).observation
    states = {name: np.repeat(array, 3, axis=0) for name, array in env.get_state().items()}

    def still(observations, streams, step):
        return np.full((len(observations), 1), -0.5, np.float32)

    forked = fork(env, states, still, 20, seed=1, streams=np.tile([0, 0, 7], 4), keep_states=True)
    np.testing.assert_array_equal(forked.observations[:, 0], np.repeat(observation, 3, axis=0))
    np.testing.assert_array_equal(forked.observations[::3], forked.observations[1::3])
    assert (forked.observations[::3, 1] != forked.observations[2::3, 1]).any(axis=1).all()
    assert forked.steps == 3 * 4 * 20 and (forked.states["elapsed"][:, 0] == 0).all()
    going, here = forked.valid[:, 1:], forked.observations[..., 0]
    # A policy's −0.5 is no push at all in these units.
    moved = (here[:, 1:] - here[:, :-1])[going]
    assert abs(moved.mean()) < 5 * 0.2 / len(moved) ** 0.5
    np.testing.assert_allclose(forked.true_reward.reveal(READ)[:, :-1][going], here[:, 1:][going])


def test_policies_act_in_the_same_units_on_either_side():
    env = Walk()
    actions = np.array([[-1.0], [-0.3], [0.0], [1.0], [1.7]], np.float32)
    np.testing.assert_allclose(env.from_policy(actions), env.spec.from_policy(actions), rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(env.from_policy(actions))[[0, 3, 4], 0], [-0.5, 1.5, 1.5])


def test_bad_use_is_one_line():
    env = NativeVectorEnv(Walk(), 2)
    for use in (lambda: env.step(np.zeros((2, 1))), env.get_state, lambda: env.worlds):
        with pytest.raises(InputError, match="reset"):
            use()
    env.reset(seed=0)
    with pytest.raises(InputError, match=r"\(2, 1\)"):
        env.step(np.zeros((3, 1)))
    with pytest.raises(InputError, match="not finite"):
        env.step(np.full((2, 1), np.nan))
    with pytest.raises(InputError, match="negative"):
        env.reset(seed=-1)
    with pytest.raises(InputError, match="num_envs"):
        NativeVectorEnv(Walk(), 0)
    for env_id in ("walk", "gymnasium/Pendulum-v1", "Pendulum-v1"):
        with pytest.raises(InputError, match="is not native: give a name such as gymnax/Pendulum-v1"):
            make_native(env_id)
        with pytest.raises(InputError, match="is not native"):
            make(env_id, 2, "native")


@pytest.mark.parametrize(
    "env_id, module",
    [
        ("gymnax/Acrobot-v9", "gymnax.registration"),
        ("brax/ant/none", "brax.envs"),
        ("playground/Nothing", "mujoco_playground"),
    ],
)
def test_a_missing_package_is_named(env_id, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    package = env_id.split("/")[0]
    with pytest.raises(InputError) as caught:
        make(env_id, 1)
    assert str(caught.value) == f'{env_id} needs {package}: pip install "rewardsmith[{package}]"'
