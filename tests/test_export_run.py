"""Runs that are exported: what is written, its card, and bad places."""

from pathlib import Path

import equinox as eqx
import gymnasium
import numpy as np
import pytest
import yaml

import rewardsmith as rs
from rewardsmith._core import InputError
from rewardsmith.exported import read_config, standalone
from rewardsmith.runs.audit.record import write_audit
from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.export import export_run
from rewardsmith.runs.finish import evaluate_run
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.loading import load_policy, load_reward
from rewardsmith.runs.train import train
from tests.commands import command
from tests.made_up import made_up_audit
from tests.small_runs import settings

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = settings(
        env="Pendulum-v1", method="drlhf", preference_model="mixture", steps=320, snapshot_every=None
    )
    return train(config, tmp_path_factory.mktemp("runs") / "learned")


AUDITED = (
    "| pairs foreseen, clips of all policies | 80.0% [70.0%, 90.0%] of 200 |",
    "| STARC distance to the true reward (unrelated: 1.4) | 0.8 [0.7, 0.9] |",
    "- Reward hacking: ",
)


def test_a_run_is_exported_with_its_card(run, tmp_path, capsys):
    result = evaluate_run(run.path, 2, seed=5)
    run.warn("Something\nodd.")
    write_audit(run.path / "audit.json", made_up_audit(320, hacked=True))
    assert command("export", run.path, "--out", tmp_path / "out") == 0
    folder = tmp_path / "out"
    assert capsys.readouterr().out.split()[-1] == str(folder)
    _, learned, step = load_reward(run, TrainConfig.from_json(run.config))
    assert bool(eqx.tree_equal(rs.load_reward(folder).learned, learned))
    assert bool(eqx.tree_equal(rs.load_policy(folder).network, load_policy(run.path)[2]))
    config = read_config(folder)
    assert config["trained"]["step"] == step == 320 and config["environment"]["id"] == "Pendulum-v1"
    np.testing.assert_array_equal(config["reward"]["mean"], learned.mean)
    np.testing.assert_array_equal(config["reward"]["deviation"], learned.deviation)
    files = "README.md config.json policy.safetensors reward.safetensors standalone.py"
    assert sorted(path.name for path in folder.iterdir()) == files.split()
    card = (folder / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["library_name"] == "rewardsmith" and "Pendulum-v1" in header["tags"]
    metric = header["model-index"][0]["results"][0]["metrics"][0]
    assert metric["value"] == f"{result['mean']:.2f} +/- {result['std']:.2f}"
    for told in ("seed 5", "`mixture`", "`oracle`", "- Something odd.", *AUDITED):
        assert told in card
    assert "not the true reward" in card and "`note`" not in card and "{{" not in card
    assert (folder / "standalone.py").read_text() == Path(standalone.__file__).read_text()


def test_a_bad_place_or_run_ends_in_one_line(run, tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes").write_text("mine")
    empty = RunFolder.create(tmp_path / "empty", run.config)
    for given, told in (
        ((run.path, "--out", taken), "holds something already"),
        ((run.path, "--out", taken / "notes"), "holds something already"),
        ((run.path, "--out", taken / "notes" / "below"), "cannot write"),
        ((tmp_path / "none",), "no run at"),
        ((empty.path,), "no checkpoint yet"),
    ):
        assert command("export", *given) == 2
        said = capsys.readouterr().err
        assert told in said and said.count("\n") == 1
    assert [path.name for path in taken.iterdir()] == ["notes"]


def test_nothing_is_left_of_an_export_that_fails(run, tmp_path, monkeypatch):
    monkeypatch.setattr("rewardsmith.runs.export._card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_run(run.path, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_sac_exports_its_policy_alone(tmp_path, capsys):
    run = train(settings(env="CartPole-v1", method="sac", steps=320), tmp_path / "ceiling")
    assert command("export", run.path) == 0
    folder = run.path / "export"
    assert "policy alone" in capsys.readouterr().out and not (folder / "reward.safetensors").exists()
    with pytest.raises(InputError, match="policy alone"):
        rs.load_reward(folder)
    with pytest.raises(ValueError, match="policy alone"):
        standalone.load_reward(folder)
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    assert env.action_space.contains(rs.load_policy(folder).act(observation[None])[0])
    assert "no learned reward" in (folder / "README.md").read_text()
