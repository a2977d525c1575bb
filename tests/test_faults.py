"""What a machine does to a run: folders that cannot be written, full disks, clocks that jump, two processes.
Each ends in one line and loses nothing, or is not felt at all."""

import contextlib
import ctypes
import fcntl
import itertools
import os
import resource
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rewardsmith._core import InputError, atomic
from rewardsmith._core.serialise import check_tree_file
from rewardsmith.preferences.store import Store, clip_files
from rewardsmith.runs import people
from rewardsmith.runs.export import export_run
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.metrics import read_metrics
from rewardsmith.runs.train import resume, train
from rewardsmith.runs.training import Training
from tests.commands import command
from tests.left_behind import shared_programs
from tests.small_runs import assert_same, killed_at, settings
from tests.store_databases import answer, ask, let_in, taken
from tests.test_held_out import Film

pytestmark = pytest.mark.usefixtures("compile_quickly")
pytest_plugins = "tests.store_databases"

SMALL = {
    "env": "Pendulum-v1", "method": "drlhf", "steps": 400, "learning_starts": 120, "hidden": (8,),
    "leader_steps": 2, "leader_warmup_steps": 4, "snapshot_every": None, "checkpoint_every": 80,
}  # fmt: skip
YEAR = 366 * 86400


@pytest.fixture(scope="module", autouse=True)
def programs():
    with shared_programs():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    return train(settings(**SMALL), tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """A run that kept what films of its clips take."""
    return train(settings(**SMALL, film_clips=True), tmp_path_factory.mktemp("filmed") / "run")


def at_step(monkeypatch, step, happens):
    """`happens` before the run goes beyond a step, once."""
    iterate, done = Training._iterate, []

    def iterated(self):
        if self.step >= step and not done:
            done.append(self.step)
            happens()
        iterate(self)

    monkeypatch.setattr(Training, "_iterate", iterated)


def kept(folder: Path):
    """All files but the lock, with what they hold."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.read_bytes() for path in files}


def one_line(text):
    assert text.count("\n") == 1 and "Traceback" not in text
    return text


# ---- folders that cannot be written ---------------------------------------------------------------


@contextlib.contextmanager
def subject_to_permissions():
    """Inside, permissions hold for this thread even if it is root's: three capabilities are laid down."""
    if os.geteuid() != 0:
        yield
        return
    if not sys.platform.startswith("linux"):
        pytest.skip("permissions do not hold for root here")
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) != 0:
        pytest.skip("this system does not tell capabilities")
    before = sets[0]
    # To write, to search and to own whatever the permissions are.
    sets[0] &= ~0b1110
    assert libc.capset(header, sets) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        sets[0] = before
        assert libc.capset(header, sets) == 0


def shut(folder: Path, mode=0o555):
    """Nothing can be made or replaced in the folder, or in one below."""
    for path in (folder, *sorted(entry for entry in folder.rglob("*") if entry.is_dir())):
        path.chmod(mode)


@pytest.fixture
def closed(tmp_path):
    """Folders closed in a test are opened behind it, so that they can be removed."""
    with subject_to_permissions():
        yield tmp_path
    shut(tmp_path, 0o755)


def test_permissions_hold_in_these_tests(closed):
    shut(closed)
    with pytest.raises(PermissionError):
        (closed / "file").write_text("x")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--out", "{shut}/new", "--env", "Pendulum-v1"),
        ("train", "--resume", "{run}"),
        ("export", "{run}", "--out", "{shut}/export"),
        ("eval", "{run}", "--episodes", "1"),
        ("report", "{run}"),
        ("influence", "{run}", "--folds", "0", "--fit-steps", "1"),
        ("clips", "{run}"),
        ("plot", "{run}", "--out", "{shut}/curves.svg"),
        ("sweep", "--out", "{shut}/sweep", "--env", "Pendulum-v1"),
        ("tune", "--out", "{shut}/tune", "--env", "Pendulum-v1", "--search", "learning-rate=1e-4:1e-3"),
        ("solve", "four-rooms", "--out", "{shut}/solved"),
        ("label", "{store}", "--add-labeller", "Ann"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]).split("{")[0].strip(),
)
def test_a_folder_that_cannot_be_written_ends_a_command_in_one_line(closed, filmed, capsys, arguments):
    places = {"run": filmed.path, "shut": closed / "shut", "store": closed / "store"}
    places["shut"].mkdir()
    with Store.open(places["store"]):
        pass
    before = kept(filmed.path) | kept(closed)
    for folder in (closed, filmed.path):
        shut(folder)
        for path in kept(folder):
            path.chmod(0o444)
    try:
        status = command(*(part.format(**places) for part in arguments))
    finally:
        shut(filmed.path, 0o755)
    said = capsys.readouterr()
    assert status == 2, said
    line = one_line(said.err)
    assert "permi" in line.lower() or "cannot write" in line
    assert kept(filmed.path) | kept(closed) == before


