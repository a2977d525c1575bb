"""Environments through Gymnasium, tables as environments, names, seals and films."""

import gc
import importlib

import gymnasium
import imageio.v3 as imageio
import numpy as np
import pytest
from gymnasium import spaces

from rewardsmith._core import InputError, TrueRewardReader
from rewardsmith.envs import GymnasiumEnv, TabularEnv, film, make

RESTORABLE = ["Pendulum-v1", "CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0", "Hopper-v5", "Ant-v5"]


class Strange(gymnasium.Env):
    """An environment of any spaces; counts its steps and ends when told to by its action."""

    def __init__(self, observation=None, action=None):
        self.observation_space = spaces.Box(-1, 1, (1,)) if observation is None else observation
        self.action_space = spaces.Discrete(3, start=5) if action is None else action
        self.received = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.received.append(action)
        return np.full(1, 0.1 * len(self.received), np.float32), 1.0, bool(action == 7), False, {}


UNBOUNDED = spaces.Box(-np.inf, np.inf, (2,))


@pytest.fixture(autouse=True)
def registered():
    made = {
        "Strange-v0": {"max_episode_steps": 4},
        "DictObservation-v0": {"kwargs": {"observation": spaces.Dict(a=spaces.Box(-1, 1, (1,)))}},
        "UnboundedAction-v0": {"kwargs": {"action": UNBOUNDED}},
        "TupleAction-v0": {"kwargs": {"action": spaces.Tuple([spaces.Discrete(2)])}},
    }
    for env_id, options in made.items():
        gymnasium.register(env_id, Strange, **options)
    yield
    for env_id in made:
        del gymnasium.registry[env_id]


def script(spec, count, num_envs, seed=0):
    rng = np.random.default_rng(seed)
    if spec.num_actions is not None:
        return rng.integers(spec.num_actions, size=(count, num_envs))
    return spec.from_unit(rng.uniform(-1, 1, (count, num_envs, *spec.action_shape)))


def record(env, actions):
    """Everything a run shows, as one list of arrays."""
    shown = []
    for action in actions:
        result = env.step(action)
        shown += [*result[:2], result.reward.reveal(TrueRewardReader.EVALUATOR), *result[3:]]
    return shown


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("env_id", RESTORABLE)
def test_gymnasium_restores_exactly_within_and_into_another(env_id):
    # Several, since a lost bit of precision shows in few of them.
    env, other = GymnasiumEnv(env_id, 6), GymnasiumEnv(env_id, 6)
    actions = script(env.spec, 80, 6)
    env.reset(seed=3)
    # At several depths, one right after a reset: some tasks change precision then.
    for depth in (0, 1, 30):
        record(env, actions[:depth])
        state = env.get_state()
        expected = record(env, actions[30:])
        for target in (env, other):
            observation = target.set_state(state)
            assert observation.dtype == env.spec.observation_dtype
            assert_same(record(target, actions[30:]), expected)
    env.close()
    other.close()


def test_same_seed_same_run():
    env = make("Pendulum-v1", 2)
    actions = script(env.spec, 210, 2)
    first, one = env.reset(seed=4), record(env, actions)
    again, two = env.reset(seed=4), record(env, actions)
    np.testing.assert_array_equal(first, again)
    assert_same(one, two)
    assert not np.array_equal(env.reset(seed=5), first)


def test_pendulum_truncates_and_starts_afresh():
    env = make("Pendulum-v1", 2)
    assert env.spec.can_terminate is False and env.spec.max_episode_steps == 200
    env.reset(seed=0)
    for action in script(env.spec, 199, 2):
        result = env.step(action)
        assert not (result.truncated | result.terminated).any()
        np.testing.assert_array_equal(result.observation, result.next_observation)
    result = env.step(np.zeros((2, 1)))
    assert result.truncated.all() and not result.terminated.any()
    assert (np.abs(result.observation[:, 2]) <= 1).all(), "speed of a start"
    assert (result.observation != result.next_observation).any(axis=1).all()
    state = env.get_state()
    np.testing.assert_array_equal(state["elapsed"], [0, 0])


