"""All that a run leaves in its folder, what of it two runs do not share, and many runs of one program."""

import contextlib
import dataclasses

import polars as pl
import pytest
from safetensors.numpy import load_file

from rewardsmith.runs import experiment, training
from rewardsmith.runs.choices import HUMAN
from rewardsmith.runs.folder import RunFolder
from tests.small_runs import measured

# What differs between two runs that found the same.
_OF_THE_TIME = ("['recorder']['seconds']", "['recorder']['clock']")
# Programs that are kept at a time.
_KEPT = 3
_RETURNS = ["true_return", "true_return_std"]


def everything(folder: RunFolder):
    """All that a run left, by name, but true rewards under seal, the returns of its evaluations, and time.

    The store of a run, which has names and secrets of its own, is left out.
    """
    found = {}
    for path in sorted(entry for entry in folder.path.rglob("*") if entry.is_file()):
        name = path.relative_to(folder.path).as_posix()
        if name == ".lock" or name.startswith("answers/"):
            continue
        if path.suffix == ".safetensors":
            for array, values in load_file(path).items():
                if "true_reward" not in array and not array.startswith(_OF_THE_TIME):
                    found[f"{name} {array}"] = values.tobytes()
        elif path.suffix == ".parquet":
            whole = name == "metrics.parquet"
            table = measured(folder).drop(_RETURNS) if whole else pl.read_parquet(path)
            # As text, where NaN is itself.
            found |= {f"{name} {column.name}": repr(column.to_list()) for column in table}
        else:
            found[name] = path.read_bytes()
    return found


def differing(folder: RunFolder, other: RunFolder):
    """Names of what is not the same."""
    first, second = everything(folder), everything(other)
    assert len(first) > 50 and any("follower" in name for name in first)
    return {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}


@contextlib.contextmanager
def shared_programs():
    """Inside, runs of the same settings use the same compiled programs: to make them takes longest."""
    made, make = {}, training.Experiment
    # What no program depends on.
    apart = {"seed": 0, "store": None, "overlap": 1, "film_clips": False}

    def shared(config, spec, lanes):
        key = (dataclasses.replace(config, **apart), spec.env_id)
        if key not in made:
            if len(made) == _KEPT:
                made.pop(next(iter(made)))
            made[key] = make(config, spec, lanes)
        elif config.teacher != HUMAN:
            # Whoever is the teacher by now.
            made[key].teacher = experiment.make_teacher(config)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Experiment", shared)
        yield
