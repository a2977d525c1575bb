"""The command line: a run from end to end, and every mistake one line that says what to do."""

import errno
import json
import os
import subprocess
import sys

import polars as pl
import pytest

from tests.commands import command as run

SMALL = (
    "--steps 400 --comparisons 20 --num-envs 4 --hidden 16 --reward-hidden 8 --ensemble 2 --batch-size 16 "
    "--learning-starts 120 --clip-length 10 --leader-every 80 --leader-steps 4 --leader-warmup-steps 4 "
    "--leader-batch-size 8 --recent-batch-size 4 --eval-every 200 --eval-episodes 1 --checkpoint-every 200"
).split()


def test_a_run_from_end_to_end(tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", "--env", "Pendulum-v1", *SMALL, "--out", out) == 0
    told = capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    assert names >= {"config.json", "metrics.parquet", "comparisons.parquet", "checkpoints", "film.mp4"}
    assert names >= {"report.html", "curves.png", "eval.json"}
    assert all(str(out / name) in told for name in ("film.mp4", "report.html", "curves.png"))
    assert "true return" in told and "comparisons" in told
    comparisons = pl.read_parquet(out / "comparisons.parquet")
    assert comparisons.height == 20 and comparisons["label"].is_between(0, 1).all()

    assert run("eval", out, "--episodes", 3, "--seed", 7) == 0
    assert len(json.loads((out / "eval.json").read_text())["returns"]) == 3
    assert run("plot", out, "--out", tmp_path / "curves.svg") == 0 and (tmp_path / "curves.svg").exists()
    assert run("report", out) == 0
    assert run("train", "--resume", out) == 0, "a finished run is finished again"
    capsys.readouterr()
    assert run("train", "--env", "Pendulum-v1", "--out", out) == 2
    assert f"already holds a run: go on with --resume {out}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("train --env HalfCheeta-v5", "unknown environment HalfCheeta-v5"),
        ("train --env FrozenLake-v1", "FrozenLake-v1"),
        ("train --env Blackjack-v1", "--flatten-observations"),
        ("train --env ALE/BeamRide-v5", "unknown environment ALE/BeamRide-v5"),
        ("train --preset amiga", "unknown --preset 'amiga': choose one of atari"),
        ("train --resume . --preset atari", "give no other option with it"),
        ("train --env ALE/BeamRider-v5 --hide 3", "'3' is no box: write top:bottom,left:right"),
        ("train --env ALE/Tennis-v5 --hide score", "it is not known where ALE/Tennis-v5 draws its score"),
        ("train --hide score", "has no pictures: leave out --hide"),
        ("train --reward-norm layer", "choose one of none, group, batch"),
        ("train --reward-output softly", "choose one of normalise, clamp, raw"),
        ("train --image-layout whc", "choose one of auto, hwc, chw"),
        ("clips nowhere", "no run at nowhere"),
        ("train --method foo", "choose one of sobirl, stoc-sobirl, drlhf"),
        ("train --estimator two-step", "choose one of one-step, suffix"),
        ("train --teacher nobody", "choose one of human, oracle, bradley-terry"),
        ("train --backend brax", "choose one of auto, mujoco, gymnasium, ale"),
        ("train --steps -5", "--steps is -5: give a whole number of at least 1"),
        ("train --steps abc", "abc"),
        ("train --stepz 3", "--stepz"),
        ("train --comparisons 0", "needs at least 1"),
        ("train --seed -1", "--seed is -1"),
        ("train --discount 1", "--discount is 1.0"),
        ("train --temperature 0", "--temperature is 0.0: give a positive number"),
        ("train --learning-rate nan", "--learning-rate is nan"),
        ("train --second-term-weight -1", "--second-term-weight is -1.0"),
        ("train --second-term-bound 0", "--second-term-bound is 0.0"),
        ("train --steps 50", "--learning-starts is 200: give at least"),
        ("train --env Pendulum-v1 --clip-length 300", "--clip-length is 300 but episodes last 200 steps"),
        ("train --resume nowhere", "no run at nowhere"),
        ("train --resume . --seed 5", "give no other option with it"),
        ("train --resume .", "is no run folder"),
        ("eval nowhere", "no run at nowhere"),
        ("plot", "no runs to plot"),
        ("plot nowhere", "nowhere"),
        ("report .", "is no run folder"),
        ("frobnicate", "frobnicate"),
        ("", "train"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments.split()) == 2
    told = capsys.readouterr()
    assert told.out == "" and says in told.err
    assert told.err.startswith("rewardsmith: ") and told.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    saved = []

    def full(tensors, path, metadata):
        if saved:
            raise OSError(errno.ENOSPC, "No space left on device")
        if path.parent.name == "checkpoints":
            saved.append(path)
        return save(tensors, path, metadata)

    from rewardsmith._core import serialise

    save = serialise.save_file
    monkeypatch.setattr(serialise, "save_file", full)
    assert run("train", "--env", "Pendulum-v1", *SMALL, "--method", "drlhf", "--out", out) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error and "free some space" in error and error.count("\n") == 1
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step_000000200.safetensors"]
    monkeypatch.setattr(serialise, "save_file", save)
    assert run("train", "--resume", out) == 0


def test_debug_shows_the_trace(capsys):
    assert run("train", "--method", "foo", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_help_teaches_and_lists(capsys):
    assert run("train", "--help") == 0
    text = capsys.readouterr().out
    assert "--second-term-bound" in text and "Any Gymnasium id" in text
    assert run("list") == 0
    assert "sobirl" in capsys.readouterr().out
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("rewardsmith 0.")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_mistake_is_one_line_in_every_encoding(encoding):
    result = subprocess.run(
        [sys.executable, "-m", "rewardsmith", "train", "--steps", "50"],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    told = result.stderr.decode(encoding)
    assert result.returncode == 2 and told.count("\n") == 1
    assert told.startswith("rewardsmith: --learning-starts is 200: give at least")


def test_the_allocator_is_set_before_any_library_that_starts_threads():
    """polars starts some when it is loaded, and then `keep_freed_memory` comes too late."""
    code = "import sys, rewardsmith.cli; sys.exit('polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
