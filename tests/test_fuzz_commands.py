"""Any words on the command line: one line and status 2, or what was asked for; nothing half written."""

import dataclasses
import os
import shutil
import typing

import hypothesis.strategies as st
import pytest
from hypothesis import given

from rewardsmith._core import InputError
from rewardsmith.cli import _COMMANDS
from rewardsmith.runs.sweep.engines import Running
from tests.fuzzing import digest, examples, refused_command

pytestmark = pytest.mark.usefixtures("compile_quickly")

NAMES = list(_COMMANDS)
# Absolute paths but these would be written to.
SAFE = ("/", "/dev/null", "/dev/zero", "/proc/self/mem", "/no/such/place")
odd = st.one_of(
    st.sampled_from(
        [
            *("", " ", "-", "--", "-1", "0", "1", "2", "1e999", "nan", "inf", "-inf", "1" * 400, "1" * 5000),
            *("None", "none", "True", "text", "a=b", "=", "a=", "=b", "x" * 5000, "\ud800", "\udcff", "\0"),
            *SAFE,
            *(".", "..", "loop", "fifo", "file", "folder", "file/below", "folder/x", "~", "*", "{}", "%s"),
            *(
                "\n",
                "a\nb",
                "\x1b[31m",
                "é",
                "日本",
                "0x10",
                "1_000",
                "１２",
                "2**63",
                "1.5",
                "a.png",
                "a.svg",
            ),
            *(str(2**31), str(2**63), str(-(2**63)), str(2**64), "1000000000", "0.1", "1e-300", "1e300"),
            *(
                "os:Env",
                "this:Env-v0",
                ":",
                "a:b:c",
                "ALE/",
                "ALE/Pong-v5",
                "gymnax/none",
                "gymnax/",
                "brax/",
            ),
            *(
                "0:5",
                "0:99999999999",
                "5:0",
                "learning-rate=1,2",
                "steps=",
                "temperature=1,none",
                "x=log:1:2",
            ),
            *(
                "discount=0.1:0.9",
                "steps=int:1:9",
                "penalty=3",
                "discount=2",
                "temperature=0",
                "levels=99999",
            ),
            *("preference", "contract", "shaping", "four-rooms", "tax", "sac", "drlhf", "hpgd", "atari"),
        ]
    ),
    st.text(max_size=12).filter(lambda text: "/" not in text),
    st.integers().map(str),
    st.floats().map(str),
)
GOOD = (
    "--env",
    "Pendulum-v1",
    "--steps",
    "400",
    "--comparisons",
    "9",
    "--num-envs",
    "2",
    "--clip-length",
    "5",
)
STARTS = {
    "train": GOOD,
    "sweep": GOOD,
    "tune": (*GOOD, "--search", "discount=0.5:0.9"),
    "solve": ("preference",),
}


def flags_of(name):
    """The options of a command: its parameters, and the fields of those that are settings."""
    found = ["help"]
    for parameter, hint in typing.get_type_hints(_COMMANDS[name]).items():
        found += (
            [field.name for field in dataclasses.fields(hint)]
            if dataclasses.is_dataclass(hint)
            else [parameter]
        )
    return [f"--{one.strip('_').replace('_', '-')}" for one in found if one != "return"]


FLAGS = {name: flags_of(name) for name in NAMES}


@st.composite
def command_lines(draw):
    name = draw(st.sampled_from(NAMES))
    words = list(STARTS.get(name, ())) if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 4))):
        flag = draw(st.sampled_from(FLAGS[name]))
        match draw(st.sampled_from(["pair", "pair", "pair", "equals", "flag", "word", "several"])):
            case "pair":
                words += [flag, draw(odd)]
            case "equals":
                words.append(f"{flag}={draw(odd)}")
            case "flag":
                words.append(flag)
            case "word":
                words.insert(0, draw(odd))
            case _:
                words += [flag, *draw(st.lists(odd, max_size=3))]
    return [draw(odd) if draw(st.integers(0, 30)) == 0 else name, *words]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with things in the way; what takes long or leaves this process is left out."""
    monkeypatch.setattr("rewardsmith.runs.train._run", lambda folders, restored: None)
    monkeypatch.setattr("rewardsmith.runs.finish.finish", lambda folder: None)
    monkeypatch.setattr("rewardsmith.runs.sweep.run._go_on", lambda *given: 0)
    monkeypatch.setattr("rewardsmith.runs.sweep.tune._Tuning.run", lambda self, engine: 0)
    monkeypatch.setattr("rewardsmith.runs.exact.run._go_on", lambda *given: None)
    monkeypatch.setattr("rewardsmith.runs.check.run._world", stopped)
    monkeypatch.setattr("rewardsmith.label.serve", lambda *given, **options: None)
    monkeypatch.setattr("rewardsmith.cli.choose_device", lambda device, threads: None)
    make = Running.make
    monkeypatch.setattr(Running, "make", lambda self: make(self) if self.address is None else stopped())
    monkeypatch.setitem(os.environ, "RAY_ADDRESS", "")
    path = tmp_path / "place"
    furnish(path)
    monkeypatch.chdir(path)
    return path


def stopped(*given):
    raise InputError("stopped here by the test")


def furnish(path):
    path.mkdir(exist_ok=True)
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    (path / "file").write_text("text")
    (path / "folder").mkdir()
    (path / "folder" / "x").write_text("{}")
    (path / "loop").symlink_to("loop")
    os.mkfifo(path / "fifo")


@examples(60, 6000)
@given(data=st.data())
def test_any_words_are_a_command_or_refused_in_one_line(place, capsys, data):
    words = data.draw(command_lines())
    before = digest(place)
    try:
        line = refused_command(capsys, *words, gigabytes=6)
        if line is not None and "stopped here" not in line:
            assert digest(place) == before
    finally:
        furnish(place)
