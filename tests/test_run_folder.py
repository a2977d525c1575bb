"""Nothing in a run's folder is overwritten, lost or mixed up."""

import dataclasses
import json
import math
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from polars.testing import assert_frame_equal
from rich.console import Console

import rewardsmith
from rewardsmith._core import InputError
from rewardsmith._core.serialise import load_tree
from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.metrics import Metrics, read_metrics
from rewardsmith.runs.progress import Progress

CONFIG = {"env": "Pendulum-v1", "method": "sac", "steps": 1000, "seed": 0}


def contents(path):
    return {entry: entry.read_bytes() for entry in sorted(path.rglob("*")) if entry.is_file()}


def make_folder(tmp_path):
    return RunFolder.create(tmp_path / "run", CONFIG)


# --- the folder


def test_a_new_folder_holds_the_settings_and_the_versions(tmp_path):
    @dataclass
    class Inner:
        size: int

    folder = RunFolder.create(
        str(tmp_path / "a" / "run"), CONFIG | {"out": tmp_path, "inner": Inner(3), "rate": np.float64(0.5)}
    )
    config = json.loads(folder.config_path.read_text())
    assert config["env"] == "Pendulum-v1" and config["inner"] == {"size": 3} and config["rate"] == 0.5
    assert config["rewardsmith"] == rewardsmith.__version__
    assert config["versions"]["jax"].count(".") >= 1
    assert RunFolder.open(folder.path).config == config


def test_names_of_the_files(tmp_path):
    folder = RunFolder(tmp_path)
    names = (
        "config metrics comparisons checkpoints film report curves eval snapshots audit audit_films".split()
    )
    found = [getattr(folder, f"{name}_path").relative_to(tmp_path).as_posix() for name in names]
    assert found == [
        "config.json", "metrics.parquet", "comparisons.parquet", "checkpoints",
        "film.mp4", "report.html", "curves.png", "eval.json", "snapshots", "audit.json", "audit",
    ]  # fmt: skip
    assert folder.checkpoint_path(50_000) == tmp_path / "checkpoints" / "step_000050000.safetensors"


def test_a_run_is_never_overwritten(tmp_path):
    folder = make_folder(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError, match="--resume.*another --out"):
        RunFolder.create(folder.path, CONFIG | {"seed": 1})
    assert contents(tmp_path) == before


def test_a_folder_with_other_things_and_a_file_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="not empty.*--out"):
        RunFolder.create(tmp_path, CONFIG)
    with pytest.raises(InputError, match="another --out"):
        RunFolder.create(tmp_path / "thesis.tex", CONFIG)
    with pytest.raises(InputError, match="another --out"):
        RunFolder.create(tmp_path / "thesis.tex" / "run", CONFIG)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_and_one_whose_creation_was_killed_are_taken(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config-x1.json").touch()
    folder = RunFolder.create(tmp_path, CONFIG)
    assert sorted(entry.name for entry in folder.path.iterdir()) == [".lock", "config.json"]


def test_settings_that_json_cannot_hold_are_refused_before_anything_is_made(tmp_path):
    with pytest.raises(InputError, match="finite"):
        RunFolder.create(tmp_path / "run", CONFIG | {"temperature": math.inf})
    assert not (tmp_path / "run").exists()


def test_open_says_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="no run at"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no run folder"):
        RunFolder.open(tmp_path)
    for text, says in [("{", "no valid JSON"), ("[]", "no settings"), ("\ufffd{", "no valid JSON")]:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=says) as caught:
            RunFolder.open(tmp_path)
        assert "\n" not in str(caught.value)


# --- checkpoints and snapshots


def test_snapshots_beyond_a_step_are_forgotten(tmp_path):
    folder = make_folder(tmp_path)
    assert folder.snapshot_steps() == []
    folder.snapshots_path.mkdir()
    for step in (3000, 1000, 2_000_000_000):
        folder.snapshot_path(step).touch()
    (folder.snapshots_path / "notes.txt").touch()
    folder.forget_snapshots(after=1000)
    assert folder.snapshot_steps() == [1000] and (folder.snapshots_path / "notes.txt").exists()


