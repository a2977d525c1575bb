"""Clips in colour: the simulator plays them again from where they began."""

import imageio.v3 as imageio
import numpy as np
import pytest

from rewardsmith._core import InputError, stacked
from rewardsmith.envs import EnvOptions, clip_frames, film_clip, fork, hidden_boxes, make
from rewardsmith.envs._video import make_drawable
from rewardsmith.envs.clip_film import replay
from rewardsmith.preferences import Clips, Trajectories

pytest.importorskip("ale_py")
cv2 = pytest.importorskip("cv2")
GAME, LENGTH = "ALE/BeamRider-v5", 14

# imageio's reader leaves its pipes open when ffmpeg ends before it does.
leaky_reader = pytest.mark.filterwarnings("ignore:unclosed file <_io:ResourceWarning")


@pytest.fixture(scope="module")
def recorded():
    """A clip of the record of two games, its frames stored once, and the state before its first step."""
    env = make(GAME, 2)
    observation = env.reset(3)
    rng = np.random.default_rng(0)
    step_and_copy = np.zeros((2, 2), np.int64)
    record = Trajectories(
        2, 60, (84, 84, 4), (), np.uint8, np.int32, {"place": step_and_copy}, image=env.spec.image
    )
    states = []
    for step, action in enumerate(rng.integers(9, size=(60, 2))):
        states.append(env.get_state())
        result = env.step(action)
        ended = result.terminated | result.truncated
        place = np.array([[step, 0], [step, 1]])
        record.append(observation, action, ended, result.reward, {"place": place})
        observation = result.observation
    clips = record.sample(1, LENGTH, 0, rng)
    step, copy = clips.extras["place"][0, 0]
    return {name: array[copy] for name, array in states[step].items()}, clips


def test_the_nets_stacks_and_the_film_come_from_one_clip(recorded):
    row, clips = recorded
    assert isinstance(clips, Clips)
    wanted = stacked(clips.observations, clips.stack)[0]
    env = make_drawable(GAME, (1, 1))
    played = list(replay(GAME, env, row, clips.actions[0]))
    env.close()
    assert len(played) == LENGTH
    np.testing.assert_array_equal(row["observation"], wanted[0])
    np.testing.assert_array_equal([seen for seen, _ in played[:-1]], wanted[1:])

    frames = clip_frames(GAME, row, clips.actions[0])
    assert frames.shape == (LENGTH, 210, 160, 3) and frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, [frame for _, frame in played])
    assert (frames[0] != frames[-1]).any()
    assert (frames.max(axis=-1) != frames.min(axis=-1)).any(axis=(1, 2)).all(), "in colour"
    # Frame i shows what action i led to: step i + 1 of the stacks, in grey and smaller.
    shrunk = np.stack([cv2.resize(frame.max(axis=-1), (84, 84)) for frame in frames]).astype(float)
    newest = wanted[..., -1].astype(float)
    aligned = np.abs(shrunk[:-1] - newest[1:]).mean()
    assert 2 * aligned < np.abs(shrunk[:-1] - newest[:-1]).mean()


@leaky_reader
def test_the_film_of_a_clip(recorded, tmp_path):
    row, clips = recorded
    path = tmp_path / "films" / "clip.mp4"
    boxes = hidden_boxes(GAME)
    assert film_clip(GAME, row, clips.actions[0], path, boxes=boxes, pause=1.0) == path
    assert list(path.parent.iterdir()) == [path]
    meta = imageio.immeta(path, plugin="FFMPEG")
    assert meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p") and meta["fps"] == 15
    film = imageio.imread(path, plugin="FFMPEG").astype(int)
    expected = clip_frames(GAME, row, clips.actions[0], boxes=boxes).astype(int)
    assert len(film) == LENGTH + 15
    assert np.abs(film[:LENGTH] - expected).mean() < 4
    assert np.abs(film[LENGTH:] - expected[-1]).mean() < 4
    plain = clip_frames(GAME, row, clips.actions[0])
    for top, bottom, left, right in boxes:
        assert expected[:, top:bottom, left:right].max() == 0 < plain[:, top:bottom, left:right].max()
        inner = film[:, top + 4 : bottom - 4, left + 4 : right - 4]
        assert inner.size == 0 or inner.max() < 30
    # Yellow is the ship: red and green without blue.
    ship = film[0, 165:180]
    assert ((ship[..., 0] > 120) & (ship[..., 1] > 120) & (ship[..., 2] < 110)).sum() > 20


