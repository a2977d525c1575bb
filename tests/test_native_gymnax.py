"""gymnax's tasks as native worlds, and those that Gymnasium has too held against it."""

import functools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith._core import InputError, TrueRewardReader
from rewardsmith.envs import EnvOptions, make
from rewardsmith.envs.native import NativeVectorEnv, advance, begin, make_native, rows

registration = pytest.importorskip("gymnax.registration")

READ = TrueRewardReader.EVALUATOR
# It fetches its pictures when it is made.
NAMES = [name for name in registration.registered_envs if name != "MNISTBandit-bsuite"]

# What Gymnasium's `state` holds, by the names of ours.
TWINS = {
    "Pendulum-v1": ("theta", "theta_dot"),
    "CartPole-v1": ("x", "x_dot", "theta", "theta_dot"),
    "MountainCar-v0": ("position", "velocity"),
    "MountainCarContinuous-v0": ("position", "velocity"),
    "Acrobot-v1": ("joint_angle1", "joint_angle2", "velocity_1", "velocity_2"),
}
LEFT_WALL = np.float32(-1.2)


def act(spec, observation, noise):
    """Mostly with the velocity, which is how the cars and the acrobot get up; else anything."""
    forward = observation[-1] > 0
    if spec.num_actions is None:
        return spec.from_unit([1.0 if forward else -1.0] if noise > -0.4 else [noise])
    return np.int64((spec.num_actions - 1) * forward if noise > -0.4 else abs(noise) * spec.num_actions)


def put(theirs, ours):
    """Gymnasium's environment into the physical state of ours."""
    state, parts = ours.get_state(), TWINS[theirs.spec.id]
    theirs.unwrapped.state = np.array([state[f"state.{part}"][0] for part in parts], np.float64)


@pytest.mark.parametrize("name", TWINS)
def test_parity_with_gymnasium(name):
    """Through whole episodes, past ends and time limits; put right again every 20 steps, for chaos's sake."""
    ours = make(f"gymnax/{name}", 1)
    theirs = gymnasium.make(name, disable_env_checker=True)
    assert ours.spec.max_episode_steps == theirs.spec.max_episode_steps
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    observation = ours.reset(seed=0)[0]
    theirs.reset(seed=0)
    ends = {"terminated": 0, "truncated": 0}
    for step, noise in enumerate(np.random.default_rng(0).uniform(-1, 1, 420)):
        if step % 20 == 0 or observation[0] == LEFT_WALL:
            put(theirs, ours)
        action = act(ours.spec, observation, noise)
        result = ours.step(action[None])
        seen, reward, terminated, truncated, _ = theirs.step(action)
        if name == "MountainCarContinuous-v0" and seen[0] == LEFT_WALL:
            seen[1] = result.next_observation[0, 1]
        close(result.next_observation[0], seen)
        close(result.reward.reveal(READ)[0], reward)
        assert (result.terminated[0], result.truncated[0]) == (terminated, truncated and not terminated)
        ends["terminated"] += terminated
        ends["truncated"] += truncated
        observation = result.observation[0]
        if terminated or truncated:
            theirs.reset()
            put(theirs, ours)
    theirs.close()
    assert (ends["terminated"] > 0) == ours.spec.can_terminate
    assert ends["truncated"] > 0 or name != "Pendulum-v1"


def test_where_gymnax_departs_from_gymnasium():
    """The docs say so: its continuous car keeps its speed at the left wall, Gymnasium's loses it."""
    ours = make("gymnax/MountainCarContinuous-v0", 1)
    ours.reset(0)
    near = {"state.position": np.array([-1.19]), "state.velocity": np.array([-0.06])}
    ours.set_state(ours.get_state() | near)
    theirs = gymnasium.make("MountainCarContinuous-v0", disable_env_checker=True)
    theirs.reset(seed=0)
    put(theirs, ours)
    push = np.array([-1.0], np.float32)
    seen, *_ = theirs.step(push)
    observation = ours.step(push[None]).observation[0]
    assert observation[0] == seen[0] == LEFT_WALL and seen[1] == 0 and observation[1] < -0.05