def test_the_last_two_checkpoints_are_kept(tmp_path):
    folder = make_folder(tmp_path)
    assert folder.checkpoints() == [] and folder.latest_valid_checkpoint() == (None, [])
    for step in (0, 500, 1_000, 2_000_000_000):
        path = folder.save_checkpoint(step, {"x": jnp.full(3, float(step))}, {"rows": "3"})
    assert folder.checkpoints() == [folder.checkpoint_path(1_000), path]
    assert folder.latest_valid_checkpoint() == (path, [])
    assert float(load_tree(path, {"x": jnp.zeros(3)})["x"][0]) == 2e9


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: b"", lambda c: c[:-3] + bytes([c[-3] ^ 4]) + c[-2:]]
)
def test_a_damaged_checkpoint_is_skipped_and_named(tmp_path, damage):
    folder = make_folder(tmp_path)
    good, bad = (folder.save_checkpoint(step, np.arange(5.0) + 1) for step in (1, 2))
    bad.write_bytes(damage(bad.read_bytes()))
    path, skipped = folder.latest_valid_checkpoint()
    assert path == good
    assert len(skipped) == 1 and bad.name in skipped[0] and "\n" not in skipped[0]
    good.write_bytes(b"")
    path, skipped = folder.latest_valid_checkpoint()
    assert path is None and len(skipped) == 2


def test_after_falling_back_the_good_checkpoints_are_the_ones_kept(tmp_path):
    folder = make_folder(tmp_path)
    for step in (10, 20):
        folder.save_checkpoint(step, 1)
    folder.checkpoint_path(20).write_bytes(b"")
    folder.checkpoint_path(30).write_bytes(b"")
    folder.save_checkpoint(15, 1)
    assert folder.checkpoints() == [folder.checkpoint_path(10), folder.checkpoint_path(15)]


def test_no_checkpoint_is_deleted_when_the_disk_is_full(tmp_path):
    folder = make_folder(tmp_path)
    kept = [folder.save_checkpoint(step, 1) for step in (1, 2)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))
    try:
        with pytest.raises(InputError, match="free some space"):
            folder.save_checkpoint(3, np.zeros(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(folder.checkpoints_path.iterdir()) == kept


# --- the lock


def test_a_second_process_is_refused_until_the_first_is_gone_even_by_kill(tmp_path):
    folder = make_folder(tmp_path)
    holder = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(600)"
    )
    lock = str(folder.path / ".lock")
    with subprocess.Popen([sys.executable, "-c", holder, lock], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="another process is at work") as caught, folder.lock():
            pass
        assert "\n" not in str(caught.value)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with folder.lock(), pytest.raises(InputError), folder.lock():
        pass
    with folder.lock():
        pass


def test_the_lock_sweeps_what_a_killed_process_left_half_written(tmp_path):
    folder = make_folder(tmp_path)
    whole = folder.save_checkpoint(1, 1)
    half = folder.checkpoints_path / ".step_000000002-abc.safetensors"
    half.write_bytes(b"half")
    folder.snapshots_path.mkdir()
    (folder.snapshots_path / half.name).write_bytes(b"half")
    with folder.lock():
        assert list(folder.snapshots_path.iterdir()) == []
        assert list(folder.checkpoints_path.iterdir()) == [whole]


# --- metrics


def test_metrics_come_back_with_the_columns_of_the_schema(tmp_path):
    metrics = Metrics(tmp_path / "metrics.parquet")
    metrics.record(step=0, seconds=0.5, kind="eval", true_return=jnp.float32(-3.5), comparisons=0)
    metrics.record(
        step=np.int64(10), seconds=1, kind="learner", critic_loss=np.float32(0.25), entropy=math.nan
    )
    metrics.flush()
    frame = read_metrics(tmp_path)
    assert frame.columns[:3] == ["step", "seconds", "kind"] and len(frame.columns) == 28
    assert frame.schema["step"] == frame.schema["comparisons"] == pl.Int64
    assert frame["true_return"].to_list() == [-3.5, None]
    assert frame["critic_loss"].to_list() == [None, 0.25]
    assert math.isnan(frame["entropy"][1])
    assert_frame_equal(Metrics.load(metrics.path).frame(), frame)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"step": 1, "kind": "eval", "retrun": 1.0}, "'retrun'.*true_return"),
        ({"kind": "eval"}, "needs a step"),
        ({"step": 1, "kind": "evaluation"}, "eval, leader, learner"),
    ],
)
def test_a_wrong_row_is_refused_and_leaves_no_trace(tmp_path, row, says):
    metrics = Metrics(tmp_path / "metrics.parquet")
    with pytest.raises(InputError, match=says):
        metrics.record(**row)
    with pytest.raises(TypeError):
        metrics.record(step=1, kind="eval", true_return=[1, 2])
    assert len(metrics) == 0 and metrics.frame().is_empty()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.floats(allow_nan=False) | st.none(), max_size=12), share=st.floats(0, 1))
