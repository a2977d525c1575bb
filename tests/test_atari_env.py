"""Atari games: two backends, one game; chance that can be forked; what a clip must not show."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from rewardsmith._core import ImageSpec, InputError, TrueRewardReader, stacked
from rewardsmith.envs import EnvOptions, fork, hidden_boxes, hide, make, parse_boxes, visible_mask
from rewardsmith.envs._atari import Emulator, register
from rewardsmith.envs.single import layers, make_single

ale_py = pytest.importorskip("ale_py")
READ = TrueRewardReader.EVALUATOR
NO_CHANCE = EnvOptions(noop_max=0, repeat_action_probability=0.0)


@pytest.fixture(autouse=True)
def brief_game():
    """BeamRider with episodes of 300 steps."""
    register()
    settings = {"game": "beam_rider", "frameskip": 4, "max_num_frames_per_episode": 1200}
    gymnasium.register("ALE/BriefBeamRider-v5", "ale_py.env:AtariEnv", kwargs=settings)
    yield
    del gymnasium.registry["ALE/BriefBeamRider-v5"]


def shown(result):
    return [*result[:2], result.reward.reveal(READ), *result[3:]]


def assert_same(ours, theirs):
    for mine, other in zip(shown(ours), shown(theirs), strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(
    "env_id, steps, life, ending",
    [
        ("ALE/BriefBeamRider-v5", 1000, False, "truncated"),
        ("ALE/Breakout-v5", 1000, False, "terminated"),
        ("ALE/Qbert-v5", 300, True, "terminated"),
    ],
)
def test_both_backends_play_the_same_game(env_id, steps, life, ending):
    options = EnvOptions(noop_max=0, repeat_action_probability=0.0, episodic_life=life)
    one, two = make(env_id, 2, "ale", options=options), make(env_id, 2, "gymnasium", options=options)
    np.testing.assert_array_equal(one.reset(3), two.reset(3))
    assert one.spec.image == two.spec.image == ImageSpec(84, 84, 1, 4)
    assert one.spec.max_episode_steps == two.spec.max_episode_steps
    ends = paid = 0
    for action in np.random.default_rng(0).integers(one.spec.num_actions, size=(steps, 2)):
        ours, theirs = one.step(action), two.step(action)
        assert_same(ours, theirs)
        ends += getattr(ours, ending).sum()
        paid += np.abs(ours.reward.reveal(READ)).sum()
    assert ends >= 4 and paid > 0


@pytest.mark.parametrize("backend", ["ale", "gymnasium"])
def test_the_frames_of_an_observation(backend):
    """Oldest first, the first frame for those before it; also of the final observation and behind an end."""
    env = make("ALE/BriefBeamRider-v5", 2, backend)
    seen = env.reset(0)
    assert seen.shape == (2, 84, 84, 4) and seen.dtype == np.uint8
    actions = np.random.default_rng(1).integers(9, size=(304, 2))
    observations, ends = [seen], []
    for action in actions:
        result = env.step(action)
        observations.append(result.next_observation)
        if result.truncated.any():
            assert result.truncated.all() and not result.terminated.any()
            ends.append(len(observations))
            observations.append(result.observation)
    assert ends == [301]
    episodes = [np.stack(observations[:301]), np.stack(observations[301:])]
    for episode in episodes:
        frames = episode[..., -1:]
        padded = np.concatenate([frames[:1]] * 3 + [frames]).swapaxes(0, 1)
        np.testing.assert_array_equal(stacked(padded, 4).swapaxes(0, 1), episode)
    assert (episodes[0][-1, ..., -1] != episodes[0][-2, ..., -1]).any(), "the last step is seen"


@pytest.mark.parametrize("backend", ["ale", "gymnasium"])
def test_a_copy_depends_on_the_seed_and_its_number_alone(backend):
    two, one = make("ALE/Breakout-v5", 2, backend), make("ALE/Breakout-v5", 1, backend)
    actions = np.random.default_rng(0).integers(4, size=(150, 2))
    np.testing.assert_array_equal(two.reset(8)[:1], one.reset(8))
    for action in actions:
        ours, alone = two.step(action), one.step(action[:1])
        np.testing.assert_array_equal(ours.observation[:1], alone.observation)
    before = ours.observation
    two.reset(9)
    for action in actions:
        other = two.step(action).observation
    assert (other != before).any()


def test_rewards_are_clipped_where_asked_only():
    plain = make("ALE/BeamRider-v5", 1, "gymnasium", options=NO_CHANCE)
    options = EnvOptions(noop_max=0, repeat_action_probability=0.0, clip_rewards=True, frame_stack=1)
    clipped = [make("ALE/BeamRider-v5", 1, backend, options=options) for backend in ("ale", "gymnasium")]
    for env in (plain, *clipped):
        env.reset(0)
    paid, cut = [], []
    for action in np.random.default_rng(2).integers(9, size=(300, 1)):
        expected = plain.step(action)
        paid.append(float(expected.reward.reveal(READ)[0]))
        for env in clipped:
            result = env.step(action)
            assert result.observation.shape == (1, 84, 84, 1)
            np.testing.assert_array_equal(result.observation, expected.observation[..., -1:])
            cut.append(float(result.reward.reveal(READ)[0]))
    assert max(paid) == 44
    np.testing.assert_array_equal(np.repeat(np.sign(paid), 2), cut)


def test_frames_stick_as_often_as_asked():
    env = make_single("ALE/Pong-v5", EnvOptions(repeat_action_probability=0.3, noop_max=0))
    env.reset(seed=0)
    emulator = next(layer for layer in layers(env) if isinstance(layer, Emulator))
    taken = [emulator.step(t % 2) and emulator.last_action for t in range(1500)]
    # A frame that does what the one before did, though another action was asked for.
    stuck = np.mean([taken[t] != t % 2 and taken[t] == taken[t - 1] for t in range(1, 1500)])
    assert abs(np.mean(np.array(taken) != np.arange(1500) % 2) - 0.3 / 1.3) < 0.05
    assert stuck > 0.15
    assert EnvOptions().repeat_action_probability is None
    default = next(layer for layer in layers(make_single("ALE/Pong-v5")) if isinstance(layer, Emulator))
    assert default._sticky == 0.25


@pytest.mark.parametrize("env_id, game_actions", [("ALE/Breakout-v5", 4), ("ALE/BriefBeamRider-v5", 9)])
def test_restores_exactly_within_and_into_another(env_id, game_actions):
    env, other = make(env_id, 2), make(env_id, 2)
    assert env.restorable
    actions = np.random.default_rng(0).integers(game_actions, size=(330, 2))
    env.reset(4)
    for action in actions[:2]:
        env.step(action)
    state = env.get_state()
    assert {name: array.shape[0] for name, array in state.items()} == dict.fromkeys(state, 2)
    expected = [env.step(action) for action in actions]
    assert sum((result.terminated | result.truncated).sum() for result in expected) >= 2
    for target in (env, other):
        np.testing.assert_array_equal(target.set_state(state), state["observation"])
        for action, result in zip(actions, expected, strict=True):
            assert_same(target.step(action), result)


def test_forks_share_chance_by_stream_and_differ_without():
    env = make("ALE/Breakout-v5", 3)
    env.reset(0)
    fire = [env.step(np.ones(3, np.int64)) for _ in range(3)]
    states = {name: np.repeat(array[:1], 8, axis=0) for name, array in env.get_state().items()}

    def act(observation, streams, step):
        return np.full(len(observation), 2 + (step // 2) % 2)

    env.reset = None  # pyright: ignore (a seed would load every cartridge again)
    forked = fork(env, states, act, 12, seed=1, streams=np.repeat(np.arange(4), 2))
    np.testing.assert_array_equal(forked.observations[::2], forked.observations[1::2])
    np.testing.assert_array_equal(forked.observations[0, 0], fire[-1].observation[0])
    assert len({row.tobytes() for row in forked.observations[::2, -1]}) >= 3
    again = fork(env, states, act, 12, seed=1, streams=np.repeat(np.arange(4), 2))
    np.testing.assert_array_equal(again.observations, forked.observations)


@pytest.mark.parametrize(
    "env_id, backend, options, repair",
    [
        ("ALE/BeamRidr-v5", "auto", EnvOptions(), "did you mean ALE/BeamRider-v5"),
        ("ALE/BeamRidr-v5", "ale", EnvOptions(), "did you mean ALE/BeamRider-v5"),
        ("BeamRider-v9", "auto", EnvOptions(), "ALE/BeamRider-v5"),
        ("Hopper-v5", "ale", EnvOptions(), "no Atari game"),
        ("ALE/Pong-v5", "mujoco", EnvOptions(), "has no batch"),
        ("ALE/Pong-v5", "auto", EnvOptions(flatten_observations=True), "leave --flatten"),
    ],
)
def test_bad_names_say_what_to_do(env_id, backend, options, repair):
    with pytest.raises(InputError, match=repair) as caught:
        make(env_id, 1, backend, options=options)
    assert "\n" not in str(caught.value)


def test_what_the_fast_backend_cannot_do():
    env = make("ALE/Pong-v5", 1, "ale")
    assert not env.restorable
    for use in (lambda: env.get_state(), lambda: env.set_state({}), lambda: env.streams(0)):
        with pytest.raises(InputError, match="--backend gymnasium"):
            use()
    fresh = make("ALE/Pong-v5", 1, "ale")
    with pytest.raises(InputError, match="reset"):
        fresh.step(np.zeros(1, np.int64))


def test_nothing_is_printed():
    made = "[make('ALE/Pong-v5', 1, backend).reset(0) for backend in ('ale', 'gymnasium')]"
    code = f"from rewardsmith.envs import make; {made}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout + ran.stderr == ""


# ---- what a clip must not show ------------------------------------------------------------------


@pytest.mark.parametrize(
    "game, name, cells",
    [
        # Where the games keep score and lives, from ALE's own readers of them.
        ("beam_rider", "BeamRider", (9, 10, 11, 5)),
        ("pong", "Pong", (13, 14)),
        ("breakout", "Breakout", (76, 77, 57)),
        ("enduro", "Enduro", (43, 44)),
        ("qbert", "Qbert", (89, 90, 91, 8)),
        ("seaquest", "Seaquest", (56, 57, 58, 59)),
        ("space_invaders", "SpaceInvaders", (102, 104)),
    ],
)
def test_the_boxes_hide_score_and_lives_and_not_the_game(game, name, cells):
    emulator = ale_py.ALEInterface()
    emulator.setInt("random_seed", 0)
    emulator.loadROM(ale_py.roms.get_rom_path(game))
    emulator.reset_game()
    actions = emulator.getMinimalActionSet()
    for t in range(240):
        emulator.act(actions[(t // 9) % len(actions)])
    state = emulator.cloneState()

    def screens():
        return [emulator.act(0) * 0 + emulator.getScreenRGB().astype(int) for _ in range(6)]

    plain = screens()
    boxes = hidden_boxes(f"ALE/{name}-v5")
    mask = visible_mask(boxes, plain[0].shape[:2], *plain[0].shape[:2])
    differed = False
    for cell in cells:
        emulator.restoreState(state)
        emulator.setRAM(cell, int(emulator.getRAM()[cell]) ^ 2)
        for ours, theirs in zip(screens(), plain, strict=True):
            differed |= (ours != theirs).any()
            np.testing.assert_array_equal(hide(ours, mask), hide(theirs, mask))
    assert differed and mask.mean() > 0.7


def test_a_mask_at_another_size_hides_every_pixel_with_a_hidden_part():
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = rng.integers(3, 40, 2)
        top, left = rng.integers(0, 20), rng.integers(0, 15)
        box = (int(top), int(top + rng.integers(1, 10)), int(left), int(left + rng.integers(1, 8)))
        mask = visible_mask((box,), (30, 24), int(height), int(width))
        # Each pixel of the screen and of the picture, drawn on a grid as fine as both.
        fine = np.zeros((30 * height, 24 * width), bool)
        fine[box[0] * height : box[1] * height, box[2] * width : box[3] * width] = True
        touched = fine.reshape(height, 30, width, 24).any(axis=(1, 3))
        np.testing.assert_array_equal(mask, ~touched)
    frames = np.full((2, 5, 84, 84, 4), 7, np.uint8)
    hidden = hide(frames, visible_mask(hidden_boxes("ALE/Pong-v5"), (210, 160), 84, 84))
    assert (
        hidden.dtype == np.uint8 and (hidden[..., :9, :, :] == 0).all() and (hidden[..., 9:, :, :] == 7).all()
    )


def test_boxes_from_text():
    assert parse_boxes("0:21,0:160;190:210,5:160") == ((0, 21, 0, 160), (190, 210, 5, 160))
    for text, message in [("0:21", "no box"), ("5:5,0:2", "empty"), ("", "no box"), ("0:2,0:-3", "no box")]:
        with pytest.raises(InputError, match=message):
            parse_boxes(text)
    with pytest.raises(InputError, match="beyond the screen"):
        visible_mask(parse_boxes("0:211,0:160"), (210, 160), 84, 84)
    with pytest.raises(InputError, match="give boxes"):
        hidden_boxes("ALE/Tetris-v5")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"frame_stack": 0}, "frame_stack"),
        ({"noop_max": -1}, "noop_max"),
        ({"repeat_action_probability": 1.0}, "less than 1"),
    ],
)
def test_options_check_themselves(settings, message):
    with pytest.raises(InputError, match=message):
        EnvOptions(**settings)
