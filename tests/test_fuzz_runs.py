"""Folders that someone else wrote, or a disk has spoilt: every command reads them right or refuses them."""

import dataclasses
import json
import os
import shutil

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import given

from rewardsmith._core import InputError
from rewardsmith.runs.audit.record import write_audit
from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.train import train
from rewardsmith.runs.training import Training
from tests.commands import command
from tests.fuzzing import LONG, digest, examples, json_texts, refused, refused_command, spoilt_bytes
from tests.made_up import made_up_audit
from tests.small_runs import killed_at, settings
from tests.test_fuzz_checkpoints import forge, parts

pytestmark = pytest.mark.usefixtures("compile_quickly")

SMALL = {
    "env": "Pendulum-v1",
    "steps": 400,
    "replay": 200,
    "comparisons": 20,
    "queue": 20,
    "eval_every": 100,
    "checkpoint_every": 100,
    "snapshot_every": None,
    "hidden": (8,),
    "clip_length": 5,
    "suffix_length": 5,
}
EVALUATED = {"step": 120, "episodes": 2, "seed": 0, "sampled": False, "mean": -9.0, "std": 1.0}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The folder of a run that was stopped; in long mode one that has learned."""
    path = tmp_path_factory.mktemp("runs") / "good"
    with killed_at(260 if LONG else 120):
        train(settings(**SMALL), path)
    folder = RunFolder(path)
    folder.eval_path.write_text(json.dumps(EVALUATED))
    folder.warn("a warning")
    write_audit(folder.audit_path, made_up_audit())
    return path


@pytest.fixture
def run(good, tmp_path, monkeypatch):
    """A copy of it, in which nothing is trained further."""
    path = tmp_path / "run"
    shutil.copytree(good, path)
    monkeypatch.setattr(Training, "run", lambda self: None)
    monkeypatch.setattr("rewardsmith.runs.finish.finish", lambda folder: None)
    monkeypatch.setattr("rewardsmith.runs.check.run._measure_run", measured)
    return path


def measured(checked):
    raise InputError("the run was read: what takes long is left out")


def readers(run, out):
    """Commands that read a run's folder; those that write elsewhere write below `out`."""
    return {
        "resume": ("train", "--resume", run),
        "eval": ("eval", run, "--episodes", 1),
        "plot": ("plot", run, "--out", out / "curves.png"),
        "report": ("report", run, "--quick", "--out", out / "page.html"),
        "compare": ("compare-runs", run, "--unfinished", "--out", out / "ranking"),
        "export": ("export", run, "--out", out / "export"),
        "influence": ("influence", run, "--folds", 0),
        "clips": ("clips", run, "--out", out / "clips"),
        "check": ("check", run, "--pairs", 64, "--out", out / "check"),
    }


def read(capsys, run, name):
    """Let a command read a run: what it says; where it refuses, nothing was written anywhere."""
    out = run.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    before = digest(run)
    line = refused_command(capsys, *readers(run, out)[name], gigabytes=6)
    if line is not None and "the run was read" in line:
        return None
    if line is not None:
        assert digest(run) == before, name
        assert not digest(out), name
    return line


def restored(run, good):
    """Put the files of the good run back in place."""
    shutil.rmtree(run)
    shutil.copytree(good, run)


def test_the_good_run_is_read_by_every_command(run, good, capsys):
    refusals = {}
    for name in readers(run, run):
        refusals[name] = read(capsys, run, name)
        restored(run, good)
    print(refusals)
    assert [name for name, line in refusals.items() if line] in (["influence", "clips"], ["clips"])


BY_CONFIG = ["resume", "eval", "plot", "report", "compare", "export", "influence", "clips", "check"]


@examples(60, 3000)
@given(data=st.data())
def test_a_spoilt_config_is_refused_or_read_by_every_command(run, good, capsys, data):
    text = (good / "config.json").read_text()
    spoilt = data.draw(st.one_of(json_texts(json.loads(text)), spoilt_bytes(text.encode())))
    name = data.draw(st.sampled_from(BY_CONFIG))
    (run / "config.json").write_bytes(spoilt if isinstance(spoilt, bytes) else spoilt.encode())
    try:
        read(capsys, run, name)
    finally:
        restored(run, good)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("steps", "400", "a whole number"),
        ("steps", 400.0, "a whole number"),
        ("steps", True, "a whole number"),
        ("fused", 1, "true or false"),
        ("fused", "no", "true or false"),
        ("discount", "0.9", "a number"),
        ("env", 5, "a text"),
        ("hidden", "64", "a list"),
        ("hidden", [8.5], "a list"),
        ("temperature", [], "a number or null"),
        ("seed", None, "a whole number"),
    ],
)
def test_a_setting_of_another_type_is_named(name, value, says):
    """Nothing stands for a whole number but one: 400.0 steps would be counted, and True is no seed."""
    config = dataclasses.asdict(settings(**SMALL)) | {name: value}
    line = refused(lambda: TrainConfig.from_json(config))
    assert line is not None and f"{name} is " in line and says in line


@pytest.mark.parametrize("name", ["hidden", "num_envs", "replay", "clip_length", "eval_episodes", "queue"])
def test_settings_that_no_machine_holds_are_refused_before_anything_is_written(
    tmp_path, capsys, monkeypatch, name
):
    flag = f"--{name.replace('_', '-')}"
    monkeypatch.setattr("rewardsmith.runs.train._run", stopped)
    for value in (2**31 - 2**17, 2**31, 2**63, 10**400):
        given = {"--env": "Pendulum-v1", "--steps": 10**9, flag: value}
        words = [word for pair in given.items() for word in pair]
        line = refused_command(capsys, "train", *words, "--out", tmp_path / "run", gigabytes=4)
        assert line is not None and not digest(tmp_path)