@pytest.mark.parametrize("backend", ["mujoco", "gymnasium"])
def test_hopper_falls_and_starts_afresh(backend):
    env = make("Hopper-v5", 4, backend)
    env.reset(seed=0)
    ends = 0
    for action in script(env.spec, 100, 4):
        result = env.step(action)
        assert not (result.terminated & result.truncated).any()
        healthy = (result.next_observation[:, 0] > 0.7) & (np.abs(result.next_observation[:, 1]) < 0.2)
        np.testing.assert_array_equal(healthy, ~result.terminated)
        starts = result.observation[result.terminated]
        np.testing.assert_allclose(starts[:, 0], 1.25, atol=5e-3)
        np.testing.assert_allclose(starts[:, 1:], 0, atol=5e-3)
        going_on = ~result.terminated
        np.testing.assert_array_equal(result.observation[going_on], result.next_observation[going_on])
        ends += result.terminated.sum()
    assert ends >= 4


def test_termination_at_the_time_limit_is_no_truncation_and_discrete_actions_keep_their_numbering():
    env = make("Strange-v0", 2)
    assert not env.restorable and env.spec.can_terminate is None and env.spec.num_actions == 3
    env.reset(seed=0)
    for action in ([0, 1], [1, 0], [0, 0]):
        assert not env.step(np.array(action)).terminated.any()
    result = env.step(np.array([2, 0]))
    np.testing.assert_array_equal(result.terminated, [True, False])
    np.testing.assert_array_equal(result.truncated, [False, True])
    np.testing.assert_allclose(result.next_observation[:, 0], 0.4)
    np.testing.assert_array_equal(result.observation[:, 0], 0)
    assert env._envs[0].unwrapped.received == [5, 6, 5, 7]
    with pytest.raises(InputError, match="cannot be saved"):
        env.get_state()
    with pytest.raises(InputError, match=r"0 \.\. 2"):
        env.step(np.array([3, 0]))
    with pytest.raises(InputError, match="integer"):
        env.step(np.array([1.0, 0.0]))


def test_unit_actions_reach_both_bounds():
    env = make("InvertedPendulum-v5", 1)
    spec = env.spec
    np.testing.assert_array_equal(spec.from_unit([[-1.0], [0.0], [1.0], [2.0]])[:, 0], [-3, 0, 3, 3])
    assert spec.from_unit(np.zeros((5, 1))).dtype == np.float32
    with pytest.raises(InputError, match="discrete"):
        make("CartPole-v1", 1).spec.from_unit(np.zeros(1))


@pytest.mark.parametrize(
    "env_id, repair",
    [
        ("HalfCheeta-v5", "did you mean HalfCheetah-v5"),
        ("halfcheetah", "did you mean HalfCheetah-v5"),
        ("Pendulum-v99", "did you mean Pendulum-v1"),
        ("zzzz", "registered Gymnasium id"),
        ("no_such_module:Thing-v0", "no_such_module"),
        ("phys2d/CartPole-v99", "did you mean"),
        ("DictObservation-v0", "observes a Dict"),
        ("Blackjack-v1", "observes a Tuple"),
        ("UnboundedAction-v0", "unbounded"),
        ("TupleAction-v0", "Tuple"),
    ],
)
def test_bad_ids_say_what_to_do(env_id, repair):
    with pytest.raises(InputError, match=repair) as caught:
        make(env_id, 2)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named():
    def needs_more():
        raise gymnasium.error.DependencyNotInstalled("install\nbox3d")

    gymnasium.register("Needy-v0", needs_more)
    try:
        with pytest.raises(InputError, match="Needy-v0: install box3d"):
            make("Needy-v0", 1)
    finally:
        del gymnasium.registry["Needy-v0"]


def test_backend_must_exist():
    unchecked = getattr(make, "__wrapped__", make)
    with pytest.raises(InputError, match="backend"):
        unchecked("Hopper-v5", 1, "gpu")


