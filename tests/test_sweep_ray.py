"""A sweep on Ray: complete although a worker is killed, and read by `compare`."""

import json
from pathlib import Path

import polars as pl
import pytest

from rewardsmith.cli import main
from rewardsmith.runs.sweep.manifest import read_outcomes
from tests.sweeps import SMALL, Command, checkpoints, kill, processes, trial_processes, until

pytest.importorskip("ray")


def test_a_sweep_on_ray_survives_a_killed_worker_and_is_compared(tmp_path, capsys):
    out = tmp_path / "sweep"
    grid = ["--methods", "sac", "drlhf", "--seeds", "0:2"]
    sweep = Command(tmp_path, "sweep", *SMALL, *grid, "--engine", "ray", "--workers", 2, "--out", out)
    victim = "Pendulum-v1-sac-seed-0"
    until(lambda: checkpoints(out / victim))
    (worker,) = processes(f"ray::{victim}")
    (child,) = trial_processes(out / victim)
    assert "site-packages/ray/" in Path(f"/proc/{worker}/maps").read_text()
    assert "site-packages/ray/" not in Path(f"/proc/{child}/maps").read_text()
    kill(worker)
    status, told = sweep.end()
    assert status == 0, told
    assert f"{victim} died with its worker" in told
    outcomes = read_outcomes(out)
    assert {name: one.attempts for name, one in outcomes.items()} == {
        "Pendulum-v1-sac-seed-0": 2,
        "Pendulum-v1-sac-seed-1": 1,
        "Pendulum-v1-drlhf-seed-0": 1,
        "Pendulum-v1-drlhf-seed-1": 1,
    }
    assert all(one.state == "done" for one in outcomes.values())
    assert not trial_processes(out)
    for name in outcomes:
        assert json.loads((out / name / "eval.json").read_text())["step"] == 640

    main(["compare", str(out), "--out", str(tmp_path / "compared")])
    told = capsys.readouterr().out
    assert "sac" in told and "drlhf" in told and "P(" in told
    table = pl.read_parquet(tmp_path / "compared" / "comparison.parquet")
    assert table["runs"].to_list() == [2, 2] and set(table["label"]) == {"sac", "drlhf"}
