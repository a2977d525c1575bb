"""Runs of a few hundred steps, and how two of them are compared."""

import contextlib

import jax
import numpy as np
import pytest

from rewardsmith._core.serialise import load_tree
from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.metrics import read_metrics
from rewardsmith.runs.training import Training

SMALL = {
    "steps": 640,
    "comparisons": 40,
    "num_envs": 4,
    "hidden": (16, 16),
    "reward_hidden": (8,),
    "ensemble": 2,
    "batch_size": 16,
    "learning_starts": 160,
    "clip_length": 10,
    "suffix_length": 15,
    "leader_every": 80,
    "leader_steps": 4,
    "leader_warmup_steps": 8,
    "leader_batch_size": 8,
    "recent_batch_size": 4,
    "replay": 500,
    "queue": 30,
    "eval_every": 160,
    "eval_episodes": 1,
    "checkpoint_every": 200,
    "snapshot_every": 300,
    "snapshot_updates": 5,
    "branch_length": 10,
    "adjoint_visits": 64,
}
CLOCK = ["seconds", "steps_per_second", "share_env", "share_learner", "share_leader"]


def settings(**changes) -> TrainConfig:
    return TrainConfig(**(SMALL | changes))


def measured(folder: RunFolder):
    return read_metrics(folder.path).drop(CLOCK)


def learned(folder: RunFolder):
    """Every array of the last checkpoint but the clocks."""
    training = Training([TrainConfig.from_json(folder.config)], [folder])
    path, _ = folder.latest_valid_checkpoint()
    assert path is not None
    state = load_tree(path, training._state(0))
    return {name: state[name] for name in ("follower", "companions", "replay", "leader", "observation")}


def assert_same(first: RunFolder, second: RunFolder):
    assert measured(first).equals(measured(second))
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), learned(first), learned(second))
    assert all(jax.tree.leaves(same))


@contextlib.contextmanager
def killed_at(step: int):
    """The run inside ends at a step as a kill would: nothing is saved, metrics have run ahead."""
    iterate = Training._iterate

    def die(self):
        if self.step == step:
            for seat in self.seats:
                seat.recorder.flush()
            raise RuntimeError("killed")
        iterate(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(Training, "_iterate", die)
        yield
