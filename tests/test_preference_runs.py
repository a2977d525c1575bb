"""Runs under each preference model: what is known beside answers, vectors, pictures, and after a stop."""

import jax.numpy as jnp
import numpy as np
import pytest

from rewardsmith.preferences.models import Judgement
from rewardsmith.rewards import EmbeddingEnsemble, GroupEnsemble, RewardEnsemble
from rewardsmith.runs import session, train
from rewardsmith.runs.beside import beside
from rewardsmith.runs.programs import labelled
from rewardsmith.runs.train import resume
from tests.small_runs import assert_same, killed_at, measured, settings
from tests.test_train_pictures import PICTURES, small_networks, worlds  # noqa: F401

pytestmark = pytest.mark.usefixtures("compile_quickly")

KINDS = {"regret": RewardEnsemble, "general": EmbeddingEnsemble, "mixture": GroupEnsemble}


def run_of(tmp_path, name="run", **changes):
    return train.train(settings(env="CartPole-v1", method="drlhf", **changes), tmp_path / name)


@pytest.mark.parametrize("model", KINDS)
def test_runs_and_what_they_know_beside_the_answers(tmp_path, monkeypatch, model):
    seen = []

    def watched(experiment, leader, collector, follower, own, key, *, first):
        """Two people answer by turns."""
        labeller = collector.queue.arrays()["labeller"]
        labeller[:] = np.arange(len(labeller)) % 2
        before = leader.x
        leader, known = beside(experiment, leader, collector, follower, own, key, first=first)
        seen.append((before, leader.x, known, len(collector.queue), first))
        return leader, known

    monkeypatch.setattr(session, "beside", watched)
    rows = measured(run_of(tmp_path, preference_model=model, teacher="bradley-terry", label_error=0.1))
    assert rows["preference_loss"].drop_nulls().is_finite().all()
    assert rows["preference_accuracy"].drop_nulls().len() > 1
    for before, x, known, held, first in seen:
        assert isinstance(x, KINDS[model])
        if model == "general":
            assert not known
        elif model == "regret":
            assert set(known) == {"offset"} and known["offset"].shape[1:] == (2,)
            assert (known["offset"][:held] != 0).all() == (not first)
            assert not known["offset"][held:].any()
        else:
            groups = known["groups"]
            np.testing.assert_allclose(groups[:held].sum(axis=1), 1.0, rtol=1e-5)
            # All answers of a person together.
            assert len(np.unique(groups[:held], axis=0)) == 2
            np.testing.assert_allclose(x.weights.sum(), 1.0, rtol=1e-5)
            assert (abs(x.weights - before.weights).max() > 0) == (not first)
    assert {first for *_, first in seen} == {True, False}


def test_runs_on_pictures(tmp_path):
    config = settings(env="Lamps-v0", method="drlhf", preference_model="regret", steps=320, **PICTURES)
    rows = measured(train.train(config, tmp_path / "run"))
    assert rows["preference_loss"].drop_nulls().is_finite().all()


def test_a_resumed_run_of_groups_equals_an_uninterrupted_one(tmp_path):
    whole = run_of(tmp_path, "whole", preference_model="mixture")
    with killed_at(480):
        run_of(tmp_path, "killed", preference_model="mixture")
    assert_same(whole, resume(tmp_path / "killed"))


def test_what_is_known_goes_with_the_comparisons():
    arrays = {
        "observations": jnp.zeros((4, 2, 3, 1)),
        "actions": jnp.zeros((4, 2, 3, 1)),
        "valid": jnp.ones((4, 2, 3), bool),
        "label": jnp.arange(4.0),
        "labeller": jnp.arange(4),
    }
    assert labelled(arrays).label is arrays["label"]
    drawn = labelled(arrays | {"groups": jnp.arange(8.0).reshape(4, 2)}).take(jnp.asarray([2, 0]))
    assert isinstance(drawn.label, Judgement) and drawn.label.offset is None
    np.testing.assert_array_equal(drawn.label.label, [2.0, 0.0])
    np.testing.assert_array_equal(drawn.label.groups, [[4.0, 5.0], [0.0, 1.0]])
