"""Environments with pictures of any layout, and with observations that are no arrays."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rewardsmith._core import ImageSpec, InputError
from rewardsmith.envs import EnvOptions, film, make

DISCRETE = spaces.Discrete(3)
CONTINUOUS = spaces.Box(-2, 2, (2,))


class Painted(gymnasium.Env):
    """Pictures whose pixel (row, column, channel) tells where it is and how many steps have passed."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, layout="hwc", dtype=np.uint8, shape=(6, 5, 3), action=DISCRETE, render_mode=None):
        self.layout, self.render_mode = layout, render_mode
        picture = painted(0, shape)
        high = 255 if dtype == np.uint8 else 1.0
        self.shape = shape
        self.observation_space = spaces.Box(0, high, self.see(picture).shape, dtype)
        self.action_space = action

    def see(self, picture):
        if self.layout == "chw":
            return picture.transpose(2, 0, 1)
        return picture[..., 0] if self.layout == "hw" else picture

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.see(painted(0, self.shape)), {}

    def step(self, action):
        self.steps += 1
        return self.see(painted(self.steps, self.shape)), 0.0, False, False, {}

    def render(self):
        return np.full((20, 21, 3), 20 * self.steps, np.uint8)


class Composite(gymnasium.Env):
    """A picture and a number."""

    def __init__(self, kind="dict"):
        parts = {"eye": spaces.Box(0, 255, (4, 4, 3), np.uint8), "speed": spaces.Box(-1, 1, (2,))}
        self.observation_space = spaces.Dict(parts) if kind == "dict" else spaces.Tuple(list(parts.values()))
        if kind == "sequence":
            self.observation_space = spaces.Sequence(DISCRETE)
        self.action_space = CONTINUOUS

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        parts = {"eye": np.full((4, 4, 3), 9, np.uint8), "speed": np.array([0.5, -0.5], np.float32)}
        is_dict = isinstance(self.observation_space, spaces.Dict)
        return parts if is_dict else tuple(parts.values()), {}

    def step(self, action):
        return self.reset()[0], 0.0, False, False, {}


def painted(steps, shape):
    row, column, channel = np.indices(shape)
    return (100 * channel + 10 * row + column + steps).astype(np.uint8)


MADE = {
    "Hwc-v0": (Painted, {}),
    "Chw-v0": (Painted, {"layout": "chw", "action": CONTINUOUS}),
    "Grey-v0": (Painted, {"layout": "hw", "shape": (6, 5, 1)}),
    "OneChannel-v0": (Painted, {"layout": "chw", "shape": (6, 5, 1)}),
    "Ambiguous-v0": (Painted, {"layout": "chw", "shape": (6, 3, 3)}),
    "ManyChannels-v0": (Painted, {"shape": (6, 5, 7)}),
    "Float-v0": (Painted, {"dtype": np.float32}),
    "Dict-v0": (Composite, {}),
    "Tuple-v0": (Composite, {"kind": "tuple"}),
    "Sequence-v0": (Composite, {"kind": "sequence"}),
}


@pytest.fixture(autouse=True)
def registered():
    for env_id, (kind, kwargs) in MADE.items():
        gymnasium.register(env_id, kind, kwargs=kwargs, max_episode_steps=5)
    yield
    for env_id in MADE:
        del gymnasium.registry[env_id]


