"""The replay of frames against a plain one that stores whole stacks."""

import jax
import numpy as np
import pytest

from rewardsmith._core import ImageSpec, InputError
from rewardsmith._core.serialise import load_tree, save_tree
from rewardsmith.agents.frame_replay import FrameReplay

ENVS = 3
IMAGE = ImageSpec(3, 2, 2, 3)


class Player:
    """Environments whose frames are noise and whose episodes end at random."""

    def __init__(self, image=IMAGE, seed=0, ends=0.2):
        self.image, self.rng, self.ends, self.count = image, np.random.default_rng(seed), ends, 0
        self.observation = self.first()

    def frame(self):
        return self.rng.integers(0, 256, (ENVS, *self.image.frame_shape), np.uint8)

    def first(self):
        return np.concatenate([self.frame()] * self.image.stack, axis=-1)

    def step(self):
        """What `add` takes; the action says which step of which environment it is."""
        action = ENVS * self.count + np.arange(ENVS)
        following = np.concatenate([self.observation[..., self.image.channels :], self.frame()], axis=-1)
        terminated, truncated = self.rng.random((2, ENVS)) < self.ends / 2
        truncated &= ~terminated
        taken = (self.observation, action, following, terminated, truncated, action / 8)
        ended = (terminated | truncated)[:, None, None, None]
        self.observation, self.count = np.where(ended, self.first(), following), self.count + 1
        return taken

    def reset(self):
        self.observation = self.first()


class Plain:
    """The last `rows` frames of each environment: number of the episode, of the step if any, and age."""

    def __init__(self, rows, stack):
        self.rows, self.stack, self.episode = rows, stack, 0
        self.lists = [[] for _ in range(ENVS)]
        self.steps, self.open = {}, [False] * ENVS

    def add(self, observation, action, following, terminated, truncated, reward):
        for env, held in enumerate(self.lists):
            if not self.open[env]:
                self.episode += 1
                held.append([self.episode, None, 0])
            held[-1][1] = number = int(action[env])
            self.steps[number] = (observation[env], following[env], terminated[env], reward[env])
            held.append([held[-1][0], None, held[-1][2] + 1])
            self.open[env] = not (terminated[env] or truncated[env])

    def cut(self):
        self.open = [False] * ENVS

    def reachable(self):
        found = set()
        for held in self.lists:
            kept = held[-self.rows :]
            for place, (_, number, age) in enumerate(kept):
                if number is not None and place >= min(age, self.stack - 1):
                    found.add(number)
        return found


