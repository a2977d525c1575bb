"""Sweeps: what they refuse, what they keep, and that nothing is lost when something dies."""

import json
import os
import signal
import sys

import pytest
from small_runs import CLOCK

from rewardsmith._core import InputError
from rewardsmith.runs.config import TrainConfig
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.metrics import read_metrics
from rewardsmith.runs.sweep import run, trial
from rewardsmith.runs.sweep.crew import Crew
from rewardsmith.runs.sweep.engines import Ended, Job, Running
from rewardsmith.runs.sweep.manifest import Manifest, grid, read_outcomes
from rewardsmith.runs.sweep.progress import SweepProgress, last_seen
from rewardsmith.runs.sweep.values import read_seeds, read_vary
from tests.commands import command
from tests.sweeps import SMALL, Command, FakeEngine, checkpoints, evaluated, kill, trial_processes, until

# ---- what is asked for --------------------------------------------------------------------------


def test_a_grid_is_every_combination_with_readable_names():
    vary = read_vary(["hidden=64x64,32", "second_term_bound=none,0.5", "hide-ends=true"])
    assert vary == {"hidden": ((64, 64), (32,)), "second_term_bound": (None, 0.5), "hide_ends": (True,)}
    trials = grid(
        TrainConfig(steps=50_000), ("sobirl", "drlhf"), ("ALE/Pong-v5",), read_seeds(["3", "0:2"]), vary
    )
    assert len({trial.config for trial in trials}) == len(trials) == 2 * 1 * 3 * 2 * 2
    assert [trial.config.seed for trial in trials] == [3] * 8 + [0] * 8 + [1] * 8
    assert trials[0].name == "ALE-Pong-v5-sobirl-hidden=64x64-second-term-bound=none-hide-ends=true-seed-3"
    assert trials[0].config.steps == 50_000 and trials[0].config.hidden == (64, 64)
    base = TrainConfig(env="Hopper-v5", seed=4)
    assert [trial.name for trial in grid(base, (), (), (), {})] == ["Hopper-v5-sobirl-seed-4"]