@pytest.mark.parametrize(
    "env_id, layout, shape",
    [
        ("Hwc-v0", "auto", (6, 5, 3)),
        ("Chw-v0", "auto", (6, 5, 3)),
        ("Grey-v0", "auto", (6, 5, 1)),
        ("OneChannel-v0", "auto", (6, 5, 1)),
        ("Ambiguous-v0", "chw", (6, 3, 3)),
        ("ManyChannels-v0", "hwc", (6, 5, 7)),
    ],
)
@pytest.mark.parametrize("stack", [1, 3])
def test_every_layout_becomes_the_one_of_the_house(env_id, layout, shape, stack):
    env = make(env_id, 2, options=EnvOptions(image_layout=layout, frame_stack=stack))
    assert env.spec.image == ImageSpec(*shape, stack)
    assert env.spec.observation_shape == env.spec.image.shape and not env.restorable
    assert env.spec.max_episode_steps == 5
    continuous = env.spec.num_actions is None
    action = np.zeros((2, 2)) if continuous else np.zeros(2, np.int64)

    def expected(steps):
        return np.concatenate([painted(max(0, steps - k), shape) for k in reversed(range(stack))], axis=-1)

    observation = env.reset(0)
    for steps in range(1, 8):
        # Episodes have five steps.
        before, now = (steps - 1) % 5, (steps - 1) % 5 + 1
        assert observation.dtype == np.uint8
        np.testing.assert_array_equal(observation, [expected(before)] * 2)
        result = env.step(action)
        np.testing.assert_array_equal(result.next_observation, [expected(now)] * 2)
        assert (result.truncated == (now == 5)).all()
        observation = result.observation


@pytest.mark.parametrize(
    "env_id, options, repair",
    [
        ("Ambiguous-v0", EnvOptions(), "--image-layout hwc or --image-layout chw"),
        ("ManyChannels-v0", EnvOptions(), "--image-layout hwc or --image-layout chw"),
        ("Float-v0", EnvOptions(), "pictures of float32, only uint8"),
        ("Dict-v0", EnvOptions(), "observes a Dict, only Box is understood: give --flatten-observations"),
        ("Tuple-v0", EnvOptions(), "observes a Tuple, only Box is understood: give --flatten-observations"),
        ("Sequence-v0", EnvOptions(flatten_observations=True), "cannot be made one vector"),
        ("Pendulum-v1", EnvOptions(frame_stack=4), "no pictures"),
    ],
)
def test_what_is_not_understood_says_what_to_do(env_id, options, repair):
    with pytest.raises(InputError, match=repair) as caught:
        make(env_id, 2, options=options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("env_id", ["Dict-v0", "Tuple-v0"])
def test_composite_observations_become_one_vector(env_id):
    env = make(env_id, 2, options=EnvOptions(flatten_observations=True))
    assert env.spec.observation_shape == (50,) and env.spec.image is None and not env.restorable
    seen = env.reset(0)
    assert np.issubdtype(seen.dtype, np.floating) and env.spec.observation_dtype == seen.dtype
    np.testing.assert_allclose(seen, [[9.0] * 48 + [0.5, -0.5]] * 2)
    np.testing.assert_allclose(env.step(np.zeros((2, 2))).next_observation, seen)


def test_pictures_become_one_vector_of_floats_and_vectors_stay_as_they_are():
    options = EnvOptions(flatten_observations=True)
    env = make("Hwc-v0", 1, options=options)
    seen = env.reset(0)
    assert seen.dtype == np.float32 and env.spec.image is None
    np.testing.assert_array_equal(seen[0], painted(0, (6, 5, 3)).ravel())
    plain, flat = make("Pendulum-v1", 2), make("Pendulum-v1", 2, options=options)
    np.testing.assert_array_equal(plain.reset(1), flat.reset(1))
    assert flat.restorable and plain.spec.image is None


def test_settings_that_a_batch_does_not_know():
    clipped = make("HalfCheetah-v5", 1, options=EnvOptions(clip_rewards=True))
    assert type(clipped).__name__ == "GymnasiumEnv"
    with pytest.raises(InputError, match="backend='gymnasium'"):
        make("HalfCheetah-v5", 1, "mujoco", options=EnvOptions(clip_rewards=True))


# imageio's reader leaves its pipes open when ffmpeg ends before it does.
@pytest.mark.filterwarnings("ignore:unclosed file <_io:ResourceWarning")
def test_a_film_acts_on_pictures_of_the_house(tmp_path):
    shapes = []

    def act(observation):
        shapes.append(observation.shape)
        return np.zeros(2)

    film("Chw-v0", act, tmp_path / "film.mp4", seed=0, options=EnvOptions(frame_stack=2))
    assert shapes == [(6, 5, 6)] * 5
