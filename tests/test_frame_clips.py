"""Clips and comparisons of images, frames stored once, against records of whole stacks."""

import numpy as np
import polars as pl
import pytest

from rewardsmith._core import ImageSpec, InputError, TrueReward, TrueRewardReader, stacked
from rewardsmith.preferences import Clips, ComparisonQueue, Trajectories
from rewardsmith.preferences.clips import unstacked

ENVS = 3
IMAGES = [ImageSpec(3, 2, 2, 3), ImageSpec(2, 3, 1, 4), ImageSpec(2, 2, 3, 1)]


def records(image, steps, capacity, seed=0, ends=0.15, cuts=0.05):
    """One record of frames and one that stores whole observations as if they were vectors."""
    rng = np.random.default_rng(seed)
    frames = Trajectories(ENVS, capacity, image.shape, (), action_dtype=np.int32, image=image)
    whole = Trajectories(ENVS, capacity, image.shape, (), np.uint8, np.int32)

    def frame():
        return rng.integers(0, 256, (ENVS, *image.frame_shape), np.uint8)

    def first():
        return np.concatenate([frame()] * image.stack, axis=-1)

    observation = first()
    for step in range(steps):
        ended, action = rng.random(ENVS) < ends, ENVS * step + np.arange(ENVS)
        for record in (frames, whole):
            record.append(observation, action, ended, TrueReward(action / 8))
        cut = rng.random() < cuts
        if cut:
            frames.cut()
            whole.cut()
        following = np.concatenate([observation[..., image.channels :], frame()], axis=-1)
        observation = np.where((ended | cut)[:, None, None, None], first(), following)
    return frames, whole


@pytest.mark.parametrize("image", IMAGES, ids=str)
@pytest.mark.parametrize(("steps", "capacity"), [(5, 30), (30, 30), (31, 30), (200, 23), (40, 4)])
@pytest.mark.parametrize(("horizon", "further"), [(1, 0), (3, 4)])
def test_clips_are_those_of_whole_observations(image, steps, capacity, horizon, further):
    for seed in range(3):
        frames, whole = records(image, steps, capacity, seed)
        newest = None if seed else 6
        ours, theirs = (
            record.sample(200, horizon, further, np.random.default_rng(seed), newest)
            for record in (frames, whole)
        )
        assert ours.observations.shape == (200, image.stack - 1 + horizon + further, *image.frame_shape)
        assert ours.observations.dtype == np.uint8 and ours.actions.dtype == np.int32
        assert ours.stack == image.stack and theirs.stack == 1
        np.testing.assert_array_equal(ours.valid, theirs.valid)
        np.testing.assert_array_equal(ours.actions[ours.valid], theirs.actions[ours.valid])
        found = stacked(ours.observations, ours.stack)
        np.testing.assert_array_equal(found[ours.valid], theirs.observations[ours.valid])
        rewards, expected = (c.true_reward.reveal(TrueRewardReader.TEACHER) for c in (ours, theirs))
        np.testing.assert_array_equal(rewards, expected)


@pytest.mark.parametrize("image", IMAGES, ids=str)
@pytest.mark.parametrize(("steps", "capacity"), [(10, 30), (95, 30), (40, 1)])
def test_steps_drawn_are_whole(image, steps, capacity):
    frames, whole = records(image, steps, capacity)
    observations, actions = frames.draw_steps(4000, np.random.default_rng(0))
    expected = dict(zip(*reversed(whole.draw_steps(4000, np.random.default_rng(1))), strict=True))
    assert set(actions.tolist()) == set(expected)
    assert len(expected) == ENVS * min(steps, capacity)
    for observation, action in zip(observations, actions.tolist(), strict=True):
        np.testing.assert_array_equal(observation, expected[action])


def test_unstacked():
    image = IMAGES[0]
    frames, _ = records(image, 50, 40)
    clips = frames.sample(20, 4, 0, np.random.default_rng(0))
    np.testing.assert_array_equal(unstacked(stacked(clips.observations, 3), image), clips.observations)
    with pytest.raises(InputError, match="an image has shape"):
        unstacked(clips.observations, image)


def test_clips_own_their_frames():
    frames, _ = records(IMAGES[0], 200, 100)
    clips = frames.sample(4, 3, 2, np.random.default_rng(0))
    queue = queue_of(IMAGES[0], 3, 2, 10)
    queue.append(clips, clips, np.ones(4), 0)
    record = frames.get_state()["observations"]
    for array in (clips.observations, queue.arrays()["observations"]):
        assert not np.shares_memory(array, record)
        # Nor is it a small view of something large.
        assert array.base is None or array.base.nbytes == array.nbytes


def test_the_record_is_no_larger_than_its_frames():
    image = ImageSpec(8, 8, 1, 4)
    record = Trajectories(ENVS, 50, image.shape, (), image=image)
    assert record.get_state()["observations"].nbytes == (50 + 3) * ENVS * 64