def test_names_that_would_be_one_are_told_apart():
    names = [trial.name for trial in grid(TrainConfig(), (), ("my:Env-v0", "my/Env-v0"), (), {})]
    assert names == ["my-Env-v0-sobirl-seed-0", "my-Env-v0-sobirl-seed-0-2"]


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    manifest = Manifest(grid(TrainConfig(), ("sac",), (), (1, 2), {"hidden": ((8,), (4, 4))}), film=True)
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(InputError, match="damaged"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--vary leader-stepz=1,2", "no setting is called 'leader-stepz': did you mean leader-steps"),
        ("--vary leader-steps", "give NAME=VALUES"),
        ("--vary leader-steps=abc", "'abc' is not a whole number"),
        ("--vary temperature=abc", "'abc' is not a number, or none"),
        ("--vary hide-ends=yes", "'yes' is not true or false"),
        ("--vary hidden=4xx", "such as 64x64"),
        ("--vary seed=1,2", "give it with --seeds"),
        ("--vary steps=900 --vary steps=901", "names steps twice"),
        ("--vary discount=0.9,0.90", "0.9 is there twice"),
        ("--vary discount=0.9,1", "trial HalfCheetah-v5-sobirl-discount=1-seed-0: --discount is 1.0"),
        ("--methods sac sac", "sac is there twice"),
        ("--methods sac foo", "unknown --method 'foo'"),
        ("--methods sac --method drlhf", "--method and --methods are both given"),
        ("--seeds 0 0:2", "0 is there twice"),
        ("--seeds 3:3", "is empty"),
        ("--seeds a", "give whole numbers"),
        ("--seed -1", "--seed is -1"),
        ("--envs Pendulum-v1 HalfCheeta-v5", "unknown environment HalfCheeta-v5"),
        ("--env Pendulum-v1 --vary backend=auto,ale", "Pendulum-v1 is no Atari game"),
        ("--engine slurm", "choose one of processes, ray"),
        ("--engine processes --address auto", "give --engine ray with it"),
        ("--env Pendulum-v1 --address 127.0.0.1:9", "nobody answers at 127.0.0.1:9"),
        ("--workers 0", "--workers is 0"),
        ("--retries -1", "--retries is -1"),
        ("--gpus-per-trial 1", "is for --engine ray"),
        ("--preset amiga", "choose one of atari"),
        ("--resume nowhere", "no sweep at nowhere"),
        ("--resume . --seeds 1", "takes the sweep's own settings"),
        ("--resume . --steps 5000", "takes the sweep's own settings"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command("sweep", *arguments.split()) == 2
    told = capsys.readouterr()
    assert told.out == "" and says in told.err and told.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_ray_a_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'rewardsmith\[ray\]', or give --engine processes"):
        Running(engine="ray").make()


def test_presets_go_with_sweeps(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(run, "start", lambda manifest, out, running: seen.append(manifest) or 0)
    assert command("sweep", "--preset", "atari", "--env", "ALE/Pong-v5", "--vary", "batch-size=32,16") == 0
    first, second = seen[0].trials
    assert first.config.clip_rewards and (first.config.batch_size, second.config.batch_size) == (32, 16)


# ---- who is started when ------------------------------------------------------------------------


def worked(tmp_path, fate, names="abc", retries=2, workers=2):
    engine = FakeEngine(fate, workers)
    crew = Crew(engine, retries, SweepProgress(len(names), 900))
    for name in names:
        crew.add(Job(name, tmp_path / name, tmp_path / f"{name}.txt", TrainConfig()))
    found = {}
    while crew.busy:
        found |= {job.name: outcome for job, outcome in crew.turn()}
    return engine, found


def test_what_died_is_started_again_and_what_failed_is_not(tmp_path, capsys):
    (tmp_path / "b.txt").write_text("rewardsmith: no\nrewardsmith: --discount is 1: give less\n")

    def fate(job, attempt):
        if job.name == "b":
            return Ended(2)
        return Ended(None, "WorkerCrashedError") if attempt <= {"a": 1, "c": 9}[job.name] else Ended(0)

    engine, found = worked(tmp_path, fate)
    assert (found["a"].state, found["a"].attempts) == ("done", 2)
    assert (found["b"].state, found["b"].attempts) == ("failed", 1)
    assert found["b"].reason == "--discount is 1: give less"
    assert (found["c"].state, found["c"].attempts) == ("failed", 3)
    assert found["c"].reason == "died 3 times, at last with its worker (WorkerCrashedError)"
    assert engine.most == 2 and sorted(engine.started) == ["a", "a", "b", "c", "c", "c"]
    assert "c failed: died 3 times" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "reason"), [(-9, "by SIGKILL"), (137, "by SIGKILL"), (130, "asked to end by someone else")]
)
def test_deaths_have_words(status, reason, tmp_path):
    _, found = worked(tmp_path, lambda job, attempt: Ended(status), "a", retries=0)
    assert found["a"].reason == f"died 1 times, at last {reason}"


def test_progress_is_read_from_the_log_of_a_run(tmp_path):
    log = tmp_path / "log.txt"
    assert last_seen(log) == (None, None)
    log.write_text(
        " 10%  160/1,600 steps · 12 steps/s\n 75%  1,200/1,600 steps · true return -1,339.3 · 0:01 left\n"
    )
    assert last_seen(log) == (1200, -1339.3)


def test_a_finished_trial_is_left_alone_and_a_failed_one_tried_again(tmp_path, monkeypatch, capsys):
    manifest = Manifest(grid(TrainConfig(env="Pendulum-v1"), ("sac", "drlhf"), (), (), {}))
    fates = {"sac": Ended(0), "drlhf": Ended(1, "MemoryError: ")}

    def fate(job, attempt):
        return evaluated(job, 5.0) if fates[job.config.method].status == 0 else fates[job.config.method]

    engines = [FakeEngine(fate), FakeEngine(fate), FakeEngine(fate)]
    monkeypatch.setattr(Running, "make", lambda self: engines.pop(0))
    out = tmp_path / "sweep"
    assert run.start(manifest, out, Running()) == 1
    told = capsys.readouterr().out
    assert f"failed: Pendulum-v1-drlhf-seed-0: MemoryError:  (log: {out / 'logs'}" in told
    assert "1 of 2 failed" in told and f"rewardsmith compare {out}" in told
    again = engines[0]
    fates["drlhf"] = Ended(0)
    assert run.resume(out, Running()) == 0
    assert again.started == ["Pendulum-v1-drlhf-seed-0"]
    assert run.resume(out, Running()) == 0 and len(engines) == 1, "nothing is left to do"
    with pytest.raises(InputError, match=f"already holds a sweep: go on with --resume {out}"):
        run.start(manifest, out, Running())


# ---- real ones ----------------------------------------------------------------------------------

TRIAL = "Pendulum-v1-sac-hide=none-seed-0"
FAILING = "Pendulum-v1-sac-hide=score-seed-0"


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A sweep of a trial that was killed on its way and one that cannot work."""
    out = tmp_path_factory.mktemp("killed") / "sweep"
    sweep = Command(out.parent, "sweep", *SMALL, "--method", "sac", "--vary", "hide=none,score", "--out", out)
    until(lambda: checkpoints(out / TRIAL))
    for pid in trial_processes(out / TRIAL):
        kill(pid)
    return out, *sweep.end()


def test_a_killed_trial_goes_on_and_a_failed_one_is_kept(killed):
    out, status, told = killed
    assert status == 1
    assert f"{TRIAL} died by SIGKILL" in told and f"{FAILING} failed: Pendulum-v1 has no pictures" in told
    outcomes = read_outcomes(out)
    assert (outcomes[TRIAL].state, outcomes[TRIAL].attempts) == ("done", 2)
    assert (outcomes[FAILING].state, outcomes[FAILING].attempts) == ("failed", 1)
    assert (out / "logs" / f"{FAILING}.txt").exists()
    folder = RunFolder.open(out / TRIAL)
    assert TrainConfig.from_json(folder.config).method == "sac"
    assert json.loads(folder.eval_path.read_text())["step"] == 640 and folder.report_path.exists()
    assert not folder.film_path.exists()


def test_killed_sweeps_and_interrupted_ones_leave_no_process_and_go_on(killed, tmp_path):
    out = tmp_path / "sweep"
    sweep = Command(tmp_path, "sweep", *SMALL, "--method", "sac", "--vary", "hide=none", "--out", out)
    until(lambda: checkpoints(out / TRIAL))
    kill(sweep.process.pid)
    sweep.process.wait()
    until(lambda: not trial_processes(out))

    before = checkpoints(out / TRIAL)
    sweep = Command(tmp_path, "sweep", "--resume", out, "--engine", "processes", "--workers", 1)
    until(lambda: trial_processes(out / TRIAL) and checkpoints(out / TRIAL) != before)
    sweep.signal(signal.SIGINT)
    status, told = sweep.end()
    assert status == 130 and f"stopped with 0 of 1 trials done: rewardsmith sweep --resume {out}" in told
    assert not trial_processes(out)

    assert Command(tmp_path, "sweep", "--resume", out).end()[0] == 0
    # Each was broken off elsewhere, and the results are one.
    first, second = (read_metrics(place / TRIAL).drop(CLOCK) for place in (killed[0], out))
    assert first.equals(second) and first["step"].max() == 640


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_trials_claim_different_cores(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    given, held = [], []
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: given.append(cores))
    monkeypatch.setattr(trial, "_claimed", held)
    assert [trial.claim_core() for _ in range(3)] == [3, 5, None]
    assert given == [{3}, {5}]
    for handle in held:
        handle.close()
    assert trial.claim_core() == 3
    held[-1].close()
