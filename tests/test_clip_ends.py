"""Clips never cross the end of an episode, wherever they come from: each observation of these worlds says
which episode it is of, and which step of it. More worlds with REWARDSMITH_FUZZ=1."""

import contextlib
import itertools

import gymnasium
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, event, given
from hypothesis import settings as drawing
from safetensors.numpy import load_file

from rewardsmith._core import ImageSpec, InputError, TracedTrueReward, TrueReward, stacked
from rewardsmith.bilevel import Needs
from rewardsmith.envs import EnvSpec, StepResult, VectorEnv
from rewardsmith.envs.native import NativeEnv, NativeTransition, NativeVectorEnv
from rewardsmith.preferences import Clips, Oracle
from rewardsmith.runs.clip_arrays import clip_arrays, clips_from_arrays
from rewardsmith.runs.collect import Collector
from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.train import resume, train
from tests.fuzzing import LONG as FUZZ
from tests.left_behind import shared_programs
from tests.small_runs import killed_at, settings

COPIES, HORIZON = 3, 4
IMAGE = ImageSpec(1, 3, 1, 3)
# Room for as many episodes in one pixel as in three.
BYTE = 256


class Telling(VectorEnv):
    """Episodes of given lengths, each ended by the world or by the clock; sees (episode, step)."""

    episodes = itertools.count(1)
    restorable = True

    def __init__(self, num_envs, ends, limit, image=None):
        shape = (2,) if image is None else image.shape
        kind = np.dtype(np.float32 if image is None else np.uint8)
        bounds = np.full(1, -1.0, np.float32), np.full(1, 1.0, np.float32)
        self.spec = EnvSpec("Telling", shape, kind, (1,), *bounds, None, limit, None, image)
        self.num_envs, self.ends, self.image = num_envs, ends, image

    def reset(self, seed):
        self.state = {
            "rng": np.arange(seed, seed + self.num_envs, dtype=np.uint64)[:, None],
            "elapsed": np.zeros(self.num_envs, int),
            "age": np.zeros(self.num_envs, int),
            "episode": np.array([next(self.episodes) for _ in range(self.num_envs)]),
        }
        self.state["observation"] = self._first(self.state["episode"])
        return self.state["observation"].copy()

    def _frame(self, episode, age):
        if self.image is None:
            return np.stack([episode, age], axis=-1).astype(np.float32)
        return np.stack([episode // BYTE % BYTE, episode % BYTE, age], axis=-1).astype(np.uint8)[
            :, None, :, None
        ]

    def _first(self, episode):
        frame = self._frame(episode, np.zeros_like(episode))
        return frame if self.image is None else np.concatenate([frame] * self.image.stack, axis=-1)

    def step(self, action):
        self.spec.checked_actions(action, self.num_envs)
        state, many = self.state, self.num_envs
        length, by_itself = np.array([self.ends[episode % len(self.ends)] for episode in state["episode"]]).T
        age, elapsed = state["age"] + 1, state["elapsed"] + 1
        late = (
            np.zeros(many, bool)
            if self.spec.max_episode_steps is None
            else elapsed >= self.spec.max_episode_steps
        )
        over = age >= length
        terminated, truncated = over & (by_itself == 1), late | (over & (by_itself == 0))
        truncated &= ~terminated
        frame = self._frame(state["episode"], age)
        if self.image is not None:
            frame = np.concatenate([state["observation"][..., 1:], frame], axis=-1)
        after, ended = frame, terminated | truncated
        fresh = np.array(
            [next(self.episodes) if new else old for new, old in zip(ended, state["episode"], strict=True)]
        )
        shown = np.where(ended.reshape(-1, *[1] * (frame.ndim - 1)), self._first(fresh), after)
        self.state = {
            "rng": state["rng"] * np.uint64(3) + np.uint64(1),
            "elapsed": np.where(ended, 0, elapsed),
            "age": np.where(ended, 0, age),
            "episode": fresh,
            "observation": shown,
        }
        return StepResult(shown.copy(), after, TrueReward(np.ones(many)), terminated, truncated)

    def get_state(self):
        return {name: array.copy() for name, array in self.state.items()}

    def set_state(self, state):
        self.state = {name: np.array(array) for name, array in state.items()}
        return self.state["observation"].copy()

    def close(self):
        pass


def told(observations, image):
    """Episode and step (..., L) that observations (..., L, *o) tell, or of each frame (..., L, stack)."""
    if image is None:
        return observations[..., 0].astype(int), observations[..., 1].astype(int)
    high, low, age = (observations[..., 0, part, :].astype(int) for part in range(3))
    return high * BYTE + low, age


def check_stretch(observations, valid, image):
    """One episode and consecutive steps in the valid part of (L, *o), which has no hole."""
    count = int(valid.sum())
    assert valid[:count].all() and count > 0
    episode, age = told(observations[:count], image)
    if image is not None:
        # The frames before the first are it again.
        back = np.arange(IMAGE.stack)[::-1]
        newest = age[:, -1:]
        assert (age == np.maximum(newest - back, 0)).all()
        assert (episode == episode[:, -1:]).all()
        episode, age = episode[:, -1], age[:, -1]
    assert (episode == episode[0]).all() and (np.diff(age) == 1).all()
    return int(episode[0]), int(age[0])


def check_arrays(arrays, horizon, image):
    """All clips among arrays (n, ...), with the roll-outs that begin in them; which episodes they are of."""
    stack = 1 if image is None else image.stack
    seen = stacked(arrays["observations"], stack)
    for index, valid in enumerate(arrays["valid"]):
        assert valid[:horizon].all()
        episode, age = check_stretch(seen[index], valid, image)
        for branch, step in enumerate(arrays.get("branch_step", [[]] * len(seen))[index]):
            for which in range(2):
                rolled = stacked(arrays["branch_observations"][index, branch, which], stack)
                going = arrays["branch_valid"][index, branch, which]
                assert check_stretch(rolled, going, image) == (episode, age + step)


def check_clips(clips: Clips, image):
    plain = {name: getattr(clips, name) for name in ("observations", "actions", "valid")}
    check_arrays(plain | clips.extras, HORIZON, image)


@contextlib.contextmanager
def made_of(make):
    with pytest.MonkeyPatch.context() as patch:
        for module in ("train", "training", "collect"):
            patch.setattr(f"rewardsmith.runs.{module}.make_env", make)
        yield


ENDS = st.lists(st.tuples(st.integers(1, 14), st.integers(0, 1)), min_size=1, max_size=6)
EVENTS = st.lists(
    st.integers(1, 25) | st.sampled_from(["ask", "ask", "choose", "fresh", "cut", "resume"]),
    min_size=4,
    max_size=14,
)


@pytest.mark.parametrize("image", [None, IMAGE], ids=["vectors", "pictures"])
@drawing(max_examples=max(60, round(1000 * FUZZ)), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    ends=ENDS,
    limit=st.none() | st.integers(HORIZON + 5, 20),
    events=EVENTS,
    further=st.integers(0, 5),
    branches=st.integers(0, 2),
    policies=st.integers(1, 2),
    copies=st.integers(1, 3),
    fresh=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_clip_of_a_run_crosses_an_end(
    image, ends, limit, events, further, branches, policies, copies, fresh, seed
):
    copies *= policies
    needs = Needs(further=further, branches=branches, branch_length=3 * bool(branches), policies=policies)
    config = TrainConfig(
        env="Telling", clips="fresh" if fresh else "queue", clip_length=HORIZON, num_envs=copies, queue=12,
        comparisons=40, steps=400, leader_every=40, learning_starts=60,
    )  # fmt: skip

    def make(config, num_envs, **_):
        return Telling(num_envs, ends, limit, image)

    def begin():
        env = make(config, copies)
        env.reset(seed)
        return env, Collector(config, needs, env)

    def act(observation, streams, step):
        return np.zeros((len(observation), 1), np.float32)

    def choose(count, first, second):
        check_clips(first, image)
        check_clips(second, image)
        return rng.choice(len(first.valid), count)

    rng, asked = np.random.default_rng(seed), 0
    with made_of(make):
        env, collector = begin()
        observation = env.reset(seed)
        for what in (HORIZON + 8, *events, "ask"):
            if isinstance(what, int):
                for _ in range(what):
                    before = collector.before(env)
                    action = np.zeros((copies, 1), np.float32)
                    result = env.step(action)
                    ended = result.terminated | result.truncated
                    collector.append(observation, action, ended, result.reward, before)
                    observation = result.observation
            elif what == "cut":
                observation = env.reset(int(rng.integers(99)))
                collector.cut()
            elif what == "resume":
                there, state = env.get_state(), collector.get_state()
                env, collector = begin()
                observation = env.set_state(there)
                collector.set_state(state)
            elif what != "fresh" or fresh:
                # Of episodes that are all too short there is no clip, which is told.
                with contextlib.suppress(InputError):
                    pairs = collector.pairs(
                        3, act, rng, fresh=what == "fresh", choose=choose if what == "choose" else None
                    )
                    asked += len(pairs[0].valid)
                    for side in pairs:
                        check_clips(side, image)
                        kept = [clip_arrays(side, index, collector) for index in range(len(side.valid))]
                        if kept:
                            check_clips(clips_from_arrays(kept, collector), image)
                    labels = rng.choice([0.0, 1.0, np.nan], len(pairs[0].valid))
                    collector.put(*pairs, labels, step=0)
        held = len(collector.queue)
        for side in range(2):
            arrays = {n: a[:held, side] for n, a in collector.queue.arrays().items() if a.ndim > 1}
            check_arrays(arrays, HORIZON, image)
    event("clips" if asked else "no clips")
    assert asked or max(length for length, _ in ends) <= HORIZON + 2 or "cut" in events


@pytest.mark.parametrize("image", [None, IMAGE], ids=["vectors", "pictures"])
def test_a_session_whose_fresh_clips_all_end_too_early_asks_nothing(image):
    """From where it was clips were long enough; the policy of now does not last."""
    config = TrainConfig(
        env="Telling", clips="fresh", clip_length=HORIZON, num_envs=2, steps=400, learning_starts=60
    )  # fmt: skip
    with made_of(lambda config, num_envs, **_: Telling(num_envs, [(14, 1)], None, image)):
        env = Telling(2, [(14, 1)], None, image)
        observation, still = env.reset(0), np.zeros((2, 1), np.float32)
        collector = Collector(config, Needs(branches=1, branch_length=3), env)
        for _ in range(20):
            before, result = collector.before(env), env.step(still)
            ended = result.terminated | result.truncated
            collector.append(observation, still, ended, result.reward, before)
            observation = result.observation
        assert collector._forks is not None
        collector._forks.ends = [(1, 1)]
        *_, label = collector.ask(
            2, 80, Oracle(), lambda seen, *_: np.zeros((len(seen), 1), np.float32), np.random.default_rng(0),
            fresh=True,
        )  # fmt: skip
    assert len(label) == 0 and len(collector.queue) == 0


def test_a_clip_across_an_end_is_noticed():
    seen, valid = np.array([[[3, 5], [3, 6], [4, 0], [4, 1.0]]]), np.ones((1, 4), bool)
    with pytest.raises(AssertionError):
        check_arrays({"observations": seen, "valid": valid}, HORIZON, None)
    check_arrays({"observations": seen[:, :2], "valid": valid[:, :2]}, 2, None)


# ---- whole runs: the loop on the host with Gymnasium's own resets, and the compiled one -----------


class TellingEnv(gymnasium.Env):
    """The same as one of Gymnasium's, which cannot be restored, and whose seed says nothing."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    ends = [(20, 1)]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.age = next(Telling.episodes), 0
        return np.array([self.episode, 0], np.float32), {}

    def step(self, action):
        self.age += 1
        length, by_itself = self.ends[self.episode % len(self.ends)]
        over = self.age >= length
        seen = np.array([self.episode, self.age], np.float32)
        return seen, 1.0, bool(over and by_itself), bool(over and not by_itself), {}


class TellingWorld(NativeEnv):
    """The same in JAX; an episode's number is drawn."""

    spec = EnvSpec(
        "telling", (2,), np.dtype(np.float32), (1,), np.full(1, -1.0, np.float32),
        np.full(1, 1.0, np.float32), None, 16, True,
    )  # fmt: skip

    def reset(self, key):
        state = jnp.floor(jax.random.uniform(key) * 2.0**20), jnp.float32(0.0)
        return state, jnp.stack(state)

    def step(self, state, action, key):
        episode, age = state[0], state[1] + 1.0
        # Some end by themselves, earlier than by the clock.
        over = age >= 6.0 + episode % 19.0
        return NativeTransition((episode, age), jnp.stack([episode, age]), TracedTrueReward(age), over)


SMALL = {
    "steps": 320, "learning_starts": 80, "hidden": (8,), "leader_steps": 2, "leader_warmup_steps": 4,
    "snapshot_every": None, "checkpoint_every": 120, "clip_length": 5, "suffix_length": 6,
}  # fmt: skip


@pytest.fixture
def telling():
    gymnasium.register("Telling-v0", TellingEnv, max_episode_steps=18)
    yield
    gymnasium.registry.pop("Telling-v0")


def check_run(folder, config):
    """All comparisons of the last checkpoint, and that no transition leads into another episode."""
    arrays = load_file(RunFolder.open(folder).checkpoints()[-1])
    queue = {n.rpartition("['")[2][:-2]: a for n, a in arrays.items() if "queue" in n}
    held = min(int(queue["total"]), len(queue["label"]))
    assert held > 15
    for side in range(2):
        check_arrays(
            {n: queue[n][:held, side] for n in ("observations", "actions", "valid")}, config.clip_length, None
        )
    before, after = (
        next(a for n, a in arrays.items() if n.startswith("['replay']") and n.endswith(f".{part}"))
        for part in ("observation", "next_observation")
    )
    used = before[:, 0] > 0
    assert used.sum() > 200
    (here, age), (there, then) = (told(each[used], None) for each in (before, after))
    assert (here == there).all() and (then == age + 1).all()


@pytest.mark.usefixtures("compile_quickly")
def test_no_clip_of_a_run_that_dies_and_goes_on_crosses_an_end(tmp_path, telling):
    config = settings(**SMALL, env="Telling-v0", method="sobirl", estimator="suffix")
    count = itertools.count()

    @drawing(
        max_examples=max(2, round(20 * FUZZ)),
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(ENDS, st.integers(31, 79))
    def with_ends(ends, stop):
        TellingEnv.ends = [*ends, (12, 1), (17, 0)]
        out = tmp_path / str(next(count))
        with killed_at(4 * stop):
            train(config, out)
        resume(out)
        check_run(out, config)

    with shared_programs():
        with_ends()


@pytest.mark.usefixtures("compile_quickly")
def test_no_clip_of_a_compiled_loop_crosses_an_end(tmp_path):
    config = settings(**SMALL, env="Pendulum-v1", method="drlhf")
    with made_of(lambda config, num_envs, **_: NativeVectorEnv(TellingWorld(), num_envs)):
        with killed_at(240):
            train(config, tmp_path / "run")
        resume(tmp_path / "run")
    check_run(tmp_path / "run", config)