def test_a_folder_that_is_closed_in_the_middle_loses_nothing(closed, whole, monkeypatch):
    run = closed / "run"
    at_step(monkeypatch, 250, lambda: shut(run))
    with pytest.raises(InputError, match=r"cannot write .*: free some space or mend its permissions") as told:
        train(settings(**SMALL), run)
    assert "\n" not in str(told.value)
    shut(run, 0o755)
    newest = RunFolder.open(run).checkpoints()[-1]
    check_tree_file(newest)
    assert newest.name == "step_000000240.safetensors"
    assert_same(whole, resume(run))


# ---- full disks -----------------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk_for(prefix, within="", holds=64):
    """A file whose temporary name begins so is cut at so many bytes, as on a disk that fills up meanwhile."""
    make, limits = atomic.tempfile.mkstemp, resource.getrlimit(resource.RLIMIT_FSIZE)

    def made(*arguments, **options):
        found = make(*arguments, **options)
        if options["prefix"].startswith(prefix) and options["dir"].name.endswith(within):
            resource.setrlimit(resource.RLIMIT_FSIZE, (holds, limits[1]))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic.tempfile, "mkstemp", made)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    "files",
    [(".step", "checkpoints"), (".step", "snapshots"), (".metrics",), (".comparisons",)],
    ids=lambda f: f[-1],
)
def test_a_disk_that_fills_up_in_the_middle_loses_nothing(tmp_path, whole, monkeypatch, files):
    """While a checkpoint, the metrics, the comparisons or a snapshot are written."""
    with contextlib.ExitStack() as held:
        at_step(monkeypatch, 200, lambda: held.enter_context(full_disk_for(*files)))
        with pytest.raises(InputError, match=r"cannot write .*: free some space") as told:
            train(settings(**SMALL), tmp_path / "run")
    assert "\n" not in str(told.value)
    folder = RunFolder.open(tmp_path / "run")
    for path in (*folder.checkpoints(), *folder.snapshots_path.iterdir()):
        check_tree_file(path)
    assert not list(folder.path.rglob(".*-*"))
    assert_same(whole, resume(folder.path))


def test_a_disk_that_fills_up_leaves_nothing_of_an_export(tmp_path, whole):
    for prefix in (".reward", ".policy", ".config", ".README"):
        with full_disk_for(prefix), pytest.raises(InputError, match="free some space"):
            export_run(whole.path, tmp_path / "out")
        assert not list(tmp_path.iterdir()), prefix


def test_a_disk_that_fills_up_while_a_clip_is_kept_leaves_the_store_whole(tmp_path):
    with Store.open(tmp_path / "store") as store:
        first = store.add_clip({"a": np.zeros(4000)}, env="e", length=3, film=None)
        with full_disk_for("."), pytest.raises(InputError, match="free some space"):
            store.add_clip({"a": np.ones(4000)}, env="e", length=3, film=None)
        second = store.add_clip({"a": np.ones(4000)}, env="e", length=3, film=None)
        assert store.ask([(first, second)], asked_by="x", step=0) == [1]
        assert store.load_clip(second)["a"].sum() == 4000
    assert len(list((tmp_path / "store" / "clips").iterdir())) == 2


# ---- clocks that jump -----------------------------------------------------------------------------


