"""Two hours of work hold no more of the machine than the first minutes: memory, programs, descriptors.

A run learns from people who answer through its own label server, and a second server is kept busy beside it.
REWARDSMITH_SOAK=1 for the two hours (or so many minutes as REWARDSMITH_SOAK_MINUTES says); else until a few
sessions, evaluations and checkpoints are past.
"""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from label_server import fill, people, serving
from long_run import held

from rewardsmith.preferences.store import Store
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.metrics import read_metrics
from tests.small_runs import settings

ROOT = Path(__file__).parents[1]
SOAK = os.environ.get("REWARDSMITH_SOAK") == "1"
# The short one ends by its steps, on any machine.
SECONDS = 60.0 * float(os.environ.get("REWARDSMITH_SOAK_MINUTES", "120")) if SOAK else 1000.0
STEPS = 10**9 if SOAK else 3200
PEOPLE, BUSY_PEOPLE = (10, 10) if SOAK else (3, 5)
# MiB: by which memory may waver, and for each answer in training: clips held out are kept.
SLACK, GROWTH = 64.0, 0.005
# Descriptors and threads by which their number may waver, as connections come and go.
FEW = 4
CONFIG = settings(
    env="Pendulum-v1",
    method="sobirl",
    teacher="human",
    steps=8_000_000 if SOAK else 20_000,
    comparisons=30_000 if SOAK else 200,
    max_waiting=32 if SOAK else 4,
    answer_wait=20.0,
    num_envs=8,
    clip_length=25,
    hidden=(64, 64),
    reward_hidden=(64, 64),
    replay=20_000 if SOAK else 2000,
    queue=3000 if SOAK else 30,
    leader_every=2000 if SOAK else 800,
    eval_every=5000 if SOAK else 800,
    checkpoint_every=20_000 if SOAK else 800,
    snapshot_every=20_000 if SOAK else 800,
    learning_starts=400,
)


@contextlib.contextmanager
def crowd(server, tokens, seconds):
    """People at work; yields what will hold what they did."""
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("label_crowd.py"), str(server.port), str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    seen = {}
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(list(tokens.values())))
        process.stdin.close()
        process.stdin = None
        yield seen
        process.terminate()
        out, _ = process.communicate(timeout=60)
        seen.update(json.loads(out))
    finally:
        process.kill()
        process.wait()


def watched(trainer, servers, seconds):
    """Samples of the servers until the run has ended."""
    found = {name: [] for name in servers}
    until = time.monotonic() + seconds + 300
    while trainer.poll() is None:
        assert time.monotonic() < until, "the run does not end"
        for name, server in servers.items():
            found[name].append(held(server.process.pid))
        time.sleep(10 if SOAK else 0.2)
    return found


def later(samples):
    """Those of the second quarter of the time, and of the last."""
    count = len(samples)
    return samples[count // 4 : count // 2], samples[count - count // 4 :]


def growth(samples):
    """MiB from the second quarter to the last, by their medians."""
    early, late = (statistics.median(one["memory"] for one in part) for part in later(samples))
    return late - early


def assert_flat(name, samples, allowed):
    early, late = later(samples)
    assert growth(samples) < allowed, f"{name} grew by {growth(samples):.1f} MiB"
    for what in ("descriptors", "threads"):
        most = max(one[what] for one in early) + FEW
        assert max(one[what] for one in late) <= most, f"{what} of {name} grow"


def told(name, samples):
    early, late = later(samples)
    memory = [statistics.median(one["memory"] for one in part) for part in (early, late)]
    return (
        f"{name}: {memory[0]:.0f} MiB in the second quarter, {memory[1]:.0f} MiB in the last; "
        f"{late[-1]['descriptors']} descriptors, {late[-1]['threads']} threads"
    )


def test_what_is_held_does_not_grow(tmp_path, capsys):
    run, samples = tmp_path / "run", tmp_path / "samples"
    busy = fill(
        tmp_path / "busy",
        100_000 if SOAK else 600,
        clips=320 if SOAK else 26,
        labellers=people(BUSY_PEOPLE, owner=False),
    )
    config = json.dumps(dataclasses.asdict(CONFIG))
    command = [sys.executable, "-m", "tests.long_run", run, samples, str(SECONDS), str(STEPS), config]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    ) as trainer:
        try:
            answers = run / "answers"
            while not (answers / "answers.sqlite").exists():
                assert trainer.poll() is None
                time.sleep(0.1)
            with Store.open(answers) as store:
                tokens = {name: store.add_labeller(name, role) for name, role in people(PEOPLE, owner=False)}
            with contextlib.ExitStack() as held_open:
                servers = {
                    "label server of the run": held_open.enter_context(serving(answers)),
                    "busy label server": held_open.enter_context(serving(tmp_path / "busy")),
                }
                crowds = [
                    held_open.enter_context(crowd(server, who, SECONDS))
                    for server, who in zip(servers.values(), (tokens, busy), strict=True)
                ]
                found = watched(trainer, servers, SECONDS)
            assert trainer.returncode == 0
        finally:
            trainer.kill()
    own = [json.loads(line) for line in samples.read_text().splitlines()]
    answered = [len(one["log"]) for one in crowds]
    lines = [told("training", own), *(told(*one) for one in found.items())]
    with capsys.disabled():
        print(f"\n{own[-1]['seconds'] / 60:.0f} minutes, {own[-1]['step']:,} steps, answers: {answered}")
        print("\n".join(lines))
    for one in crowds:
        assert one["others"].keys() == {"200"} and {status for *_, status, _ in one["log"]} == {200}
    assert min(answered) >= 10
    assert not [name for line in own[len(own) // 2 :] for name in line["compiled"]], "compiled anew"
    assert_flat("training", own, SLACK + GROWTH * answered[0])
    for name, held_by in found.items():
        assert_flat(name, held_by, SLACK)
    assert_whole(RunFolder.open(run), answered[0])


def assert_whole(folder, answered):
    """Every answer is in the store, and the run can be gone on with."""
    with Store.open(folder.path / "answers", create=False) as store:
        assert len(store.records()) == answered
    metrics = read_metrics(folder.path)
    assert metrics["step"].is_sorted() and metrics["seconds"].is_sorted()
    path, skipped = folder.latest_valid_checkpoint()
    assert path is not None and not skipped