@pytest.mark.parametrize("backend", ["mujoco", "gymnasium"])
def test_rewards_are_sealed(backend):
    env = make("HalfCheetah-v5", 2, backend)
    env.reset(seed=0)
    reward = env.step(np.zeros((2, 6))).reward
    for read in (float, np.asarray, sum, lambda r: r + 0.0):
        with pytest.raises(TypeError):
            read(reward)
    assert reward.shape == (2,)


def chain():
    """Three states; action 1 in state 0 is a fair choice of 1 and 2; state 2 is terminal."""
    transition = np.zeros((3, 2, 3))
    transition[0, 0] = [0.2, 0.8, 0.0]
    transition[0, 1] = [0.0, 0.5, 0.5]
    transition[1, :] = [0.1, 0.0, 0.9]
    return transition, np.array([0.75, 0.25, 0.0]), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def test_tabular_frequencies_match():
    transition, initial, rewards = chain()
    num_envs = 5000
    env = TabularEnv(transition, initial, rewards, num_envs, max_episode_steps=50)
    state = env.reset(seed=1)
    starts = np.bincount(state, minlength=3) / num_envs
    np.testing.assert_allclose(starts, initial, atol=0.03)
    rng = np.random.default_rng(0)
    counts = np.zeros((3, 2, 3))
    restarts = np.zeros(3)
    for _ in range(20):
        action = rng.integers(2, size=num_envs)
        result = env.step(action)
        np.testing.assert_array_equal(
            result.reward.reveal(TrueRewardReader.EVALUATOR), rewards[state, action]
        )
        np.testing.assert_array_equal(result.terminated, state == 2)
        moved = ~result.terminated
        np.add.at(counts, (state[moved], action[moved], result.next_observation[moved]), 1)
        np.testing.assert_array_equal(result.observation[moved], result.next_observation[moved])
        restarts += np.bincount(result.observation[result.terminated], minlength=3)
        state = result.observation
    assert counts[2].sum() == 0 and counts[:2].sum(axis=2).min() > 2000
    np.testing.assert_array_equal(counts[transition == 0], 0)
    np.testing.assert_allclose(counts[:2] / counts[:2].sum(axis=2, keepdims=True), transition[:2], atol=0.03)
    np.testing.assert_allclose(restarts / restarts.sum(), initial, atol=0.03)


def test_tabular_draws_any_number_of_states_and_no_impossible_one():
    rng = np.random.default_rng(0)
    for num_states in (1, 2, 5, 8, 33):
        rows = rng.random((num_states, num_states)) * (rng.random((num_states, num_states)) < 0.5)
        rows[:, 0] += 1e-3
        rows /= rows.sum(axis=1, keepdims=True)
        env = TabularEnv(rows[:, None], rows[0], np.zeros((num_states, 1)), 4000)
        state = env.reset(seed=0)
        frequency = np.zeros((num_states, num_states))
        for _ in range(10):
            after = env.step(np.zeros(4000, np.int64)).observation
            np.add.at(frequency, (state, after), 1)
            state = after
        assert (frequency[rows == 0] == 0).all()
        visited = frequency.sum(axis=1)
        # Five standard deviations of a frequency.
        bound = 5 * np.sqrt(rows * (1 - rows) / np.maximum(visited, 1)[:, None]) + 1e-12
        seen = visited > 0
        assert (np.abs(frequency / np.maximum(visited, 1)[:, None] - rows) <= bound)[seen].all()