class Wall:
    """A wall clock that can be set; the monotonic one goes on."""

    def __init__(self, monkeypatch):
        self.ahead, real, real_ns = 0.0, time.time, time.time_ns
        monkeypatch.setattr(time, "time", lambda: real() + self.ahead)
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(self.ahead * 1e9))

        class Set(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.now(tz) + timedelta(seconds=self.ahead)

        monkeypatch.setattr(people, "datetime", Set)


@pytest.fixture
def wall(monkeypatch):
    return Wall(monkeypatch)


JUMPS = {"a year back": -YEAR, "ten years ahead": 10 * YEAR}


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
def test_a_run_does_not_feel_the_clock_jump(tmp_path, whole, wall, monkeypatch, jump):
    at_step(monkeypatch, 200, lambda: setattr(wall, "ahead", jump))
    with killed_at(300):
        train(settings(**SMALL), tmp_path / "run")
    wall.ahead = -jump
    folder = resume(tmp_path / "run")
    assert_same(whole, folder)
    seconds = read_metrics(folder.path)["seconds"]
    assert seconds.is_sorted() and 0 <= seconds.min() <= seconds.max() < 600


def asking(monkeypatch, **changes):
    monkeypatch.setattr(people, "ClipFilmer", Film)
    apart = {"teacher": "human", "comparisons": 12, "max_waiting": 4, "held_out": 0.0, "answer_wait": 0.0}
    return settings(**SMALL | apart | changes)


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
def test_no_question_is_withdrawn_because_the_clock_jumped(tmp_path, wall, monkeypatch, jump):
    """What was just asked waits for its deadline, and an answer to it counts."""
    at_step(monkeypatch, 200, lambda: setattr(wall, "ahead", jump))
    train(asking(monkeypatch, answer_deadline=3600.0), tmp_path / "run")
    with Store.open(tmp_path / "run" / "answers") as store:
        counts = store.counts()
        assert (counts.open, counts.withdrawn) == (4, 0)


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
def test_no_question_waits_for_ever_because_the_clock_jumped(tmp_path, wall, monkeypatch, jump):
    """Nor behind a stop, when the time until then is known from the wall clock alone."""
    at_step(monkeypatch, 200, lambda: setattr(wall, "ahead", jump))
    config = asking(monkeypatch, answer_deadline=1e-3, fallback_teacher="oracle", leader_every=80)
    with killed_at(300):
        train(config, tmp_path / "run")
    wall.ahead = 2 * min(jump, 0)
    resume(tmp_path / "run")
    with Store.open(tmp_path / "run" / "answers") as store:
        counts = store.counts()
        # All but those of the last session, and those asked between checkpoint and death.
        assert counts.withdrawn >= 6 and counts.open <= 8


def test_whatever_the_clock_does_every_question_comes_back_and_every_answer_counts(tmp_path, moved_clock):
    """A session of labelling in which it is set again and again, by up to ten years."""
    jumps = itertools.cycle([-YEAR, 10 * YEAR, 3601, -10 * YEAR, -7, YEAR])
    with Store.open(tmp_path, lease_seconds=60.0) as store:
        ask(store, 24)
        people_ = itertools.cycle(let_in(store, "Ann", "Bob", "Cid"))
        given = {}
        for turn, (who, jump) in enumerate(zip(people_, jumps, strict=False)):
            held = taken(store, who, 2)
            moved_clock.seconds += jump
            # Every third time the page was left open: the question must come back.
            if turn % 3 and held:
                given[held[0]] = answer(store, held[0], who).sequence
            if len(given) == 24 or turn > 200:
                break
            moved_clock.seconds += 61
        assert len(given) == 24
        assert {record.question: record.sequence for record in store.records()} == given
        assert store.counts().answered == 24 and store.counts().open == 0
        sequences = [record.sequence for record in store.records()]
        assert sequences == sorted(sequences)


def test_a_clip_under_way_elsewhere_may_go_while_old_ones_are_swept(tmp_path, monkeypatch):
    """Two processes open a store: what one is about to sweep, the other has just given its name."""
    with Store.open(tmp_path):
        pass
    left = tmp_path / "clips" / ".abc-x.safetensors"
    left.write_bytes(b"half")
    monkeypatch.setattr(clip_files, "time", SimpleNamespace(time=lambda: left.unlink() or 0.0))
    with Store.open(tmp_path):
        pass
    assert not left.exists()


# ---- two processes at one run -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--resume", "{run}"),
        ("train", "--out", "{run}", "--env", "Pendulum-v1"),
        ("sweep", "--resume", "{run}"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_second_process_is_refused(tmp_path, whole, capsys, arguments):
    before = kept(whole.path)
    with (whole.path / ".lock").open("a") as handle:
        # Another open file of the same lock is another process to it.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert command(*(part.format(run=whole.path) for part in arguments)) == 2
    one_line(capsys.readouterr().err)
    assert kept(whole.path) == before


def test_whoever_reads_a_run_in_progress_disturbs_nothing(tmp_path, whole, monkeypatch, capsys):
    """Its checkpoint is taken out, judged and its page written while it goes on, at every moment between."""
    run, moments = tmp_path / "run", itertools.count()

    def read():
        export_run(run, tmp_path / f"export-{next(moments)}")
        assert command("eval", run, "--episodes", 1) == 0
        assert command("report", run) == 0

    at_step(monkeypatch, 200, read)
    folder = train(settings(**SMALL), run)
    assert (tmp_path / "export-0").is_dir()
    assert_same(whole, folder)


def test_a_checkpoint_that_goes_while_it_is_read_is_one_line(tmp_path, whole, monkeypatch):
    """The run has written two newer ones meanwhile."""
    check = check_tree_file

    def gone(path):
        check(path)
        path.unlink()

    monkeypatch.setattr("rewardsmith.runs.folder.check_tree_file", gone)
    copy = tmp_path / "run"
    (copy / "checkpoints").mkdir(parents=True)
    for path in (whole.config_path, whole.metrics_path, *whole.checkpoints()):
        (copy / path.relative_to(whole.path)).write_bytes(path.read_bytes())
    with pytest.raises(InputError) as told:
        export_run(copy, tmp_path / "out")
    assert "\n" not in str(told.value) and not (tmp_path / "out").exists()
