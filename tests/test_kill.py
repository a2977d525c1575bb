"""A training run dies at any moment and goes on as if it had not; REWARDSMITH_SOAK=1 for thirty deaths."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rewardsmith._core.serialise import check_tree_file
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.train import resume, train
from tests.dying import Moments, watched
from tests.small_runs import assert_same, settings

pytestmark = pytest.mark.usefixtures("compile_quickly")

ROOT = Path(__file__).parents[1]
DEATHS = 30 if os.environ.get("REWARDSMITH_SOAK") == "1" else 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed, and which moments it passed inside a write of a checkpoint."""
    inside = []
    moments = Moments(lambda number, path: inside.append(number) if path and "step_" in path.name else None)
    with watched(moments):
        config = settings(env="Pendulum-v1", method="sobirl", checkpoint_every=80)
        folder = train(config, tmp_path_factory.mktemp("whole") / "run")
    return folder, moments.count, inside


@pytest.mark.parametrize("death", range(DEATHS))
def test_a_run_that_dies_goes_on_as_if_it_had_not(tmp_path, whole, death):
    undisturbed, count, inside = whole
    assert len(inside) >= 8
    rng = random.Random(death)
    # One in three inside a checkpoint, with half of it on the disk.
    moment = rng.choice(inside) if death % 3 == 0 else rng.randint(1, count)
    cut = tmp_path / "cut"
    died = subprocess.run(
        [sys.executable, "-m", "tests.dying", cut, str(moment)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    if not (cut / "config.json").exists():
        # Before it had begun: the folder is taken again.
        assert moment < 10
        train(settings(env="Pendulum-v1", method="sobirl", checkpoint_every=80), cut)
    for checkpoint in RunFolder.open(cut).checkpoints():
        check_tree_file(checkpoint)
    assert_same(undisturbed, resume(cut))
    assert not [path.name for path in cut.rglob(".*") if path.is_file() and path.name != ".lock"]
