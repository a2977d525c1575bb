"""The loop in one compiled program does what the loop on the host does; and no loop compiles anew."""

import dataclasses

import jax
import numpy as np
import pytest

from rewardsmith._core import InputError
from rewardsmith.runs.folder import RunFolder
from rewardsmith.runs.train import resume, train, train_seeds
from rewardsmith.runs.training import Training
from tests.small_runs import assert_same, killed_at, measured, settings

pytest.importorskip("gymnax")

NATIVE = {"env": "gymnax/Pendulum-v1", "learning_rate": 1e-4}
METHODS = {
    "sac": {"method": "sac"},
    "sobirl on fresh clips": {"method": "sobirl", "estimator": "suffix", "clips": "fresh"},
    "sobirl by branches": {"method": "sobirl", "estimator": "branch"},
    "pbrl": {"method": "pbrl"},
    "pebble": {"method": "pebble", "pretrain_steps": 120, "snapshot_every": None},
    "drlhf, discrete, ends hidden": {"method": "drlhf", "env": "gymnax/CartPole-v1", "hide_ends": True},
}


@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_loop_on_the_host(tmp_path, method):
    config = settings(**NATIVE | METHODS[method])
    fused = train(config, tmp_path / "fused")
    host = train(dataclasses.replace(config, fused=False), tmp_path / "host")
    found, wanted = measured(fused), measured(host)
    exact = ["step", "kind", "comparisons"]
    assert found.select(exact).equals(wanted.select(exact))
    assert fused.warnings() == host.warnings()
    for column in ("q_mean", "entropy", "preference_loss"):
        np.testing.assert_allclose(
            found[column].drop_nulls().to_numpy(), wanted[column].drop_nulls().to_numpy(), rtol=0.02
        )


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    config = settings(**NATIVE, method="sobirl", estimator="suffix")
    whole = train(config, tmp_path / "whole")
    with killed_at(560):
        train(config, tmp_path / "cut")
    assert_same(whole, resume(tmp_path / "cut"))


def test_several_seeds_at_once(tmp_path):
    config = settings(**NATIVE, method="sobirl")
    together = train_seeds(config, tmp_path / "seeds", 2)
    alone = measured(train(dataclasses.replace(config, seed=1), tmp_path / "alone"))
    np.testing.assert_allclose(
        measured(together[1])["q_mean"].drop_nulls().to_numpy(),
        alone["q_mean"].drop_nulls().to_numpy(),
        rtol=0.02,
    )


def test_films_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="leave out --film-clips"):
        train(settings(**NATIVE, film_clips=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("env", ["Pendulum-v1", "gymnax/Pendulum-v1"])
def test_nothing_is_compiled_after_the_first_sessions(tmp_path, env):
    config = settings(env=env, method="sobirl", estimator="suffix", steps=960)
    training = Training([config], [RunFolder.create(tmp_path / "run", dataclasses.asdict(config))])
    compiled = []

    def listen(event: str, seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(training.step)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        training.run()
    finally:
        jax.monitoring.clear_event_listeners()
    # A listener that hears nothing would say nothing.
    # Random steps, two sessions, an evaluation, a checkpoint and a snapshot (at 300) have been by then.
    assert 160 <= max(compiled) <= 320