def test_tabular_time_limit_restore_and_streams():
    transition, initial, rewards = chain()
    env = TabularEnv(transition, initial, rewards, 6, max_episode_steps=2)
    assert env.spec.can_terminate is True and env.spec.observation_shape == ()
    actions = np.random.default_rng(0).integers(2, size=(40, 6))
    env.reset(seed=7)
    record(env, actions[:5])
    state = env.get_state()
    expected = record(env, actions)
    truncated = np.array(expected[4::5])
    assert truncated.any() and not (truncated & np.array(expected[3::5])).any()
    assert (truncated.sum(axis=0) <= 20).all()
    other = TabularEnv(transition, initial, rewards, 6, max_episode_steps=2)
    for target in (env, other):
        target.set_state(state)
        assert_same(record(target, actions), expected)

    fewer = TabularEnv(transition, initial, rewards, 2, max_episode_steps=2)
    env.reset(seed=8)
    fewer.reset(seed=8)
    cut = [array[:2] for array in record(env, actions)]
    assert_same(record(fewer, actions[:, :2]), cut)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda p, i, r: (p * 0.5, i, r), "sum to 1"),
        (lambda p, i, r: (p, i * 2, r), "initial sums"),
        (lambda p, i, r: (p[:, :1], i, r), "disagree"),
        (lambda p, i, r: (p - 1, i, r), "negative"),
        (lambda p, i, r: (p, i, r * np.inf), "not finite"),
        (lambda p, i, r: (p, i[:2], r), r"pass \(3,\)"),
    ],
)
def test_tabular_refuses_what_is_no_process(spoil, message):
    with pytest.raises(InputError, match=message):
        TabularEnv(*spoil(*chain()), 2)


# imageio's reader leaves its pipes open when ffmpeg ends before it does.
leaky_reader = pytest.mark.filterwarnings("ignore:unclosed file <_io:ResourceWarning")


def readable(path):
    frames = imageio.imread(path, plugin="FFMPEG")
    meta = imageio.immeta(path, plugin="FFMPEG")
    assert meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p")
    assert frames.std() > 1, "a picture, not one colour"
    return frames


@leaky_reader
def test_film_of_pendulum(tmp_path):
    path = tmp_path / "films" / "swing.mp4"
    seen = []

    def act(observation):
        seen.append(observation)
        return np.array([2.0])

    assert film("Pendulum-v1", act, path, seed=3, max_steps=12) == path
    assert len(readable(path)) == 13 and len(seen) == 12
    np.testing.assert_array_equal(seen[0], make("Pendulum-v1", 2).reset(seed=3)[0])
    assert list(path.parent.iterdir()) == [path]


@leaky_reader
# Where nothing can draw, Gymnasium's half-made viewer complains when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_film_of_mujoco_ends_with_the_episode(tmp_path):
    path = tmp_path / "fall.mp4"
    failure = ""
    try:
        film("Hopper-v5", lambda _: np.array([0.0, 1.0, 1.0]), path, seed=0, max_steps=200, size=(161, 120))
    except InputError as error:
        failure = str(error)
    if failure:
        assert "MUJOCO_GL" in failure and list(tmp_path.iterdir()) == []
        gc.collect()
        pytest.skip(failure)
    frames = readable(path)
    assert frames.shape[1:] == (120, 160, 3) and 2 < len(frames) < 50


def test_film_that_cannot_be_made_leaves_the_old_one(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match="skip the film"):
        film("Strange-v0", lambda _: 0, path, seed=0)
    with pytest.raises(ZeroDivisionError):
        film("Pendulum-v1", lambda _: 1 // 0, path, seed=0)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_the_film_follows_a_robot_that_runs_away():
    # `rewardsmith.envs.film` is the function of that name.
    film_module = importlib.import_module("rewardsmith.envs.film")
    env = film_module._make_drawable("HalfCheetah-v5", (160, 120))
    with film_module._windowless():
        env.reset(seed=0)
        body = env.unwrapped
        pictures = []
        for distance in (0.0, 30.0):
            position = body.data.qpos.copy()
            position[0] = distance
            body.set_state(position, body.data.qvel.copy())
            pictures.append(film_module._draw("HalfCheetah-v5", env).astype(int))
        env.close()
    # The robot is the only thing that is brown; sky and floor are grey and green.
    brown = [int(((p[..., 0] > p[..., 1] + 10) & (p[..., 1] > p[..., 2] + 10)).sum()) for p in pictures]
    assert brown[0] > 50 and brown[1] > 50, brown
