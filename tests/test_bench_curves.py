"""The benchmarks' curves, the profile, the GPU's side, and the processes they run in."""

import ast
import dataclasses
import importlib.util
import os
import sys
import threading
import time
from pathlib import Path

import imageio.v3 as imageio
import polars as pl
import pytest

from benchmarks import __main__ as command
from benchmarks import gpu, minute, page, profiled, scaling
from benchmarks.rounds import Row
from benchmarks.sampler import REST, Rule, Sampler
from benchmarks.subject import OURS
from benchmarks.worker import Worker, first_to_answer

WHERE = page.Circumstances(
    "a machine", 2, 1, 0.1, "2000-01-01 00:00 UTC", "python -m benchmarks", {OURS: {"rewardsmith": "0.1.0"}}
)


def measured(curves):
    rates = {
        label: (10.0 + x, 12.0 + x, 11.0 + x) for curve in curves for label, (_, x) in curve.points.items()
    }
    return [row for curve in curves for row in curve.rows(rates)]


# --- scaling


def test_every_point_of_a_curve_is_measured_at_least_five_times():
    for quick in (True, False):
        for curve in scaling.curves(quick):
            labels = [side.label for side in curve.subject.sides]
            assert labels == list(curve.points) and len(set(labels)) == len(labels)
            assert curve.subject.rounds >= 5
    values = [sorted(x for _, x in curve.points.values()) for curve in scaling.curves(True)]
    assert values == [
        [1, 2, 4, 8, 16, 32, 64],
        [1, 3, 5, 10, 20],
        [32, 64, 128, 256, 512, 1024, 2048],
        [1, 2, 2, 4, 8],
    ]


def test_curves_are_written_and_drawn(tmp_path):
    curves = scaling.curves(True)
    rows = measured(curves)
    # A machine with one core has no second process.
    rows = [dataclasses.replace(row, our_rates=()) if row.series == "two processes" else row for row in rows]
    text = "\n".join(scaling.section(curves, rows))
    assert "| environments stepped together | 1 | 2 | 4 | 8 | 16 | 32 | 64 |" in text
    assert "| samples/s | 1,376<br>1,344 – 1,408 |" in text  # 32 · (43, 42, 44)
    assert "| two processes, steps/s |  |  |  |  |" in text
    scaling.draw(curves, rows, tmp_path / "scaling.png")
    assert imageio.imread(tmp_path / "scaling.png").std() > 0
    frame = page.table(rows, WHERE).filter(pl.col("subject") == "scaling-batch")
    assert frame["x"].to_list() == list(scaling.BATCHES) and frame["peer"].null_count() == 7


# --- the profile


def busy(until):
    while not until.is_set():
        sum(range(100))


def test_seconds_are_those_of_the_thread_that_is_watched():
    def work():
        time.sleep(0.1)

    def other():
        time.sleep(0.05)

    rules = (Rule("work", __file__, frozenset({"work"})), Rule("never", "elsewhere.py"))
    until = threading.Event()
    beside = threading.Thread(target=busy, args=(until,))
    started = time.perf_counter()
    with Sampler(rules) as sampler:
        beside.start()
        work()
        other()
    whole = time.perf_counter() - started
    until.set()
    beside.join()
    assert set(sampler.seconds) == {"work", REST}
    assert sum(sampler.seconds.values()) == pytest.approx(whole, abs=0.05)
    assert sampler.seconds["work"] > 0.05


def test_what_the_profile_looks_for_is_there():
    for rule in profiled.RULES:
        if rule.file.startswith("<"):
            continue
        spec = importlib.util.find_spec(rule.file.removesuffix(".py").replace("/", "."))
        assert spec is not None and spec.origin is not None, rule.file
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert rule.functions <= names, rule