def test_a_fork_can_be_filmed_and_an_end_stands_still(recorded):
    row, _ = recorded
    env = make("ALE/Breakout-v5", 1)
    env.reset(0)

    def act(observation, streams, step):
        return np.ones(len(observation), np.int64)

    forked = fork(env, env.get_state(), act, 200, seed=2, keep_states=True)
    length = int(forked.valid[0].sum())
    assert length < 190, "five balls are soon lost"
    start = length - 10
    states = {name: array[0, start] for name, array in forked.states.items()}
    frames = clip_frames("ALE/Breakout-v5", states, forked.actions[0, start:])
    assert len(frames) == 200 - start
    assert (frames[9:] == frames[9]).all() and (frames[:9] != frames[9]).any()
    drawable = make_drawable("ALE/Breakout-v5", (1, 1))
    played = [seen for seen, _ in replay("ALE/Breakout-v5", drawable, states, forked.actions[0, start:])]
    drawable.close()
    np.testing.assert_array_equal(played[:9], forked.observations[0, start + 1 : start + 10])
    with pytest.raises(InputError, match="does not fit"):
        clip_frames("ALE/Breakout-v5", {**row, "screen": row["screen"][:5]}, forked.actions[0])


@leaky_reader
def test_clips_of_classic_control_take_the_learners_actions(tmp_path):
    env = make("Pendulum-v1", 2)
    env.reset(1)
    states = env.get_state()
    unit = np.linspace(-1, 1, 9, dtype=np.float32)[:, None]
    expected = [env.step(env.spec.from_unit(np.repeat(a[None], 2, 0))).observation[1] for a in unit]
    row = {name: array[1] for name, array in states.items()}
    drawable = make_drawable("Pendulum-v1", (1, 1))
    played = list(replay("Pendulum-v1", drawable, row, unit))
    drawable.close()
    np.testing.assert_array_equal([seen for seen, _ in played], expected)
    film_clip("Pendulum-v1", row, unit, tmp_path / "swing.mp4", pause=0.0)
    film = imageio.imread(tmp_path / "swing.mp4", plugin="FFMPEG").astype(int)
    assert len(film) == 9 and np.abs(film - [frame for _, frame in played]).mean() < 4


# Where nothing can draw, Gymnasium's half-made viewer complains when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_clips_of_the_batch():
    env = make("HalfCheetah-v5", 2)
    env.reset(0)
    row = {name: array[0] for name, array in env.get_state().items()}
    try:
        frames = clip_frames("HalfCheetah-v5", row, np.ones((4, 6), np.float32), size=(160, 120))
    except InputError as failure:
        assert "MUJOCO_GL" in str(failure)
        pytest.skip(str(failure))
    assert frames.shape == (4, 120, 160, 3) and (frames[0] != frames[-1]).any()


@pytest.mark.parametrize(
    "env_id, settings, message",
    [
        ("Blackjack-v1", {"options": EnvOptions(flatten_observations=True)}, "cannot be restored"),
        ("Pendulum-v1", {}, "does not fit"),
        ("Pendulum-v1", {"pause": -1.0}, "pause"),
    ],
)
def test_a_clip_that_cannot_be_filmed(env_id, settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        film_clip(env_id, {"elapsed": np.zeros(())}, np.zeros((3, 1)), tmp_path / "clip.mp4", **settings)
    assert list(tmp_path.iterdir()) == []


def test_the_floor_goes_on_wherever_a_robot_runs():
    env = make("HalfCheetah-v5", 1)
    env.reset(seed=0)
    row = {name: array[0] for name, array in env.get_state().items()}
    shown = []
    for metres in (0.0, 200.0, 200.6):
        moved = {name: array.copy() for name, array in row.items()}
        # Behind the time, the first of the positions.
        moved["physics"][1] += metres
        shown.append(clip_frames("HalfCheetah-v5", moved, np.zeros((1, 6), np.float32))[0])
    # The lower part of the picture: as lively 200 m away as at the start, and it tells how far it is.
    floors = [frame[-60:].astype(float) for frame in shown]
    assert floors[1].std() > 0.8 * floors[0].std() > 20
    assert abs(floors[2] - floors[1]).mean() > 10
