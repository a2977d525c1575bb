"""Clips that stay within one episode, a queue of bounded memory, teachers and their schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardsmith._core import InputError, TrueReward, TrueRewardReader
from rewardsmith.preferences import (
    BradleyTerryTeacher,
    Clips,
    ComparisonQueue,
    Oracle,
    Trajectories,
    bradley_terry,
    comparisons_due,
)

ENVS = 3


def record_of(ends, capacity):
    """A record whose observations say where they come from: (environment, episode, time in the episode)."""
    trajectories = Trajectories(ENVS, capacity, (3,), (1,))
    episode, time = np.zeros(ENVS, int), np.zeros(ENVS, int)
    for step, ended in enumerate(ends):
        observation = np.stack([np.arange(ENVS), episode, time], axis=1)
        action, reward = np.full((ENVS, 1), step), TrueReward(step + 100.0 * np.arange(ENVS))
        trajectories.append(observation, action, ended, reward)
        episode, time = episode + ended, np.where(ended, 0, time + 1)
    return trajectories


def lengths_on_record(ends, capacity):
    """Steps of each stretch of one episode that the ring still holds."""
    kept = np.asarray(ends)[-capacity:]
    return [
        len(stretch)
        for env in range(ENVS)
        for stretch in np.split(kept[:, env], np.flatnonzero(kept[:, env]) + 1)
        if len(stretch)
    ]


@settings(max_examples=60, deadline=None)
@given(
    ends=st.lists(st.lists(st.booleans(), min_size=ENVS, max_size=ENVS), min_size=1, max_size=40),
    capacity=st.integers(1, 25),
    horizon=st.integers(1, 6),
    further=st.integers(0, 6),
    seed=st.integers(0, 99),
)
def test_clips_never_cross_the_end_of_an_episode(ends, capacity, horizon, further, seed):
    ends = np.array(ends)
    trajectories, rng = record_of(ends, capacity), np.random.default_rng(seed)
    lengths = lengths_on_record(ends, capacity)
    if max(lengths) < horizon:
        with pytest.raises(InputError, match=f"no episode on record lasts {horizon} steps"):
            trajectories.sample(8, horizon, further, rng)
        return
    clips = trajectories.sample(8, horizon, further, rng)
    assert clips.observations.shape == (8, horizon + further, 3)
    assert clips.valid[:, :horizon].all()
    rewards = clips.true_reward.reveal(TrueRewardReader.TEACHER)
    for observations, actions, valid, reward in zip(
        clips.observations, clips.actions[..., 0], clips.valid, rewards, strict=True
    ):
        assert (np.diff(valid.astype(int)) <= 0).all()
        length = valid.sum()
        env, episode, start = observations[0].astype(int)
        assert (observations[:length] == [(env, episode, start + k) for k in range(length)]).all()
        assert (np.diff(actions[:length]) == 1).all()
        assert (reward == actions[:horizon] + 100 * env).all()
        # It stops where it must and no earlier: at the end of the episode, of the record, or of the wish.
        last = int(actions[length - 1])
        assert length == horizon + further or last == len(ends) - 1 or ends[last, env]
        # Overwritten steps are gone.
        assert actions[0] >= len(ends) - capacity


def test_every_place_is_drawn_equally_often():
    ends = np.zeros((10, ENVS), bool)
    ends[4, 0] = ends[6, 1] = True
    clips = record_of(ends, 20).sample(6000, 3, 0, np.random.default_rng(0))
    # Places for 3 steps: 3 + 3 in env 0 (5 + 5 steps), 5 + 1 in env 1 (7 + 3), 8 in env 2.
    starts = clips.observations[:, 0, 0] * 100 + clips.actions[:, 0, 0]
    counts = np.unique(starts, return_counts=True)[1]
    assert len(counts) == 20
    assert abs(counts - 300).max() < 5 * np.sqrt(300)


def test_cut_ends_every_episode_on_record():
    trajectories = record_of(np.zeros((4, ENVS), bool), 20)
    trajectories.cut()
    for _ in range(4):
        trajectories.append(
            np.full((ENVS, 3), 9), np.zeros((ENVS, 1)), np.zeros(ENVS, bool), TrueReward(np.zeros(ENVS))
        )
    clips = trajectories.sample(200, 3, 0, np.random.default_rng(0))
    assert (
        (clips.observations == 9).all(axis=(1, 2)) | (clips.observations != 9).any(axis=2).all(axis=1)
    ).all()
    with pytest.raises(InputError, match="5 steps"):
        trajectories.sample(1, 5, 0, np.random.default_rng(0))


def test_a_clip_is_a_copy():
    trajectories = record_of(np.zeros((5, ENVS), bool), 5)
    clips = trajectories.sample(4, 5, 0, np.random.default_rng(0))
    before = clips.observations.copy()
    for _ in range(5):
        trajectories.append(
            np.full((ENVS, 3), -1), np.zeros((ENVS, 1)), np.zeros(ENVS, bool), TrueReward(np.zeros(ENVS))
        )
    np.testing.assert_array_equal(clips.observations, before)
    assert (trajectories.get_state()["observations"] == -1).all()
    assert trajectories.get_state()["observations"].shape == (5, ENVS, 3)


def test_record_round_trip():
    rng = np.random.default_rng(0)
    record, other = record_of(rng.random((30, ENVS)) < 0.2, 12), record_of(np.zeros((3, ENVS), bool), 12)
    other.set_state(record.get_state(), record.true_reward)
    ours, theirs = (r.sample(20, 2, 4, np.random.default_rng(1)) for r in (record, other))
    for name in ("observations", "actions", "valid"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    ours, theirs = (clips.true_reward.reveal(TrueRewardReader.TEACHER) for clips in (ours, theirs))
    np.testing.assert_array_equal(ours, theirs)


# ---- the queue ----------------------------------------------------------------------------------

HORIZON, FURTHER = 2, 3


def random_clips(rng, count, magnitude=1.0):
    return Clips(
        rng.normal(size=(count, HORIZON + FURTHER, 4)).astype(np.float32),
        rng.normal(size=(count, HORIZON + FURTHER, 1)).astype(np.float32),
        rng.random((count, HORIZON + FURTHER)) < 0.5,
        TrueReward(magnitude * rng.normal(size=(count, HORIZON))),
    )


def filled_queue(capacity=5, counts=(2, 3, 1, 7, 2), seed=0):
    """A queue and, as a list, what it ought to hold."""
    rng, queue, reference = (
        np.random.default_rng(seed),
        ComparisonQueue(capacity, HORIZON, FURTHER, (4,), (1,)),
        [],
    )
    for step, count in enumerate(counts):
        first, second = random_clips(rng, count), random_clips(rng, count)
        label = rng.choice([0.0, 0.5, 1.0, np.nan], size=count)
        queue.append(first, second, label, step)
        for i in np.flatnonzero(~np.isnan(label)):
            pair = {
                n: np.stack([getattr(c, n)[i] for c in (first, second)])
                for n in ("observations", "actions", "valid")
            }
            reference.append({**pair, "label": label[i], "step": step})
    return queue, reference


@pytest.mark.parametrize("capacity", [1, 5, 100])
def test_queue_is_a_ring(capacity):
    queue, reference = filled_queue(capacity)
    assert queue.total == len(reference)
    assert len(queue) == min(capacity, len(reference))
    arrays = queue.arrays()
    for index, row in list(enumerate(reference))[-capacity:]:
        for name, value in row.items():
            np.testing.assert_array_equal(arrays[name][index % capacity], value)


def test_queue_keeps_no_true_reward():
    rng = np.random.default_rng(0)
    queue = ComparisonQueue(4, HORIZON, FURTHER, (4,), (1,))
    # True rewards so large that no observation, action, label or step could be taken for one.
    first, second = random_clips(rng, 4, 1e6), random_clips(rng, 4, 1e6)
    queue.append(first, second, np.ones(4), 1)
    assert set(queue.arrays()) == {
        *("observations", "actions", "valid", "label", "step"),
        *("labeller", "record"),
    }
    assert set(queue.get_state()) == set(queue.arrays()) | {"total"}
    assert all(abs(np.asarray(array, float)).max() < 1e3 for array in queue.get_state().values())


def test_answers_that_were_taken_back_leave_the_queue():
    rng = np.random.default_rng(0)
    queue = ComparisonQueue(5, HORIZON, FURTHER, (4,), (1,))
    for numbers in ([1, 2, 3], [4, 5, 6, 7]):
        first, second = (random_clips(rng, len(numbers)) for _ in range(2))
        label = np.array(numbers) / 10.0
        queue.append(first, second, label, 1, labeller=np.array(numbers) + 100, record=np.array(numbers))
    # The ring holds 3 to 7, the oldest not in its first slot.
    assert queue.remove([4, 7, 99]) == 2
    assert len(queue) == queue.total == 3
    arrays = {name: array[:3] for name, array in queue.arrays().items()}
    assert arrays["record"].tolist() == [3, 5, 6]
    np.testing.assert_allclose(arrays["label"], [0.3, 0.5, 0.6], rtol=1e-6)
    assert arrays["labeller"].tolist() == [103, 105, 106]
    assert queue.remove([]) == 0
    queue.append(*(random_clips(rng, 3) for _ in range(2)), np.ones(3), 2, record=np.array([8, 9, 10]))
    assert sorted(queue.arrays()["record"].tolist()) == [5, 6, 8, 9, 10]


def test_queue_round_trip():
    queue, _ = filled_queue()
    other = ComparisonQueue(5, HORIZON, FURTHER, (4,), (1,))
    other.set_state({name: array.copy() for name, array in queue.get_state().items()})
    for name, array in queue.get_state().items():
        np.testing.assert_array_equal(other.get_state()[name], array)
    rng = np.random.default_rng(3)
    clips = random_clips(rng, 2)
    for each in (queue, other):
        each.append(clips, clips, np.ones(2), 9)
    np.testing.assert_array_equal(other.arrays()["observations"], queue.arrays()["observations"])


def test_parquet(tmp_path):
    queue, reference = filled_queue()
    queue.write_parquet(tmp_path / "comparisons.parquet")
    table = pl.read_parquet(tmp_path / "comparisons.parquet")
    kept = reference[-5:]
    assert table["step"].to_list() == [row["step"] for row in kept]
    assert table["label"].to_list() == [row["label"] for row in kept]
    for name, size in (("observations", 4), ("actions", 1)):
        for side, word in enumerate(("first", "second")):
            column = table[f"{word}_{name}"]
            assert column.dtype == pl.List(pl.Float32)
            clips = np.array(column.to_list()).reshape(len(kept), HORIZON, size)
            expected = np.stack([row[name][side, :HORIZON] for row in kept])
            np.testing.assert_array_equal(clips.astype(np.float32), expected)
    assert not [name for name in table.columns if "reward" in name]


def test_parquet_of_nothing(tmp_path):
    ComparisonQueue(5, HORIZON, FURTHER, (4,), (1,)).write_parquet(tmp_path / "comparisons.parquet")
    table = pl.read_parquet(tmp_path / "comparisons.parquet")
    assert table.height == 0 and table["first_actions"].dtype == pl.List(pl.Float32)


# ---- teachers -----------------------------------------------------------------------------------


def test_oracle():
    first = TrueReward([[1.0, 2.0], [0.0, 0.5], [1.5, 1.0]])
    second = TrueReward([[2.5, 0.0], [0.5, 0.5], [1.0, 1.5]])
    np.testing.assert_array_equal(Oracle().answer(first, second, np.random.default_rng(0)), [1.0, 0.0, 0.5])


def test_bradley_terry_teacher_errs_as_often_as_it_should():
    # Sums differ by 2, so at temperature 2 the first is preferred with probability σ(1) = 0.731.
    count = 20_000
    first, second = TrueReward(np.full((count, 4), 0.75)), TrueReward(np.full((count, 4), 0.25))
    label = BradleyTerryTeacher(2.0).answer(first, second, np.random.default_rng(0))
    probability = 1 / (1 + np.exp(-1.0))
    assert set(label) == {0.0, 1.0}
    assert abs(label.mean() - probability) < 4 * np.sqrt(probability * (1 - probability) / count)
    with np.errstate(all="raise"):
        far = BradleyTerryTeacher(1e-3).answer(first, second, np.random.default_rng(0))
    assert (far == 1.0).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.inf, np.nan])
def test_bradley_terry_teacher_needs_a_temperature(temperature):
    with pytest.raises(InputError, match="positive"):
        BradleyTerryTeacher(temperature)


@given(total=st.integers(1, 10**6), budget=st.integers(0, 5000), share=st.floats(0, 1), data=st.data())
def test_schedule_only_rises_and_spends_the_budget(total, budget, share, data):
    steps = sorted(data.draw(st.lists(st.integers(0, total), min_size=2, max_size=10)))
    due = [comparisons_due(step, total, budget, share) for step in steps]
    assert due == sorted(due)
    assert 0 <= due[0] and due[-1] <= budget
    assert comparisons_due(0, total, budget, share) == round(budget * share)
    assert comparisons_due(total, total, budget, share) == comparisons_due(2 * total, total, budget) == budget


def test_schedule_is_fast_at_first():
    # Half way 1 − 0.01^½ = 0.9 of what is left after the first quarter.
    assert comparisons_due(500, 1000, 1000) == round(1000 * (0.25 + 0.75 * 0.9))


# ---- the loss -----------------------------------------------------------------------------------


def test_bradley_terry_loss():
    one = lambda value: jnp.asarray(value, jnp.float32)  # noqa: E731
    # D = log 3, so σ(D) = ¾ and σ(−D) = ¼.
    ahead = (one(2.0) + jnp.log(3.0), one(2.0))
    for label, expected in ((1.0, -np.log(0.75)), (0.0, -np.log(0.25)), (0.5, -0.5 * np.log(0.75 * 0.25))):
        np.testing.assert_allclose(bradley_terry(*ahead, one(label)), expected, rtol=1e-5)
    # Of each of several models at once; and no overflow far out, where it is |D| or 0.
    many = bradley_terry(jnp.array([500.0, 0.0]), jnp.array([0.0, 500.0]), one(1.0))
    np.testing.assert_allclose(many, [0.0, 500.0], atol=1e-6)
    slope = jax.grad(bradley_terry)(*ahead, one(1.0))
    np.testing.assert_allclose(slope, 0.75 - 1.0, rtol=1e-5)
