"""Several seeds in one program: each run is the run that it would have been alone."""

import dataclasses

import jax
import numpy as np
import pytest

from rewardsmith._core import InputError
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.lanes import Lanes
from rewardsmith.runs.train import resume, resume_all, resume_seeds, train, train_seeds
from tests.small_runs import assert_same, killed_at, measured, settings

CONFIG = settings(env="Pendulum-v1", method="sobirl", seed=3, learning_rate=1e-4)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    return train_seeds(CONFIG, tmp_path_factory.mktemp("seeds") / "runs", 2)


@pytest.mark.parametrize("lane", [0, 1])
def test_a_seed_among_others_is_the_run_that_it_is_alone(together, tmp_path, lane):
    assert [folder.path.name for folder in together] == ["seed-3", "seed-4"]
    alone = measured(train(dataclasses.replace(CONFIG, seed=3 + lane), tmp_path / "alone"))
    among = measured(together[lane])
    exact = ["step", "kind", "comparisons"]
    assert among.select(exact).equals(alone.select(exact))
    for column, tolerance in [("preference_loss", 0.01), ("q_mean", 0.02), ("true_return", 0.02)]:
        np.testing.assert_allclose(
            among[column].drop_nulls().to_numpy(), alone[column].drop_nulls().to_numpy(), rtol=tolerance
        )
    other = measured(together[1 - lane])
    assert abs(other["q_mean"].drop_nulls()[-1] / alone["q_mean"].drop_nulls()[-1] - 1.0) > 0.02


def test_seeds_that_were_killed_go_on_together_or_alone(together, tmp_path):
    with killed_at(520):
        train_seeds(CONFIG, tmp_path / "cut", 2)
    # As a kill between two checkpoints leaves it: one seed is a checkpoint behind.
    behind, ahead = (RunFolder.open(tmp_path / "cut" / name) for name in ("seed-3", "seed-4"))
    behind.checkpoints()[-1].unlink()
    for folder, whole in zip(resume_all(tmp_path / "cut"), together, strict=True):
        assert_same(folder, whole)
    ahead.checkpoints()[-1].unlink()
    assert resume(ahead.path).checkpoints()[-1].name == "step_000000640.safetensors"


def test_settings_vary_side_by_side(tmp_path):
    config = settings(env="Pendulum-v1", method="drlhf", temperature=0.1, snapshot_every=None)
    varied = {"learning_rate": (1e-4, 1e-3), "temperature": (0.1, 0.2), "reward_learning_rate": (1e-4,)}
    with killed_at(520):
        train_seeds(config, tmp_path / "runs", 1, varied)
    folders = resume_all(tmp_path / "runs")
    assert len(folders) == 4
    last = RunFolder.open(
        tmp_path / "runs/seed-0-learning-rate-0.001-temperature-0.2-reward-learning-rate-0.0001"
    )
    alone = dataclasses.replace(config, learning_rate=1e-3, temperature=0.2, reward_learning_rate=1e-4)
    found, wanted = measured(last), measured(train(alone, tmp_path / "alone"))
    assert found["temperature"].drop_nulls()[-1] == pytest.approx(0.2)
    for column in ("preference_loss", "q_mean"):
        np.testing.assert_allclose(
            found[column].drop_nulls().to_numpy(), wanted[column].drop_nulls().to_numpy(), rtol=0.03
        )
    with pytest.raises(InputError, match="only learning-rate, reward-learning-rate, temperature can differ"):
        train_seeds(config, tmp_path / "other", 1, {"discount": (0.9, 0.99)})
    with pytest.raises(InputError, match="cannot go beside one that is fixed"):
        train_seeds(config, tmp_path / "other", 1, {"temperature": (None, 0.1)})
    assert not (tmp_path / "other").exists()


def test_what_cannot_go_side_by_side_is_refused(together, tmp_path):
    out = tmp_path / "runs"
    with pytest.raises(InputError, match="--seeds is 0"):
        train_seeds(CONFIG, out, 0)
    with pytest.raises(InputError, match="would ask people about several runs"):
        train_seeds(settings(env="HalfCheetah-v5", teacher="human"), out, 2)
    with pytest.raises(InputError, match="are for vectors"):
        train_seeds(settings(env="ALE/Pong-v5", clip_length=5, method="drlhf"), out, 2)
    assert not out.exists()
    with pytest.raises(InputError, match="is not empty"):
        train_seeds(CONFIG, together[0].path.parent, 2)
    with pytest.raises(InputError, match="no runs at"):
        resume_seeds(tmp_path)


def test_lanes_put_together_and_take_apart():
    lanes, trees = Lanes(2), [{"a": np.arange(3.0) + lane, "b": jax.random.key(lane)} for lane in range(2)]
    stacked = lanes.stack(trees)
    assert stacked["a"].shape == (2, 3) and isinstance(stacked["a"], np.ndarray)
    np.testing.assert_array_equal(lanes.of(stacked, 1)["a"], trees[1]["a"])
    folded = lanes.fold_in(stacked["b"], 2**31 + 5)
    for lane in range(2):
        assert folded[lane] == jax.random.fold_in(trees[lane]["b"], 2**31 + 5)
    added = lanes.lift(lambda own, shared: own + shared, 1)(stacked["a"], np.ones(3))
    np.testing.assert_array_equal(added, stacked["a"] + 1.0)
    assert Lanes(1).stack([trees[0]]) is trees[0] and Lanes(1).of(trees[0], 0) is trees[0]
