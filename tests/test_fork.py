"""Roll-outs from saved states, and what a run collects with them."""

import dataclasses

import numpy as np
import pytest

from rewardsmith._core import InputError, TrueReward, TrueRewardReader
from rewardsmith.bilevel import Needs
from rewardsmith.envs import GymnasiumEnv, TabularEnv, fork, make
from rewardsmith.preferences import Oracle
from rewardsmith.runs.collect import Collector
from rewardsmith.runs.config import TrainConfig

READ = TrueRewardReader.EVALUATOR


def still(observation, streams, step):
    """A policy that pushes nothing."""
    return np.zeros((len(observation), 6), np.float32)


def restless(observation, streams, step):
    """Noise that depends on the stream and the step, as a policy's does."""
    return np.stack(
        [np.random.default_rng((int(stream), step + 1)).uniform(-1, 1, 6) for stream in streams]
    ).astype(np.float32)


@pytest.fixture(scope="module")
def saved():
    """Five different states of HalfCheetah, and the observations in them."""
    env = make("HalfCheetah-v5", 5)
    env.reset(0)
    rng = np.random.default_rng(1)
    for _ in range(7):
        observation = env.step(rng.uniform(-1, 1, (5, 6)).astype(np.float32)).observation
    return env.get_state(), observation


def test_a_fork_goes_on_from_where_it_was(saved):
    states, observation = saved
    env = make("HalfCheetah-v5", 5)
    env.reset(3)
    env.set_state(states)
    expected = [env.step(np.zeros((5, 6), np.float32)) for _ in range(4)]
    # In blocks of two: the last one is half empty.
    forked = fork(make("HalfCheetah-v5", 2), states, still, 4, seed=0)
    np.testing.assert_array_equal(forked.observations[:, 0], observation)
    for step, result in enumerate(expected):
        reward = forked.true_reward.reveal(READ)[:, step]
        np.testing.assert_array_equal(reward, result.reward.reveal(READ))
        if step < 3:
            np.testing.assert_array_equal(forked.observations[:, step + 1], result.next_observation)
    assert forked.valid.all() and forked.steps == 3 * 2 * 4


def test_one_stream_is_one_future(saved):
    states, _ = saved
    pairs = {name: np.repeat(array[:3], 2, axis=0) for name, array in states.items()}
    env = make("HalfCheetah-v5", 4)
    shared = fork(env, pairs, restless, 6, seed=5, streams=np.repeat(np.arange(3), 2))
    np.testing.assert_array_equal(shared.observations[::2], shared.observations[1::2])
    own = fork(env, pairs, restless, 6, seed=5)
    assert (own.observations[::2, -1] != own.observations[1::2, -1]).any(axis=1).all()
    # A first action of its own is all that tells a pair apart.
    first = np.stack([np.zeros(6), np.ones(6)] * 3).astype(np.float32)
    pair = fork(env, pairs, restless, 6, seed=5, streams=np.repeat(np.arange(3), 2), first_action=first)
    np.testing.assert_array_equal(pair.actions[::2, 1:], pair.actions[1::2, 1:])
    np.testing.assert_array_equal(pair.actions[:, 0], first)


def test_the_simulators_own_chance_is_shared_in_any_block():
    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.ones(6), (6, 2))
    env = TabularEnv(P, np.full(6, 1 / 6), rng.random((6, 2)), 5)
    env.reset(0)
    states = {name: np.repeat(array[:1], 12, axis=0) for name, array in env.get_state().items()}

    def act(observation, streams, step):
        return np.zeros(len(observation), np.int64)

    # Pair 2 lies across the end of the first block.
    forked = fork(env, states, act, 20, seed=1, streams=np.repeat(np.arange(6), 2))
    np.testing.assert_array_equal(forked.observations[::2], forked.observations[1::2])
    assert len({tuple(row) for row in forked.observations[::2]}) == 6


def test_an_episode_that_ends_is_marked_and_the_clock_starts_anew():
    env = make("Hopper-v5", 3)
    env.reset(0)
    states = env.get_state()
    states["elapsed"][:] = 999
    forked = fork(env, states, lambda o, s, t: np.ones((len(o), 3), np.float32), 400, seed=0)
    ends = forked.valid.sum(axis=1)
    assert (ends > 1).all() and (ends < 400).all(), "full thrust topples a hopper, but not at once"
    assert all(
        (row[: int(n)]).all() and not row[int(n) :].any() for row, n in zip(forked.valid, ends, strict=True)
    )


def test_states_before_each_step(saved):
    states, _ = saved
    env = make("HalfCheetah-v5", 5)
    forked = fork(env, states, restless, 3, seed=0, keep_states=True)
    again = fork(
        env,
        {name: array[:, 2] for name, array in forked.states.items()},
        restless,
        1,
        seed=0,
        first_action=forked.actions[:, 2],
    )
    np.testing.assert_array_equal(again.observations[:, 0], forked.observations[:, 2])
    np.testing.assert_array_equal(again.true_reward.reveal(READ)[:, 0], forked.true_reward.reveal(READ)[:, 2])