@functools.cache
def flat(name):
    return make_native(f"gymnax/{name}", flatten_observations=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_loop_can_carry_every_task(name):
    env = flat(name)
    worlds = jax.eval_shape(lambda: begin(env, 0, 3))
    action = jax.ShapeDtypeStruct(
        (3, *env.spec.action_shape), jnp.int32 if env.spec.num_actions else jnp.float32
    )
    after, step = jax.eval_shape(lambda w, a: advance(env, w, a), worlds, action)
    # Strictly: weak types would differ too.
    assert jax.tree.map(str, jax.tree.leaves(after)) == jax.tree.map(str, jax.tree.leaves(worlds))
    assert step.observation.shape == (3, *env.spec.observation_shape) and len(env.spec.observation_shape) == 1
    assert step.observation.dtype == np.float32 and step.reward.shape == (3,)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_known_of_ends_is_so(name):
    """`vmap` knows what depends on the state or the action: an end that does not cannot happen."""
    env = flat(name)
    worlds = jax.eval_shape(lambda: begin(env, 0, 3))
    action = jax.ShapeDtypeStruct(
        (3, *env.spec.action_shape), jnp.int32 if env.spec.num_actions else jnp.float32
    )
    ends = jax.vmap(lambda *args: env.step(*args).terminated, out_axes=None)
    depends = False
    try:
        jax.eval_shape(ends, worlds.state, action, worlds.key)
    except ValueError:
        depends = True
    # Each step of this bandit is its last.
    assert env.spec.can_terminate is (depends or name == "SimpleBandit-bsuite")


def test_vectors_of_what_is_no_vector():
    lake = NativeVectorEnv(flat("FrozenLake-misc"), 2)
    first = lake.reset(0)
    np.testing.assert_array_equal(first, np.eye(16, dtype=np.float32)[[0, 0]])
    assert (lake.step(np.array([1, 2])).next_observation.sum(axis=1) == 1).all()
    bricks = make("gymnax/Breakout-MinAtar", 2, options=EnvOptions(flatten_observations=True))
    assert bricks.reset(0).shape == (2, 400) and bricks.spec.num_actions == 3 and bricks.spec.image is None


def test_restore_is_exact_where_episodes_end():
    env, other = make("gymnax/CartPole-v1", 5), make("gymnax/CartPole-v1", 5, "native")
    actions = np.random.default_rng(1).integers(2, size=(80, 5))
    env.reset(seed=3)
    for action in actions[:30]:
        env.step(action)
    state = env.get_state()
    assert {"state.x", "state.theta_dot", "state.time", "observation", "elapsed", "rng"} < state.keys()
    expected = [env.step(action) for action in actions[30:]]
    assert any(result.terminated.any() for result in expected)
    for target in (other, env):
        target.set_state(state)
        for action, result in zip(actions[30:], expected, strict=True):
            again = target.step(action)
            np.testing.assert_array_equal(again.observation, result.observation)
            np.testing.assert_array_equal(again.terminated, result.terminated)
    for name, array in env.get_state().items():
        np.testing.assert_array_equal(array, other.get_state()[name], err_msg=name)


def test_a_program_is_compiled_once_for_all_copies_of_a_task():
    assert make_native("gymnax/Pendulum-v1") is make_native("gymnax/Pendulum-v1", flatten_observations=False)
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def program(env, worlds):
        traces.append(env)
        return advance(env, worlds, jnp.zeros((len(worlds.elapsed), 1)))

    for seed in range(3):
        env = make("gymnax/Pendulum-v1", 2)
        env.reset(seed)
        for _ in range(2):
            env.worlds, _ = program(env.env, env.worlds)
    assert len(traces) == 1 and rows(env.worlds)["elapsed"][0] == 2


@pytest.mark.parametrize(
    "env_id, message",
    [
        ("gymnax/Pendulm-v1", "did you mean gymnax/Pendulum-v1"),
        ("gymnax/pendulum-v1", "did you mean gymnax/Pendulum-v1"),
        ("gymnax/zzzz", "gymnax has Acrobot-v1, Asterix-MinAtar, "),
        ("gymnax/", "gymnax has Acrobot-v1"),
        ("gymnax/MNISTBandit-bsuite", "did you mean"),
        ("gymnax/Breakout-MinAtar", "10 × 10 × 4 numbers: give --flatten-observations"),
        ("gymnax/FrozenLake-misc", "an index: give --flatten-observations"),
    ],
)
def test_bad_names_say_what_to_do(env_id, message):
    with pytest.raises(InputError, match=message) as caught:
        make(env_id, 2)
    assert "\n" not in str(caught.value)


def test_other_ways_of_running_it_are_refused():
    for backend in ("mujoco", "gymnasium", "ale"):
        with pytest.raises(InputError, match="backend 'native' only"):
            make("gymnax/Pendulum-v1", 2, backend)
    with pytest.raises(InputError, match="frame_stack"):
        make("gymnax/Pendulum-v1", 2, options=EnvOptions(frame_stack=2))
    env = make("gymnax/Acrobot-v1", 2)
    env.reset(0)
    with pytest.raises(InputError, match="integer"):
        env.step(np.zeros(2))
    with pytest.raises(InputError, match=r"0 \.\. 2"):
        env.step(np.array([0, 3]))
    with pytest.raises(TypeError):
        np.asarray(env.step(np.array([0, 1])).reward)
