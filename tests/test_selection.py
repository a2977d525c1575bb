"""Query selection: what each rule prefers, that it is repeatable, and how good the spread is."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardsmith._core import InputError, TrueReward
from rewardsmith.preferences import Clips
from rewardsmith.preferences.selection import (
    SELECTIONS,
    Candidates,
    farthest_points,
    make_selection,
    pair_features,
)


def chosen(name, count, candidates, seed=0):
    return list(make_selection(name)(count, candidates, np.random.default_rng(seed)))


def random_candidates(n, seed=0, **changes):
    rng = np.random.default_rng(seed)
    parts = {
        "probabilities": rng.random((n, 3)),
        "features": rng.normal(size=(n, 4)),
        "influence": rng.random(n),
    }
    return Candidates(n, **{name: lambda array=array: array for name, array in (parts | changes).items()})


# ---- all rules ----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(list(SELECTIONS)), n=st.integers(0, 12), count=st.integers(0, 15), data=st.data())
def test_every_rule_gives_as_many_as_there_are_and_none_twice(name, n, count, data):
    # Of few values, so that there are ties and copies.
    value = st.sampled_from([0.0, 0.5, 1.0])
    rows = data.draw(st.lists(st.tuples(value, value, value), min_size=n, max_size=n))
    table = np.array(rows).reshape(n, 3)
    candidates = random_candidates(n, probabilities=table, features=table, influence=table[:, 0])
    found = chosen(name, count, candidates)
    assert len(found) == len(set(found)) == min(count, n)
    assert set(found) <= set(range(n))
    assert found == chosen(name, count, candidates)


@pytest.mark.parametrize("name", SELECTIONS)
def test_among_equals_the_first_come_first(name):
    alike = {"probabilities": np.full((9, 3), 0.5), "features": np.ones((9, 2)), "influence": np.ones(9)}
    found = chosen(name, 3, random_candidates(9, **alike))
    if name == "k-centre":
        # The first is any; behind it they come around.
        assert found == [(found[0] + i) % 9 for i in range(3)]
    elif name != "uniform":
        assert found == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("uniform", set()),
        ("disagreement", {"probabilities"}),
        ("entropy", {"probabilities"}),
        ("k-centre", {"features"}),
        ("k-centre-disagreement", {"probabilities", "features"}),
        ("k-centre-entropy", {"probabilities", "features"}),
        ("influence", {"influence"}),
    ],
)
def test_nothing_is_computed_that_a_rule_does_not_need(name, needs):
    rng, asked = np.random.default_rng(0), []

    def supply(what, *shape):
        def compute():
            asked.append(what)
            return rng.random(shape)

        return compute

    candidates = Candidates(
        20,
        probabilities=supply("probabilities", 20, 3),
        features=supply("features", 20, 4),
        influence=supply("influence", 20),
    )
    chosen(name, 5, candidates)
    chosen(name, 5, candidates)
    assert sorted(asked) == sorted(needs), "each at most once"
    for missing in needs:
        with pytest.raises(InputError, match=f"this selection needs .* give Candidates\\({missing}=|needs"):
            chosen(name, 5, Candidates(20))


def test_bad_input():
    with pytest.raises(InputError, match="choose one of uniform, disagreement"):
        make_selection("best")
    for name in SELECTIONS:
        with pytest.raises(InputError, match="-1 pairs"):
            chosen(name, -1, random_candidates(4))
    with pytest.raises(InputError, match=r"shape \(3, 3\)"):
        chosen("entropy", 1, random_candidates(4, probabilities=np.zeros((3, 3))))
    with pytest.raises(InputError, match="one row for each"):
        chosen("influence", 1, random_candidates(4, influence=np.zeros((4, 1))))
    with pytest.raises(InputError, match="asked of 4"):
        chosen("k-centre", 1, random_candidates(4, asked=np.zeros((2, 7))))


# ---- one rule at a time -------------------------------------------------------------------------


def test_uniform():
    found = [chosen("uniform", 3, Candidates(10), seed) for seed in range(4000)]
    counts = np.bincount(np.ravel(found), minlength=10)
    # 1200 of each, and each place of a selection too.
    assert abs(counts - 1200).max() < 4.5 * np.sqrt(4000 * 0.3 * 0.7)
    assert abs(np.bincount([first for first, *_ in found]) - 400).max() < 4.5 * np.sqrt(4000 * 0.1 * 0.9)


def test_disagreement_is_not_entropy():
    # All unsure; two sure of opposite things; all sure; in between.
    probabilities = np.array([[0.5, 0.5], [0.02, 0.7], [0.99, 0.99], [0.3, 0.6]])
    candidates = random_candidates(4, probabilities=probabilities)
    assert chosen("disagreement", 4, candidates) == [1, 3, 0, 2]
    assert chosen("entropy", 4, candidates) == [0, 3, 1, 2]


def test_entropy_of_certainty():
    candidates = random_candidates(3, probabilities=np.array([[1.0], [0.0], [0.2]]))
    assert chosen("entropy", 3, candidates) == [2, 0, 1]


def test_influence_takes_the_largest_and_what_is_no_number_last():
    candidates = random_candidates(5, influence=np.array([1.0, np.nan, 3.0, 0.0, 2.0]))
    assert chosen("influence", 5, candidates) == [2, 4, 0, 3, 1]


def covering_radius(points, centres):
    return np.linalg.norm(points[:, None] - points[centres], axis=2).min(axis=1).max()


@pytest.mark.parametrize("seed", range(12))
def test_k_centre_covers_within_twice_the_best(seed):
    rng = np.random.default_rng(seed)
    points, count = rng.normal(size=(11, 2)) * rng.choice([1.0, 10.0], (11, 1)), int(rng.integers(1, 5))
    best = min(covering_radius(points, list(some)) for some in itertools.combinations(range(11), count))
    found = chosen("k-centre", count, random_candidates(11, features=points), seed)
    assert covering_radius(points, found) <= 2 * best + 1e-12


def test_k_centre_on_a_line_is_what_one_would_draw():
    line = np.array([[0.0], [1.0], [2.0], [7.0], [10.0]])
    np.testing.assert_array_equal(farthest_points(line, 4, np.zeros((0, 1))), [0, 4, 3, 2])
    # Away from what was asked before.
    np.testing.assert_array_equal(farthest_points(line, 2, np.array([[10.0]])), [0, 3])
    asked = random_candidates(5, features=line, asked=np.array([[0.0], [10.0]]))
    assert chosen("k-centre", 1, asked) == [3]
    assert len({tuple(chosen("k-centre", 1, random_candidates(5, features=line), s)) for s in range(40)}) == 5


def test_distances_of_many_rows_are_those_of_all(monkeypatch):
    points = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    whole = farthest_points(points, 20, points[:2] + 1)
    monkeypatch.setattr("rewardsmith.preferences.selection._TOGETHER", 21)
    np.testing.assert_array_equal(farthest_points(points, 20, points[:2] + 1), whole)


@pytest.mark.parametrize("first", ["disagreement", "entropy"])
def test_k_centre_after_another_rule(first):
    candidates = random_candidates(20)
    liked = chosen(first, 10, candidates)
    found = chosen(f"k-centre-{first}", 4, candidates)
    assert set(found) <= set(liked) and found[0] == liked[0]
    spread = farthest_points(candidates.features[liked], 4, np.zeros((0, 4)))
    assert found == [liked[index] for index in spread]
    # More than half are wanted: then among as many as are wanted.
    assert set(chosen(f"k-centre-{first}", 15, candidates)) == set(chosen(first, 15, candidates))


# ---- features -----------------------------------------------------------------------------------


def clips_of(observations, actions, horizon=2, stack=1):
    valid = np.ones(actions.shape[:2], bool)
    return Clips(observations, actions, valid, TrueReward(np.zeros((len(valid), horizon))), stack=stack)


def test_features_are_the_compared_steps_of_both():
    rng = np.random.default_rng(0)
    pair = [clips_of(rng.normal(size=(3, 5, 4)), rng.normal(size=(3, 5, 1))) for _ in range(2)]
    found = pair_features(*pair)
    assert found.shape == (3, 2 * 2 * (4 + 1)) and found.dtype == np.float32
    wanted = [array[:, :2].reshape(3, -1) for clip in pair for array in (clip.observations, clip.actions)]
    np.testing.assert_allclose(found, np.concatenate(wanted, axis=1), rtol=1e-6)


def test_actions_that_are_indices_are_all_as_far_apart():
    observations, actions = np.zeros((3, 2, 1)), np.array([[0, 0], [1, 0], [2, 0]])
    clips = clips_of(observations, actions)
    found = pair_features(clips, clips, num_actions=3)
    apart = np.linalg.norm(found[:, None] - found, axis=2)
    assert np.allclose(apart[~np.eye(3, dtype=bool)], 2.0)


def test_pictures_are_looked_at_coarsely():
    rng = np.random.default_rng(0)
    # 4 frames of a stack: 3 before the first of 2 steps, and 3 behind.
    frames = rng.integers(0, 256, (2, 3 + 5, 84, 84, 1)).astype(np.uint8)
    clips = clips_of(frames, np.zeros((2, 5), int), stack=4)
    found = pair_features(clips, clips, num_actions=6)
    # Every ninth pixel of 84 is ten a side.
    assert found.shape == (2, 2 * (2 * 10 * 10 + 2 * 6))
    assert 0.0 <= found.min() and found.max() <= 1.0
    other = frames.copy()
    other[:, [0, 1, 2, 5, 6, 7]] = 0
    clips = clips_of(other, np.zeros((2, 5), int), stack=4)
    np.testing.assert_array_equal(pair_features(clips, clips, num_actions=6), found)