def test_a_folder_cannot_have_a_module_imported(run, capsys, monkeypatch):
    """``--env MODULE:ID`` imports a module for who types it, not for who is sent a folder."""
    (run.parent / "unasked.py").write_text("raise SystemExit('code of the folder has run')")
    monkeypatch.syspath_prepend(run.parent)
    config = json.loads((run / "config.json").read_text()) | {"env": "unasked:Env-v0"}
    (run / "config.json").write_text(json.dumps(config))
    for name in ("resume", "eval", "export", "influence", "clips", "check"):
        line = read(capsys, run, name)
        assert line is not None and "REWARDSMITH_MODULES=unasked" in line
    monkeypatch.setenv("REWARDSMITH_MODULES", "unasked")
    assert command("eval", run) == "code of the folder has run"


def stopped(*given, **options):
    raise AssertionError("it has begun")


THINGS = {
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "loop": lambda path: path.symlink_to(path.name),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "nowhere": lambda path: path.symlink_to("nowhere"),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
}
READ_BY = {
    "config.json": ("eval", "compare"),
    "eval.json": ("compare",),
    "warnings.json": ("report",),
    "audit.json": ("report",),
    "metrics.parquet": ("plot", "resume"),
    "checkpoints": ("eval",),
    "the newest checkpoint": ("eval",),
    ".lock": ("resume",),
}


@pytest.mark.parametrize("thing", THINGS)
def test_other_things_in_place_of_files_are_refused_or_passed_over(run, good, capsys, thing):
    for file, names in READ_BY.items():
        for name in names:
            path = RunFolder(run).checkpoints()[-1] if file == "the newest checkpoint" else run / file
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            THINGS[thing](path)
            read(capsys, run, name)
            restored(run, good)


JSON_FILES = {"warnings.json": ["report", "export"], "eval.json": ["report", "compare", "export"]}
JSON_FILES["audit.json"] = ["report", "export"]


@examples(60, 3000)
@given(data=st.data())
def test_other_spoilt_json_is_refused_or_read(run, good, capsys, data):
    file = data.draw(st.sampled_from(sorted(JSON_FILES)))
    text = (good / file).read_text()
    spoilt = data.draw(st.one_of(json_texts(json.loads(text)), spoilt_bytes(text.encode())))
    name = data.draw(st.sampled_from(JSON_FILES[file]))
    (run / file).write_bytes(spoilt if isinstance(spoilt, bytes) else spoilt.encode())
    try:
        read(capsys, run, name)
    finally:
        restored(run, good)


numbers = st.one_of(st.none(), st.floats(), st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 100, 400]))


@st.composite
def tables(draw, good):
    """Metrics with columns of other types, missing, with odd numbers, empty, or with many rows alike."""
    frame = pl.read_parquet(good / "metrics.parquet")
    rows = draw(st.integers(0, 4))
    for name in draw(st.lists(st.sampled_from(frame.columns), max_size=4, unique=True)):
        match draw(st.sampled_from(["drop", "number", "text", "list", "null"])):
            case "drop":
                frame = frame.drop(name)
            case "number":
                value = draw(numbers)
                frame = frame.with_columns(pl.lit(value).alias(name))
            case "text":
                frame = frame.with_columns(pl.lit(draw(st.sampled_from(["", "eval", "1e999"]))).alias(name))
            case "list":
                frame = frame.with_columns(pl.lit([1.0]).alias(name))
            case _:
                frame = frame.with_columns(pl.lit(None).alias(name))
    return pl.concat([frame] * rows) if rows else frame.clear()


@examples(40, 3000)
@given(data=st.data())
def test_spoilt_metrics_are_refused_or_read(run, good, capsys, data):
    path = run / "metrics.parquet"
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(spoilt_bytes((good / "metrics.parquet").read_bytes())))
    else:
        data.draw(tables(good)).write_parquet(path)
    try:
        read(capsys, run, data.draw(st.sampled_from(["resume", "plot", "report", "compare", "export"])))
    finally:
        restored(run, good)


hostile = {
    "i": st.sampled_from([-(2**63), -1, 0, 1, 7, 2**31, 2**62, 2**63 - 1]),
    "u": st.sampled_from([0, 1, 255, 2**64 - 1]),
    "f": st.sampled_from([np.nan, np.inf, -np.inf, -1.0, 0.0, 1e30, 1e-30]),
    "b": st.booleans(),
}


@examples(20, 2000)
@given(data=st.data())
def test_a_checkpoint_with_forged_values_is_refused_or_read(run, good, capsys, data):
    """Every checksum is right and every array of the right shape: what they hold is another's choice."""
    path = RunFolder(run).checkpoints()[-1]
    tensors, told = parts(path)
    for name in data.draw(st.lists(st.sampled_from(sorted(tensors)), min_size=1, max_size=3)):
        value = data.draw(hostile[tensors[name].dtype.kind])
        array = tensors[name]
        with np.errstate(all="ignore"):
            filled = np.full(array.shape, np.asarray(value).astype(array.dtype))
        kept = np.arange(array.size).reshape(array.shape) % 2 == data.draw(st.integers(0, 2))
        tensors[name] = np.where(kept, array, filled)
    forge(path, tensors, told["rewardsmith.leaves"])
    try:
        read(capsys, run, data.draw(st.sampled_from(["resume", "eval", "export", "influence", "clips"])))
    finally:
        restored(run, good)


def test_a_checkpoint_under_another_name_is_refused(run, capsys):
    """Renamed to a later step it would be taken for the newest, and every snapshot kept as earlier."""
    path = RunFolder(run).checkpoints()[-1]
    path.rename(RunFolder(run).checkpoint_path(399))
    for name in ("resume", "eval", "export"):
        line = read(capsys, run, name)
        assert line is not None and "is of step" in line
