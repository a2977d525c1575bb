"""No learner but the ceiling is touched by the true reward: worlds that differ in it alone leave all that is
learned, kept and written the same, bit for bit. More worlds with REWARDSMITH_FUZZ=1."""

import contextlib
import dataclasses
import json

import gymnasium
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from gymnasium.envs.classic_control import PendulumEnv
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as drawing

from rewardsmith._core import TracedTrueReward, TrueReward, TrueRewardReader
from rewardsmith.envs import GymnasiumEnv, MujocoBatchEnv
from rewardsmith.envs.native import NativeVectorEnv
from rewardsmith.preferences import Teacher
from rewardsmith.runs.audit import subject as subjects
from rewardsmith.runs.audit.run import audit_run
from rewardsmith.runs.choices import ESTIMATORS, METHODS, SELECTIONS, TEACHERS
from rewardsmith.runs.train import resume, train
from tests.fuzzing import LONG as FUZZ
from tests.left_behind import differing, shared_programs
from tests.line_walk import BUDGET
from tests.native_walk import Walk
from tests.small_runs import killed_at, measured, settings

pytestmark = pytest.mark.usefixtures("compile_quickly")
EXAMPLES = max(2, round(25 * FUZZ))
SMALL = {
    "steps": 400,
    "learning_starts": 120,
    "hidden": (8,),
    "leader_steps": 2,
    "leader_warmup_steps": 4,
    "snapshot_every": None,
    "checkpoint_every": 160,
}
# Episodes that are cut, and that can be restored, and episodes that end early.
CUT, ENDING = "ShortPendulum-v0", "CartPole-v1"
CASES = {
    "sobirl": {"env": CUT, "method": "sobirl"},
    "sobirl suffix": {"env": ENDING, "method": "sobirl", "estimator": "suffix"},
    "sobirl branch": {"env": CUT, "method": "sobirl", "estimator": "branch", "clips": "fresh"},
    "stoc-sobirl adjoint": {
        "env": CUT, "method": "stoc-sobirl", "estimator": "adjoint", "clips": "weighted",
        "snapshot_every": 300,
    },
    "drlhf": {"env": ENDING, "method": "drlhf", "hide_ends": True, "preference_model": "regret"},
    "drlhf in one batch": {"env": "HalfCheetah-v5", "method": "drlhf"},
    "pebble": {"env": CUT, "method": "pebble", "pretrain_steps": 80, "teacher": "skip"},
    "hpgd": {"env": CUT, "method": "hpgd"},
    "bc-hg": {"env": CUT, "method": "bc-hg"},
    "pbrl": {"env": CUT, "method": "pbrl"},
    "parl": {"env": CUT, "method": "parl"},
    "itd": {"env": CUT, "method": "itd"},
}  # fmt: skip
if FUZZ:
    CASES |= {
        f"{selection} questions": {"env": CUT, "method": "sobirl", "selection": selection}
        for selection in SELECTIONS
        if selection != "uniform"
    }
CEILING = {"env": CUT, "method": "sac"}


def test_every_method_and_estimator_is_looked_at():
    assert {case["method"] for case in (*CASES.values(), CEILING)} == METHODS.keys()
    assert {case.get("estimator", "one-step") for case in CASES.values()} == ESTIMATORS.keys()


# ---- worlds -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class World:
    """Another reward: weights of the true one, of what is seen, of what is done, and of an end."""

    of_reward: float
    of_observation: float
    of_action: float
    of_end: float
    always: float
    shape: str

    def pays(self, action, result):
        """(N,) for a step of N environments."""
        many = len(result.terminated)
        seen, done = (np.asarray(each, float).reshape(many, -1) for each in (result.next_observation, action))
        ended = (result.terminated | result.truncated).astype(float)
        parts = [
            (self.of_reward, result.reward.reveal(TrueRewardReader.EVALUATOR)),
            (self.of_observation, seen.sum(axis=1)),
            (self.of_action, done.sum(axis=1)),
            (self.of_end, ended),
            (self.always, np.ones(many)),
        ]
        paid = np.clip(sum(weight * part for weight, part in parts), -1e150, 1e150)
        return {"all": paid, "signs": np.sign(paid), "at ends alone": ended * paid}[self.shape]


WEIGHTS = st.floats(-3.0, 3.0) | st.sampled_from([0.0, 1e6, -1e6, 1e140, -1e140, 1e-300])
WORLDS = st.builds(World, *[WEIGHTS] * 5, st.sampled_from(["all", "signs", "at ends alone"]))