def test_every_run_is_profiled_once_as_many_at_a_time_as_there_are_cores(monkeypatch):
    began, alive = [], []

    class Child:
        versions = {"rewardsmith": "1"}

        def __init__(self, python, core, program):
            self.core, self.what = core, program[1]

        def start(self, options):
            alive.append(self.core)
            assert len(set(alive)) == len(alive) <= 2
            began.append((self.what, options))

        def finish(self):
            alive.remove(self.core)
            return {"compiling": 3.0, "rest": 1.0}

        def close(self):
            pass

    monkeypatch.setattr(minute, "Worker", Child)
    monkeypatch.setattr(minute, "first_to_answer", lambda running: list(running)[-1])
    rows, versions = minute.measure([0, 1], lambda text: None, quick=True)
    assert len(began) == len(minute.RUNS) and versions == {"rewardsmith": "1"}
    assert [what for what, _ in began].count("whole") == [what for what, _ in began].count("pictures") == 1
    assert {row.series for row in rows} == set(minute.RUNS)
    assert sum(row.our_rates[0] for row in rows) == 4.0 * len(minute.RUNS)


def test_the_profile_is_written_and_drawn(tmp_path):
    seconds = {"compiling": 30.0, "replay and learner": 60.0, "environment": 9.0, "rest": 1.0}
    rows = [
        Row("minute", "s", part, None, (seconds.get(part, 0.0),), series=name, x=4000)
        for name in minute.RUNS
        for part in profiled.PARTS
    ]
    text = "\n".join(minute.section(rows))
    assert "SAC: replay and learner 60%, compiling 30%, environment 9%" in text
    assert "| compiling | 30.0 | 30.0 |" in text and "| all | 100.0 |" in text
    assert "| seconds | SoBiRL, one-step, 4,000 steps |" in text
    minute.draw(rows, tmp_path / "profile.png")
    assert imageio.imread(tmp_path / "profile.png").std() > 0


# --- processes


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes are pinned on Linux alone")
def test_a_child_answers_in_turn_moves_and_tells_its_memory():
    cores = sorted(os.sched_getaffinity(0))
    with Worker(sys.executable, cores[0], ("benchmarks.gpu",)) as worker:
        assert "jax" in worker.versions
        worker.start()
        worker.start()
        time.sleep(0.5)  # Both answers are there, and are read together.
        assert first_to_answer([worker]) is worker
        # On a processor: no GPU, and no memory of one.
        assert [worker.finish(), worker.finish(), worker.memory()] == [None] * 3
        worker.move(cores[-1])
        tasks = Path(f"/proc/{worker._process.pid}/task").iterdir()
        assert {frozenset(os.sched_getaffinity(int(task.name))) for task in tasks} == {frozenset({cores[-1]})}
        assert worker.measure() is None


# --- on a GPU


class Card:
    """In place of a process that sees a GPU, or none."""

    kind: str | None = "a card"
    versions = {"jax": "1"}

    def __init__(self, python, core, program, device):
        assert core is None and device == "gpu"
        self.program, self.asked = program, []

    def start(self, **options):
        self.asked.append(options)

    def finish(self):
        return 0.001 * self.asked.pop(0)["count"]

    def measure(self):
        return self.kind

    def memory(self):
        return 3 * 2**20

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_without_a_gpu_one_line_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "Worker", Card)
    monkeypatch.setattr(Card, "kind", None)
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--device", "gpu", "--quick", "--out", str(out)])
    with pytest.raises(SystemExit, match="^benchmarks: JAX sees no GPU here: install [^\n]*$"):
        command.main()
    assert not out.exists()


def test_on_a_gpu_our_sides_are_measured_with_their_memory(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "Worker", Card)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--device", "gpu", "--quick", "--out", str(tmp_path)])
    command.main()
    text = (tmp_path / "benchmarks-gpu.md").read_text(encoding="utf-8")
    assert "* GPU: a card" in text and "--device gpu --quick" in text
    for told in ("rewardsmith, 8 a call", "rewardsmith, learned reward", "32 in one program"):
        assert f"| {told} | 1,000 | 1,000 – 1,000 | 3 |" in text
    for absent in ("stable-baselines3 |", "two processes", "XLA's", "freed"):
        assert absent not in text
    frame = pl.read_parquet(tmp_path / "benchmarks-gpu.parquet")
    assert set(frame["gpu"]) == {"a card"} and set(frame["memory"]) == {3 * 2**20}
    assert frame["rates"].list.len().min() == 5 and "wrote" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--only", "environments"])
    with pytest.raises(SystemExit, match="not for a GPU"):
        command.main()