def test_going_on_from_a_checkpoint_gives_the_same_table(tmp_path, rows, share):
    path = tmp_path / "metrics.parquet"
    whole = Metrics(path)
    for step, value in enumerate(rows):
        whole.record(step=step, kind="leader", preference_loss=value)
    whole.flush()
    resumed = Metrics.load(path)
    seen = int(share * len(rows))
    resumed.truncate(seen)
    assert len(resumed) == seen and len(read_metrics(tmp_path)) == len(rows)
    for step, value in enumerate(rows[seen:], start=seen):
        resumed.record(step=step, kind="leader", preference_loss=value)
    assert_frame_equal(resumed.frame(), whole.frame())


def test_truncating_to_rows_that_are_not_there_is_refused(tmp_path):
    metrics = Metrics(tmp_path / "metrics.parquet")
    for rows in (1, -1):
        with pytest.raises(InputError, match="holds 0 rows"):
            metrics.truncate(rows)


def test_damaged_and_absent_metrics_are_one_line(tmp_path):
    path = tmp_path / "metrics.parquet"
    with pytest.raises(InputError, match="first evaluation"):
        read_metrics(tmp_path)
    metrics = Metrics(path)
    metrics.record(step=1, kind="eval", true_return=1.0)
    metrics.flush()
    content = path.read_bytes()
    for damaged in (b"", b"no parquet", content[:-5], content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged") as caught:
            Metrics.load(path)
        assert "\n" not in str(caught.value)


def test_a_table_of_an_older_version_gets_the_missing_columns(tmp_path):
    pl.DataFrame({"step": [1], "kind": ["eval"], "true_return": [2]}).write_parquet(
        tmp_path / "metrics.parquet"
    )
    frame = read_metrics(tmp_path)
    assert frame["cosine"].to_list() == [None] and frame["true_return"].to_list() == [2.0]


# --- the progress line


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def run_progress(path: Path, seconds_per_step: float, start: int = 0, terminal: bool = False) -> list[str]:
    clock = Clock()
    with path.open("w") as file:
        console = Console(file=file, force_terminal=terminal, width=200, legacy_windows=False)
        with Progress(1000, start, console, clock) as progress:
            for step in range(start + 1, 1001):
                clock.now += seconds_per_step
                progress.update(step, true_return=-1234.5, preference_accuracy=0.815, comparisons=step // 10)
                progress.update(step, preference_accuracy=None)
    return path.read_text().splitlines()


def test_a_fast_run_prints_a_line_every_twentieth(tmp_path):
    lines = run_progress(tmp_path / "log", 0.01)
    assert len(lines) == 20
    for part in (
        "50%",
        "500/1,000 steps",
        "100 steps/s",
        "true return -1,234.5",
        "accuracy 81.5%",
        "0:05 left",
    ):
        assert part in lines[9]
    assert "50 comparisons" in lines[9]
    assert "100%" in lines[-1] and "left" not in lines[-1]


def test_a_slow_run_prints_every_half_minute_and_a_resumed_one_counts_its_own_speed(tmp_path):
    assert len(run_progress(tmp_path / "slow", 10.0)) == 334
    resumed = run_progress(tmp_path / "resumed", 1.0, start=900)
    assert " 1 steps/s" in resumed[0] and "1:10 left" in resumed[0]


def test_a_terminal_gets_a_live_line_with_the_same_text(tmp_path):
    text = "\n".join(run_progress(tmp_path / "log", 0.01, terminal=True))
    assert "\x1b[" in text and "1,000/1,000 steps" in text and "100 comparisons" in text


def test_messages_are_printed_as_they_are(tmp_path):
    with (tmp_path / "log").open("w") as file:
        Progress(10, console=Console(file=file, width=20)).message("skipped [bold]step_1[/bold] " + "x" * 50)
    assert (tmp_path / "log").read_text() == "skipped [bold]step_1[/bold] " + "x" * 50 + "\n"


def test_settings_added_since_take_their_defaults_and_others_are_missed():
    plain = dataclasses.asdict(TrainConfig())
    assert TrainConfig.from_json({k: v for k, v in plain.items() if k != "skip_not_finite"}) == TrainConfig()
    with pytest.raises(InputError, match="lacks 'discount'"):
        TrainConfig.from_json({name: value for name, value in plain.items() if name != "discount"})
