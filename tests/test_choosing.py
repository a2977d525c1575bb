"""Runs that choose their questions, and runs with teachers that have faults."""

import numpy as np
import pytest
from small_runs import assert_same, killed_at, measured, settings

from rewardsmith.preferences import SELECTIONS, TEACHERS
from rewardsmith.preferences.models import PREFERENCE_MODELS
from rewardsmith.runs import choices
from rewardsmith.runs.choosing import Chooser
from rewardsmith.runs.train import resume, train

pytestmark = pytest.mark.usefixtures("compile_quickly")

CHOOSING = {"env": "Pendulum-v1", "candidates": 4, "snapshot_every": None}


def test_the_command_line_names_what_there_is():
    assert choices.SELECTIONS == {name: found.meaning for name, found in SELECTIONS.items()}
    assert list(choices.TEACHERS) == [choices.HUMAN, *TEACHERS]
    assert choices.PREFERENCE_MODELS == PREFERENCE_MODELS


@pytest.mark.parametrize(
    ("selection", "changes"),
    (
        ("k-centre-entropy", {"method": "drlhf"}),
        ("influence", {"method": "sobirl", "estimator": "suffix", "comparisons": 8, "leader_every": 160}),
        ("influence", {"method": "drlhf", "preference_model": "mixture"}),
    ),
)
def test_the_chosen_pairs_are_those_the_rule_likes(tmp_path, monkeypatch, selection, changes):
    seen = []
    at = Chooser.at

    def watched(self, leader, follower, rng, key):
        choose = at(self, leader, follower, rng, key)
        assert choose is not None

        def counted(count, first, second):
            rows = choose(count, first, second)
            seen.append((count, len(first.valid), rows))
            return rows

        return counted

    monkeypatch.setattr(Chooser, "at", watched)
    config = settings(**CHOOSING | changes | {"selection": selection})
    folder = train(config, tmp_path / "run")
    assert measured(folder)["comparisons"].max() == config.comparisons
    for count, candidates, rows in seen:
        assert candidates >= 4 * count and len(rows) == len(set(np.asarray(rows).tolist())) == count
    # Not simply the first of them.
    assert any(list(rows) != list(range(count)) for count, _, rows in seen)


def test_a_resumed_run_chooses_alike(tmp_path):
    config = settings(**CHOOSING, method="drlhf", selection="disagreement", teacher="skip")
    whole = train(config, tmp_path / "whole")
    with killed_at(520):
        train(config, tmp_path / "killed")
    assert_same(whole, resume(tmp_path / "killed"))