@contextlib.contextmanager
def paid_by(pays):
    """Inside, `pays` of (action, result) takes the place of the true reward of every environment."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (GymnasiumEnv, MujocoBatchEnv):

            def stepped(self, action, step=kind.step):
                result = step(self, action)
                return result._replace(reward=TrueReward(pays(action, result)))

            patch.setattr(kind, "step", stepped)
        yield


class Blind(Teacher):
    """Answers by chance, whatever the rewards."""

    def answer(self, first, second, rng):
        return rng.choice([0.0, 0.5, 1.0, np.nan], first.shape[0], p=[0.4, 0.1, 0.4, 0.1])


@pytest.fixture(scope="module", autouse=True)
def short_episodes():
    gymnasium.register(CUT, PendulumEnv, max_episode_steps=30)
    yield
    gymnasium.registry.pop(CUT)


@pytest.fixture(scope="module", autouse=True)
def programs():
    with shared_programs():
        yield


@pytest.fixture
def blind(monkeypatch):
    monkeypatch.setattr("rewardsmith.runs.experiment.make_teacher", lambda config: Blind())


# ---- what differs ---------------------------------------------------------------------------------


def many_worlds(examples):
    """A test within a test, for each of so many worlds and of moments at which the run is killed."""
    quick = drawing(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=not FUZZ,
    )
    stops = st.none() | st.integers(40, 99).map(lambda iteration: 4 * iteration)
    return lambda test: quick(given(WORLDS, stops)(test))


@pytest.mark.parametrize("case", CASES)
def test_the_true_reward_touches_nothing_that_is_learned_kept_or_written(tmp_path, blind, case):
    config = settings(**SMALL | CASES[case])
    plain, count = train(config, tmp_path / "plain"), iter(range(1000))

    @many_worlds(EXAMPLES)
    def in_another_world(world, stop):
        out = tmp_path / f"other-{next(count)}"
        with paid_by(world.pays):
            if stop is not None:
                with killed_at(stop):
                    train(config, out)
            other = resume(out) if stop is not None else train(config, out)
        assert not differing(plain, other)
        returns = [measured(run)["true_return"].to_list() for run in (plain, other)]
        assert returns[0] != returns[1] or world.shape == "signs", "the world must reach the evaluator"

    in_another_world()


def test_the_ceiling_is_touched(tmp_path):
    config = settings(**SMALL | CEILING)
    plain = train(config, tmp_path / "plain")
    with paid_by(World(2.0, 0.0, 0.0, 0.0, 0.0, "all").pays):
        found = differing(plain, train(config, tmp_path / "other"))
    for part in ("follower", "metrics.parquet q_mean", "observation"):
        assert any(part in name for name in found), part


def test_the_answers_are_the_one_way_in(tmp_path):
    """An honest teacher in the same worlds: then all of it changes, so the test above can fail."""
    config = settings(**SMALL | {"env": CUT, "method": "drlhf"})
    plain = train(config, tmp_path / "plain")
    with paid_by(World(-1.0, 0.0, 0.0, 0.0, 0.0, "all").pays):
        found = differing(plain, train(config, tmp_path / "other"))
    for part in ("follower", "leader", "replay", "queue", "comparisons.parquet label"):
        assert any(part in name for name in found), part


@pytest.mark.parametrize(
    "teacher", TEACHERS.keys() - {"human", "bradley-terry", "stochastic"} if FUZZ else ["skip"]
)
def test_a_teacher_tells_no_more_than_its_answers(tmp_path, teacher):
    """Twice the reward gets the same answers, whatever a teacher measures of what is usual."""
    config = settings(**SMALL | {"env": CUT, "method": "drlhf", "teacher": teacher})
    plain = train(config, tmp_path / "plain")
    with paid_by(World(2.0**20, 0.0, 0.0, 0.0, 0.0, "all").pays):
        other = train(config, tmp_path / "other")
    assert not differing(plain, other)


def test_an_audit_leaves_the_run_as_it_was(tmp_path, blind, monkeypatch):
    """It knows the true reward, and lies in the folder from which the run goes on."""
    monkeypatch.setattr(subjects, "OF_VECTORS", BUDGET)
    config = settings(**SMALL | {"env": CUT, "method": "drlhf", "clip_length": 10})
    plain = train(config, tmp_path / "plain")
    with paid_by(World(-1.0, 0.0, 3.0, 0.0, 1.0, "all").pays):
        with killed_at(380):
            train(config, tmp_path / "other")
        audit_run(tmp_path / "other")
        other = resume(tmp_path / "other")
    judged = {name for name in differing(plain, other) if not name.startswith("audit")}
    assert (other.path / "audit.json").is_file() and not judged


class Paid(Walk):
    """A walk whose reward is asked for on the host, so that all worlds are one program."""

    pays = staticmethod(lambda x: x)

    def step(self, state, action, key):
        result = super().step(state, action, key)
        like = jax.ShapeDtypeStruct((), np.float32)
        told = jax.pure_callback(lambda x: Paid.pays(np.asarray(x)), like, state.x, vmap_method="expand_dims")
        return result._replace(reward=TracedTrueReward(told))


@pytest.mark.parametrize("method", ["pebble", "sobirl", "pbrl"] if FUZZ else ["pebble"])
def test_a_compiled_loop_lets_nothing_through(tmp_path, blind, monkeypatch, method):
    for module in ("train", "training", "collect"):
        monkeypatch.setattr(
            f"rewardsmith.runs.{module}.make_env",
            lambda config, num_envs, **_: NativeVectorEnv(Paid(), num_envs),
        )
    config = settings(**SMALL | {"env": CUT, "method": method, "pretrain_steps": 80})
    plain = train(config, tmp_path / "plain")
    for number, pays in enumerate([lambda x: -1e9 * x, lambda x: x**3 + 2.0][: 2 if FUZZ else 1]):
        monkeypatch.setattr(Paid, "pays", staticmethod(lambda x, pays=pays: pays(x).astype(np.float32)))
        other = train(config, tmp_path / str(number))
        assert not differing(plain, other)
        assert measured(plain)["true_return"].to_list() != measured(other)["true_return"].to_list()
    assert json.loads(plain.warnings_path.read_text())