def test_round_trip():
    image = IMAGES[1]
    record, _ = records(image, 70, 20)
    other, _ = records(image, 3, 20)
    other.set_state(record.get_state(), record.true_reward)
    ours, theirs = (each.sample(20, 2, 3, np.random.default_rng(1)) for each in (record, other))
    for name in ("observations", "actions", "valid"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_wrong_shapes_at_birth():
    image, shape = ImageSpec(84, 84, 3), (3, 84, 84)
    with pytest.raises(InputError, match="channels × height × width instead of"):
        Trajectories(ENVS, 10, shape, (), image=image)
    with pytest.raises(InputError, match="channels × height × width instead of"):
        ComparisonQueue(10, 3, 0, shape, (), image=image)


# ---- the queue ----------------------------------------------------------------------------------

HORIZON, FURTHER = 3, 2


def queue_of(image, horizon, further, capacity):
    return ComparisonQueue(capacity, horizon, further, image.shape, (), action_dtype=np.int32, image=image)


def filled_queue(image, capacity=5, counts=(2, 3, 1, 7, 2)):
    rng, queue, reference = np.random.default_rng(0), queue_of(image, HORIZON, FURTHER, capacity), []
    record, _ = records(image, 120, 60)
    for step, count in enumerate(counts):
        first, second = (record.sample(count, HORIZON, FURTHER, rng) for _ in range(2))
        label = rng.choice([0.0, 0.5, 1.0, np.nan], size=count)
        queue.append(first, second, label, step)
        for i in np.flatnonzero(~np.isnan(label)):
            pair = {
                name: np.stack([getattr(clips, name)[i] for clips in (first, second)])
                for name in ("observations", "actions", "valid")
            }
            reference.append({**pair, "label": label[i], "step": step})
    return queue, reference


@pytest.mark.parametrize("image", IMAGES, ids=str)
@pytest.mark.parametrize("capacity", [1, 5, 100])
def test_queue_is_a_ring(image, capacity):
    queue, reference = filled_queue(image, capacity)
    arrays = queue.arrays()
    assert arrays["observations"].dtype == np.uint8 and arrays["actions"].dtype == np.int32
    assert queue.total == len(reference) and len(queue) == min(capacity, len(reference))
    for index, row in list(enumerate(reference))[-capacity:]:
        for name, value in row.items():
            np.testing.assert_array_equal(arrays[name][index % capacity], value)


def test_queue_round_trip():
    queue, _ = filled_queue(IMAGES[0])
    other = queue_of(IMAGES[0], HORIZON, FURTHER, 5)
    other.set_state(queue.get_state())
    for name, array in queue.get_state().items():
        np.testing.assert_array_equal(other.get_state()[name], array)


def test_queue_takes_frames_only():
    image = IMAGES[0]
    queue, (record, _) = queue_of(image, HORIZON, FURTHER, 5), records(image, 50, 40)
    clips = record.sample(2, HORIZON, FURTHER, np.random.default_rng(0))
    whole = stacked(clips.observations, image.stack)
    for observations in (whole, clips.observations.astype(np.float32)):
        wrong = Clips(observations, clips.actions, clips.valid, clips.true_reward)
        with pytest.raises(InputError, match=r"pass unstacked\(observations, image\)"):
            queue.append(clips, wrong, np.ones(2), 0)
    assert len(queue) == 0


@pytest.mark.parametrize("image", IMAGES, ids=str)
@pytest.mark.parametrize("counts", [(), (2, 3, 1, 7, 2), (300,)], ids=["nothing", "some", "several-pieces"])
def test_parquet(tmp_path, image, counts):
    capacity = 5 if counts != (300,) else 150
    queue, reference = filled_queue(image, capacity, counts)
    queue.write_parquet(tmp_path / "comparisons.parquet")
    table, kept = pl.read_parquet(tmp_path / "comparisons.parquet"), reference[-capacity:]
    assert table["step"].to_list() == [row["step"] for row in kept]
    assert table["label"].to_list() == [row["label"] for row in kept]
    for side, word in enumerate(("first", "second")):
        assert table[f"{word}_observations"].dtype == pl.Binary
        assert table[f"{word}_actions"].dtype == pl.List(pl.Float32)
        stored = [np.frombuffer(row, np.uint8) for row in table[f"{word}_observations"]]
        for frames, actions, row in zip(stored, table[f"{word}_actions"], kept, strict=True):
            expected = row["observations"][side, : image.stack - 1 + HORIZON]
            np.testing.assert_array_equal(frames.reshape(expected.shape), expected)
            assert actions.to_list() == row["actions"][side, :HORIZON].tolist()
    assert not [name for name in table.columns if "reward" in name]