def test_what_cannot_be_forked(saved):
    states, _ = saved
    with pytest.raises(InputError, match="episodes of HalfCheetah-v5 last 1000"):
        fork(make("HalfCheetah-v5", 5), states, still, 1001, seed=0)
    env = GymnasiumEnv("HalfCheetah-v5", 1)
    env.restorable = False
    with pytest.raises(InputError, match="cannot be restored"):
        fork(env, states, still, 10, seed=0)


# ---- what a run collects ------------------------------------------------------------------------


def collected(clips="queue", needs=None, env_id="HalfCheetah-v5"):
    config = TrainConfig(
        env=env_id, clips=clips, clip_length=5, comparisons=40, steps=4000, learning_starts=40, num_envs=4
    )
    env = make(env_id, 4)
    observation = env.reset(0)
    collector = Collector(config, needs or Needs(), env)
    rng = np.random.default_rng(0)
    for _ in range(60):
        before = collector.before(env)
        action = rng.uniform(-1, 1, (4, *env.spec.action_shape)).astype(np.float32)
        result = env.step(env.spec.from_unit(action))
        collector.append(observation, action, result.terminated | result.truncated, result.reward, before)
        observation = result.observation
    return collector


def test_branches_start_where_the_clip_was():
    collector = collected(needs=Needs(branches=2, branch_length=6))
    rng = np.random.default_rng(2)
    first, second, label = collector.ask(8, 240, Oracle(), restless, rng, fresh=False)
    rows = collector.queue.arrays()
    assert len(label) == 8 and collector.extra_steps >= 8 * 2 * 2 * 2 * 6
    for side, clip in enumerate((first, second)):
        steps = rows["branch_step"][:8, side]
        pairs = rows["branch_observations"][:8, side]
        for branch in range(2):
            here = clip.observations[np.arange(8), steps[:, branch]]
            np.testing.assert_allclose(pairs[:, branch, 0, 0], here, rtol=1e-6)
            np.testing.assert_allclose(pairs[:, branch, 1, 0], here, rtol=1e-6)
            taken = clip.actions[np.arange(8), steps[:, branch]]
            np.testing.assert_array_equal(rows["branch_actions"][:8, side, branch, 0, 0], taken)
            assert (rows["branch_actions"][:8, side, branch, 1, 0] != taken).any(axis=1).all()
    # Afterwards both do the same.
    np.testing.assert_array_equal(
        rows["branch_actions"][:8, :, :, 0, 1:], rows["branch_actions"][:8, :, :, 1, 1:]
    )


def test_fresh_clips_are_of_the_policy_of_now():
    collector = collected("fresh")
    first, second, label = collector.ask(8, 240, Oracle(), still, np.random.default_rng(3), fresh=True)
    assert len(label) == 8 and (first.actions == 0).all() and (second.actions == 0).all()
    assert collector.extra_steps >= 16 * 5
    # A batch is never made of fewer comparisons than it has room for.
    assert collector.recent() == collector.config.recent_batch_size
    collector.asked = collector.config.recent_batch_size + 1
    assert collector.recent() == collector.asked
    recorded, _, _ = collector.ask(8, 240, Oracle(), still, np.random.default_rng(3), fresh=False)
    assert (recorded.actions != 0).all()


def test_fresh_clips_never_cross_an_end():
    collector = collected("fresh", env_id="Hopper-v5")

    def act(observation, streams, step):
        return np.ones((len(observation), 3), np.float32)

    first, second, _ = collector.ask(10, 240, Oracle(), act, np.random.default_rng(4), fresh=True)
    assert first.valid[:, :5].all() and second.valid[:, :5].all()


def test_each_policy_has_its_own_record():
    collector = collected(needs=Needs(policies=2, visited=8))
    observations, actions = collector.draw_steps(6, np.random.default_rng(0))
    assert observations.shape == (2, 6, 17) and actions.shape == (2, 6, 6)
    own = [record.get_state()["actions"] for record in collector.records]
    for which in range(2):
        seen = {tuple(row) for row in own[which].reshape(-1, 6)}
        assert all(tuple(row) in seen for row in actions[which])
        assert not any(tuple(row) in seen for row in actions[1 - which])


def test_a_collector_is_put_back_as_it_was():
    needs = Needs(branches=1, branch_length=4)
    collector, other = collected(needs=needs), collected("queue", needs)
    collector.ask(6, 240, Oracle(), restless, np.random.default_rng(5), fresh=False)
    other.set_state(collector.get_state())
    again, expected = (
        one.ask(6, 480, Oracle(), restless, np.random.default_rng(6), fresh=False)
        for one in (other, collector)
    )
    for a, b in zip(again[:2], expected[:2], strict=True):
        for field in dataclasses.fields(a):
            x, y = getattr(a, field.name), getattr(b, field.name)
            if isinstance(x, TrueReward):
                x, y = x.reveal(READ), y.reveal(READ)
            if isinstance(x, dict):
                assert x.keys() == y.keys()
                assert all(np.array_equal(x[name], y[name]) for name in x)
            else:
                np.testing.assert_array_equal(x, y)
    assert other.extra_steps == collector.extra_steps