def filled(steps, capacity, image=IMAGE, seed=0, ends=0.2, cuts=0.0, **options):
    replay = FrameReplay(capacity, ENVS, image, (), np.int32, with_true_reward=True, **options)
    player, plain = Player(image, seed, ends), Plain(capacity // ENVS, image.stack)
    for _ in range(steps):
        taken = player.step()
        replay.add(*taken)
        plain.add(*taken)
        if player.rng.random() < cuts:
            player.reset()
            replay.cut()
            plain.cut()
    return replay, plain, player


@pytest.mark.parametrize("image", [IMAGE, ImageSpec(2, 3, 1, 4), ImageSpec(3, 3, 3, 1)], ids=str)
@pytest.mark.parametrize(
    ("steps", "capacity", "ends", "cuts"),
    [(1, 60, 0.0, 0.0), (12, 90, 0.2, 0.0), (150, 64, 0.2, 0.1), (150, 62, 0.02, 0.0), (90, 60, 1.0, 0.0)],
    ids=["one", "not-full", "cuts", "long-episodes", "short-episodes"],
)
def test_every_transition_is_right_and_every_one_is_drawn(image, steps, capacity, ends, cuts):
    for seed in range(4):
        replay, plain, _ = filled(steps, capacity, image, seed, ends, cuts)
        reachable = plain.reachable()
        assert replay.size == len(reachable)
        drawn = jax.device_get(replay.draw(3000, np.random.default_rng(seed)))
        assert drawn.observation.shape == (3000, *image.shape) and drawn.observation.dtype == np.uint8
        assert drawn.action.dtype == np.int32
        assert set(drawn.action.tolist()) == reachable
        columns = (drawn.observation, drawn.next_observation, drawn.terminated, drawn.true_reward)
        for number, *values in zip(drawn.action.tolist(), *columns, strict=True):
            for value, expected in zip(values, plain.steps[number], strict=True):
                np.testing.assert_array_equal(value, expected)


def test_size_at_every_step():
    replay = FrameReplay(ENVS * 7, ENVS, IMAGE, (), np.int32, with_true_reward=True)
    player, plain = Player(), Plain(7, IMAGE.stack)
    assert replay.size == 0
    for _ in range(60):
        taken = player.step()
        replay.add(*taken)
        plain.add(*taken)
        assert replay.size == len(plain.reachable())


def test_draws_are_uniform():
    replay, plain, _ = filled(50, 75)
    actions = np.asarray(replay.draw(20_000, np.random.default_rng(0)).action)
    counts = np.unique(actions, return_counts=True)[1]
    mean = 20_000 / len(plain.reachable())
    assert abs(counts - mean).max() < 5 * np.sqrt(mean)


def test_the_smallest_replay_has_the_newest_step():
    replay, _, player = filled(40, ENVS * (IMAGE.stack + 1), ends=0.0)
    assert replay.size == ENVS
    assert set(np.asarray(replay.draw(100, np.random.default_rng(0)).action) // ENVS) == {player.count - 1}


def test_shapes_and_vector_actions():
    replay = FrameReplay(30, 1, IMAGE, (2,), np.float32)
    image = np.zeros((1, *IMAGE.shape), np.uint8)
    replay.add(image, np.array([[0.5, -1.0]]), image, np.array([True]), np.array([False]))
    drawn = replay.draw((2, 5), np.random.default_rng(0))
    assert drawn.observation.shape == drawn.next_observation.shape == (2, 5, *IMAGE.shape)
    assert drawn.terminated.shape == (2, 5) and bool(drawn.terminated.all())
    assert drawn.true_reward is None and "true_reward" not in replay.get_state()
    np.testing.assert_array_equal(drawn.action, np.broadcast_to(np.array([0.5, -1.0]), (2, 5, 2)))


def same(first, second):
    for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("adopt", [False, True])
@pytest.mark.parametrize("on_disk", [False, True])
def test_goes_on_bit_for_bit(tmp_path, adopt, on_disk):
    folder = {"folder": tmp_path / "frames"} if on_disk else {}
    replay, _, player = filled(40, 64, cuts=0.1)
    save_tree(tmp_path / "state.safetensors", replay.get_state())
    other = FrameReplay(64, ENVS, IMAGE, (), np.int32, with_true_reward=True, **folder)
    other.set_state(load_tree(tmp_path / "state.safetensors", other.get_state()), adopt=adopt)
    for _ in range(30):
        taken = player.step()
        for each in (replay, other):
            each.add(*taken)
    same(replay.get_state(), other.get_state())
    same(*(each.draw((4, 8), np.random.default_rng(5)) for each in (replay, other)))
    # What lies on disk stays there.
    stored = np.fromfile(folder["folder"] / "replay-frames.bin", np.uint8) if on_disk else None
    assert stored is None or np.array_equal(stored, replay.get_state()["frames"].ravel())


def test_set_state_copies_unless_told():
    replay, _, player = filled(20, 64)
    other = FrameReplay(64, ENVS, IMAGE, (), np.int32, with_true_reward=True)
    other.set_state(replay.get_state())
    before = {name: array.copy() for name, array in other.get_state().items()}
    replay.add(*player.step())
    same(before, other.get_state())
    other.set_state(replay.get_state(), adopt=True)
    assert other.get_state()["frames"] is replay.get_state()["frames"]


def test_a_file_holds_what_memory_holds(tmp_path):
    (tmp_path / "replay-frames.bin").write_bytes(b"old")
    kept, _, _ = filled(70, 64, folder=tmp_path)
    plain, _, _ = filled(70, 64)
    same(kept.get_state(), plain.get_state())
    same(*(each.draw(50, np.random.default_rng(1)) for each in (kept, plain)))
    stored = np.fromfile(tmp_path / "replay-frames.bin", np.uint8)
    np.testing.assert_array_equal(stored, plain.get_state()["frames"].ravel())
    assert kept.nbytes == plain.nbytes


def test_bytes():
    replay = FrameReplay(1000, ENVS, IMAGE, (), np.int32)
    frame, rest = 12, 4 + 1 + 1 + 4
    assert replay.capacity == 999
    assert replay.nbytes == 999 * (frame + rest) + ENVS * (8 + 1)


# ---- bad input ----------------------------------------------------------------------------------


def test_too_small():
    with pytest.raises(InputError, match="give 12 or more"):
        FrameReplay(11, ENVS, IMAGE, (), np.int32)
    with pytest.raises(InputError, match="num_envs is 0"):
        FrameReplay(11, 0, IMAGE, (), np.int32)
    FrameReplay(12, ENVS, IMAGE, (), np.int32)


def test_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot keep the replay in .*give another folder"):
        FrameReplay(30, ENVS, IMAGE, (), np.int32, folder=tmp_path / "file")


def test_empty():
    with pytest.raises(InputError, match="the replay is empty"):
        FrameReplay(30, ENVS, IMAGE, (), np.int32).draw(1, np.random.default_rng(0))


def test_what_does_not_fit():
    replay, _, player = filled(5, 64, ends=0.0)
    observation, action, following, *rest = player.step()
    with pytest.raises(InputError, match="uint8, not float32"):
        replay.add(observation.astype(np.float32), action, following, *rest)
    with pytest.raises(InputError, match="channels × height × width instead of"):
        replay.add(np.moveaxis(observation, -1, 1), action, following, *rest)
    with pytest.raises(InputError, match="does not fit"):
        FrameReplay(64, ENVS, IMAGE, (), np.int32).set_state(replay.get_state())
    with pytest.raises(InputError, match="with_true_reward=True"):
        replay.add(observation, action, following, *rest[:2])
    same(replay.get_state(), filled(5, 64, ends=0.0)[0].get_state())


def test_a_history_that_is_not_so_is_noticed():
    replay, _, player = filled(5, 64, ends=0.0)
    player.reset()
    with pytest.raises(InputError, match=r"call cut\(\) before a reset"):
        replay.add(*player.step())
    replay.cut()
    player.observation = np.zeros_like(player.observation)
    player.observation[..., -1] = 1
    with pytest.raises(InputError, match="fill the stack with the first frame"):
        replay.add(*player.step())
