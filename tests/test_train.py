"""The training loop: resumed runs equal uninterrupted ones."""

import signal
from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest

from rewardsmith._core import InputError
from rewardsmith.runs import seat as seat_module
from rewardsmith.runs.choices import ESTIMATORS, METHODS
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.train import Stopped, resume, train
from rewardsmith.runs.training import Training
from tests.small_runs import assert_same, killed_at, settings

pytestmark = pytest.mark.usefixtures("compile_quickly")


class Drifting(gymnasium.Env):
    """A world that cannot be restored: a point that drifts, pushed by the action."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.normal(size=2)
        return self.position.copy(), {}

    def step(self, action):
        self.position += 0.1 * self.np_random.normal(size=2)
        self.position[0] += 0.2 * float(action[0])
        return self.position.copy(), -abs(self.position[0]), False, False, {}


@pytest.fixture(scope="module", autouse=True)
def drifting():
    gymnasium.register("Drifting-v0", Drifting, max_episode_steps=50)
    yield
    gymnasium.registry.pop("Drifting-v0")


RESUMED = [
    ("HalfCheetah-v5", "sobirl", "suffix"),
    ("Pendulum-v1", "sobirl", "one-step"),
    ("Drifting-v0", "drlhf", "one-step"),
    ("Hopper-v5", "sac", "one-step"),
    ("HalfCheetah-v5", "sobirl fresh", "branch"),
    ("HalfCheetah-v5", "stoc-sobirl weighted", "adjoint"),
    ("Pendulum-v1", "bc-hg", "one-step"),
    ("Pendulum-v1", "pbrl", "one-step"),
    ("Pendulum-v1", "pebble", "one-step"),
    ("Pendulum-v1", "hpgd", "one-step"),
    ("Pendulum-v1", "parl", "one-step"),
    ("Pendulum-v1", "itd", "one-step"),
]


def test_every_method_and_estimator_is_resumed():
    assert {method.split()[0] for _, method, _ in RESUMED} == METHODS.keys()
    assert {estimator for _, _, estimator in RESUMED} == ESTIMATORS.keys()


@pytest.mark.parametrize(("env", "method", "estimator"), RESUMED)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, env, method, estimator):
    method, clips = (*method.split(), "queue")[:2]
    config = settings(env=env, method=method, estimator=estimator, clips=clips)
    whole = train(config, tmp_path / "whole")

    with killed_at(520):
        train(config, tmp_path / "cut")
    assert RunFolder.open(tmp_path / "cut").checkpoints()[-1].name == "step_000000400.safetensors"
    assert_same(whole, resume(tmp_path / "cut"))


def test_ctrl_c_saves_where_it_stopped(tmp_path, monkeypatch):
    config = settings(env="HalfCheetah-v5")
    whole = train(config, tmp_path / "whole")
    iterate = Training._iterate

    def interrupted(self):
        iterate(self)
        if self.step == 300:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Training, "_iterate", interrupted)
    with pytest.raises(Stopped, match="stopped at step 300: rewardsmith train --resume"):
        train(config, tmp_path / "cut")
    monkeypatch.setattr(Training, "_iterate", iterate)
    folder = RunFolder.open(tmp_path / "cut")
    assert folder.checkpoints()[-1].name == "step_000000300.safetensors"
    assert_same(whole, resume(folder.path))


def test_a_broken_checkpoint_falls_back_to_the_one_before(tmp_path, capsys):
    config = settings(env="Pendulum-v1", method="drlhf")
    whole = train(config, tmp_path / "whole")
    train(config, tmp_path / "cut")
    newest = RunFolder.open(tmp_path / "cut").checkpoints()[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(bytes(data))
    assert_same(whole, resume(tmp_path / "cut"))
    assert f"skipped checkpoint {newest.name}" in capsys.readouterr().out


def test_early_ends_are_warned_of(tmp_path):
    folder = train(settings(env="Hopper-v5", method="drlhf"), tmp_path / "run")
    assert any("end early" in line for line in folder.warnings())
    assert not train(settings(env="HalfCheetah-v5", method="drlhf"), tmp_path / "cheetah").warnings()


def test_what_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    session = Training._session

    def spoil(self):
        session(self)
        if self.step >= 400:
            self.leader = jax.tree.map(lambda leaf: leaf * np.nan, self.leader)

    monkeypatch.setattr(Training, "_session", spoil)
    with pytest.raises(InputError, match="not finite"):
        train(settings(env="Pendulum-v1", method="drlhf"), tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").checkpoints()


def test_nothing_is_overwritten(tmp_path):
    config = settings(env="Pendulum-v1", method="drlhf", steps=240)
    folder = train(config, tmp_path / "run")
    before = {path.name: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="already holds a run: go on with --resume"):
        train(config, folder.path)
    resume(folder.path)  # finished: nothing to do
    after = {path.name: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.is_file()}
    assert {name: time for name, time in after.items() if name != ".lock"} == {
        name: time for name, time in before.items() if name != ".lock"
    }


def test_the_module_has_one_place_that_hands_out_the_true_reward():
    """The ceiling's column is filled in one line; `sac` alone reaches it."""
    source = Path(seat_module.__file__).read_text()
    assert source.count("TrueRewardReader.CEILING") == 1
