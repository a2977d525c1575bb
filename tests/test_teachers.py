"""Synthetic teachers: each fault alone against what it should be, their order, and old teachers' draws."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from rewardsmith._core import InputError, TrueReward, TrueRewardReader
from rewardsmith.preferences import BradleyTerryTeacher, Oracle, Teacher
from rewardsmith.preferences.teachers import TEACHERS, SyntheticTeacher, make_teacher

COUNT = 20_000


def answers(teacher, first, second, seed=0):
    """Labels for rewards given as plain arrays."""
    rewards = (TrueReward(np.atleast_2d(rewards)) for rewards in (first, second))
    return teacher.answer(*rewards, np.random.default_rng(seed))


def pairs(count=COUNT, horizon=5, seed=1, mean=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(mean, 1.0, (2, count, horizon))


def assert_rate(happened, probability):
    """As many of the Booleans are true as would be, were that their probability."""
    assert binomtest(int(happened.sum()), happened.size, probability).pvalue > 1e-4


# ---- one fault at a time ------------------------------------------------------------------------


def test_without_settings_it_is_the_oracle():
    first, second = pairs()
    wanted = (first.sum(axis=1) > second.sum(axis=1)).astype(float)
    for teacher in (SyntheticTeacher(), Oracle(), make_teacher("oracle"), SyntheticTeacher(beta=-1.0)):
        np.testing.assert_array_equal(answers(teacher, first, second), wanted)
    assert Oracle() == SyntheticTeacher()
    np.testing.assert_array_equal(answers(Oracle(), [[1.0, 0.0]], [[0.5, 0.5]]), [0.5])


def test_old_teachers_answer_as_they_did():
    """The formulas and draws of before there were faults, so that old runs can be had again."""
    first, second = pairs()
    sums = first.sum(axis=1), second.sum(axis=1)
    for temperature in (1.0, 0.5, 4.0):
        probability = 0.5 * (1.0 + np.tanh(0.5 * (sums[0] - sums[1]) / temperature))
        rng = np.random.default_rng(7)
        wanted = (rng.random(COUNT) < probability).astype(float)
        np.testing.assert_array_equal(answers(BradleyTerryTeacher(temperature), first, second, 7), wanted)
    rng = np.random.default_rng(7)
    Oracle().answer(TrueReward(first), TrueReward(second), rng)
    assert rng.random() == np.random.default_rng(7).random(), "an oracle draws nothing"


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 3.0])
def test_stochastic_answers_are_calibrated(beta):
    first, second = pairs()
    label = answers(SyntheticTeacher(beta=beta), first, second)
    probability = 1.0 / (1.0 + np.exp(-beta * (first - second).sum(axis=1)))
    # In each bin of what was foretold, as many were said to be better as were foretold.
    order = np.argsort(probability)
    for rows in np.array_split(order, 8):
        error = np.sqrt((probability[rows] * (1 - probability[rows])).sum())
        assert abs(label[rows].sum() - probability[rows].sum()) < 4 * error + 1e-9
    assert set(label) == {0.0, 1.0}


def test_mistakes_are_as_often_as_they_should_be():
    first, second = pairs()
    for chance in (0.1, 0.3):
        wrong = answers(SyntheticTeacher(mistake=chance), first, second) != answers(Oracle(), first, second)
        assert_rate(wrong, chance)
        # Whatever the difference: a mistake is no doubt.
        near = abs((first - second).sum(axis=1)) < 1.0
        assert_rate(wrong[near], chance)
    always = answers(SyntheticTeacher(mistake=1.0), first, second)
    np.testing.assert_array_equal(always, 1.0 - answers(Oracle(), first, second))


def test_a_myopic_teacher_weighs_the_end():
    early, late = [[3.0, 0.0, 0.0]], [[0.0, 0.0, 2.0]]
    assert answers(Oracle(), early, late) == 1.0
    # 3 γ² < 2 for γ = 0.8, 3 γ² > 2 for γ = 0.9.
    assert answers(SyntheticTeacher(discount=0.8), early, late) == 0.0
    assert answers(SyntheticTeacher(discount=0.9), early, late) == 1.0
    # Only the last step counts.
    assert answers(SyntheticTeacher(discount=0.0), [[9.0, 9.0, 0.0]], [[0.0, 0.0, 1.0]]) == 0.0


def test_skip():
    teacher = SyntheticTeacher(skip=0.1, margin_per_step=5.0)  # At and below 0.1 · 2 · 5 = 1.
    first, second = [[0.5, 0.5], [0.5, 0.51], [0.0, 0.0]], [[0.0, 0.2], [0.0, 0.2], [4.0, 0.0]]
    np.testing.assert_array_equal(answers(teacher, first, second), [np.nan, 1.0, 0.0])
    # Where rewards are costs, usual pairs are not skipped: below 1.9 · 2 · (−5) = −19 only.
    costly = dataclasses.replace(teacher, margin_per_step=-5.0)
    np.testing.assert_array_equal(
        answers(costly, [[-5.0, -5.0], [-9.0, -10.0]], [[-6.0, -6.0], [-12.0, -12.0]]), [1.0, np.nan]
    )
    assert not np.isnan(answers(Oracle(), [[-1.0]], [[-2.0]])).any()


def test_equal():
    teacher = SyntheticTeacher(equal=0.1, margin_per_step=5.0)  # Differences below 1.
    first = [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
    second = [[1.0, 1.99], [1.0, 2.0], [0.99, 0.0]]
    np.testing.assert_array_equal(answers(teacher, first, second), [0.5, 0.0, 0.5])
    costly = dataclasses.replace(teacher, margin_per_step=-5.0)
    np.testing.assert_array_equal(answers(costly, first, second), [0.5, 0.0, 0.5])


# ---- together -----------------------------------------------------------------------------------


def test_ties_override_mistakes_and_doubts():
    first, second = np.full((COUNT, 2), 1.0), np.full((COUNT, 2), 1.2)
    for faults in ({"mistake": 1.0}, {"beta": 0.1}, {"beta": 0.1, "mistake": 0.5, "discount": 0.5}):
        teacher = SyntheticTeacher(equal=0.1, margin_per_step=5.0, **faults)
        assert (answers(teacher, first, second) == 0.5).all()


def test_a_skipped_pair_is_skipped_whatever_else():
    first, second = np.full((50, 2), 0.1), np.full((50, 2), 0.2)
    teacher = SyntheticTeacher(1.0, 0.5, 0.5, skip=0.1, equal=0.1, margin_per_step=5.0)
    assert np.isnan(answers(teacher, first, second)).all()


def test_skip_and_equal_look_at_plain_sums_before_myopia():
    teacher = SyntheticTeacher(discount=0.1, skip=0.1, equal=0.1, margin_per_step=5.0)
    # Myopic sums 0.4 and 0.2 would be skipped and be a tie.
    assert answers(teacher, [[4.0, 0.0]], [[2.0, 0.0]]) == 1.0
    # Plain sums are equal, myopic ones far apart.
    assert answers(teacher, [[9.0, 0.0]], [[0.0, 9.0]]) == 0.5


def test_mistakes_come_after_doubts():
    first, second = np.full((COUNT, 1), 1.0), np.full((COUNT, 1), 0.0)
    label = answers(SyntheticTeacher(beta=1.0, mistake=0.1), first, second)
    sure = 1.0 / (1.0 + np.exp(-1.0))
    assert_rate(label == 1.0, 0.9 * sure + 0.1 * (1.0 - sure))


def test_skips_and_ties_move_no_other_answer():
    first, second = pairs(mean=1.0)
    plain = answers(SyntheticTeacher(beta=1.0, mistake=0.1), first, second)
    faulty = answers(SyntheticTeacher(1.0, 1.0, 0.1, 0.5, 0.2, margin_per_step=1.0), first, second)
    decided = ~np.isnan(faulty) & (faulty != 0.5)
    assert 0 < decided.sum() < COUNT
    np.testing.assert_array_equal(plain[decided], faulty[decided])


# ---- the margin ---------------------------------------------------------------------------------


def test_calibrated_by_recent_rewards():
    teacher = make_teacher("skip", equal=0.2)
    recent = TrueReward([[1.0, 2.0], [3.0, 6.0]])
    told = teacher.calibrated(recent)
    assert told == SyntheticTeacher(skip=0.1, equal=0.2, margin_per_step=3.0)
    assert teacher.margin_per_step is None, "the one that was asked stays as it is"
    with pytest.raises(InputError, match="at least one step"):
        teacher.calibrated(TrueReward(np.zeros((0, 3))))


def test_without_a_record_the_clips_shown_are_what_is_usual():
    first, second = pairs(mean=2.0)
    usual = (first.mean() + second.mean()) / 2
    bare, told = (SyntheticTeacher(skip=0.5, equal=0.1, margin_per_step=m) for m in (None, usual))
    np.testing.assert_array_equal(answers(bare, first, second), answers(told, first, second))
    assert np.isnan(answers(bare, first, second)).any()


def test_a_teacher_of_someone_elses_need_not_be_calibrated():
    class First(Teacher):
        def answer(self, first, second, rng):
            return np.ones(len(first))

    for teacher in (First(), Oracle(), SyntheticTeacher(1.0, 0.9, 0.1)):
        assert teacher.calibrated(TrueReward([1.0])) is teacher, "it makes no use of a margin"


def test_teachers_hold_no_state():
    first, second = pairs(100, mean=1.0)
    for name in TEACHERS:
        teacher = make_teacher(name).calibrated(TrueReward(first))
        before = dataclasses.asdict(teacher)
        once, again = (answers(teacher, first, second, 3) for _ in range(2))
        np.testing.assert_array_equal(once, again)
        assert dataclasses.asdict(teacher) == before


# ---- any settings -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    beta=st.floats(allow_nan=False),
    discount=st.floats(0, 1),
    mistake=st.floats(0, 1),
    skip=st.floats(0, 1),
    equal=st.floats(0, 2),
    size=st.sampled_from([0.0, 1e-300, 1.0, 1e150]),
    seed=st.integers(0, 9),
)
def test_labels_are_labels_and_nothing_overflows(beta, discount, mistake, skip, equal, size, seed):
    rng = np.random.default_rng(seed)
    rewards = size * rng.normal(size=(2, 20, 3))
    # pytest turns warnings into errors, and NumPy's are among them.
    label = answers(SyntheticTeacher(beta, discount, mistake, skip, equal), *rewards, seed=seed)
    assert label.shape == (20,)
    assert set(label[~np.isnan(label)]) <= {0.0, 0.5, 1.0}
    if skip == 0.0:
        assert not np.isnan(label).any()


def test_named_teachers_are_those_of_the_source():
    wanted = {
        "oracle": {},
        "bradley-terry": {"beta": 1.0},
        "stochastic": {"beta": 1.0},
        "mistake": {"mistake": 0.1},
        "skip": {"skip": 0.1},
        "myopic": {"discount": 0.9},
        "equal": {"equal": 0.1},
    }
    assert {name: SyntheticTeacher(**faults) for name, faults in wanted.items()} == {
        name: named.teacher for name, named in TEACHERS.items()
    }
    assert make_teacher("mistake", beta=2.0) == SyntheticTeacher(beta=2.0, mistake=0.1)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: make_teacher("angry"), "choose one of oracle"),
        (lambda: make_teacher("oracle", epsilon=0.1), "a teacher has no epsilon"),
        (lambda: make_teacher("mistake", mistake=1.5), "mistake is 1.5; give a number from 0 to 1"),
        (lambda: SyntheticTeacher(beta=np.nan), "beta is nan"),
        (lambda: SyntheticTeacher(discount=-0.1), "discount is -0.1"),
        (lambda: SyntheticTeacher(skip=np.nan), "skip is nan"),
        (lambda: SyntheticTeacher(equal=np.inf), "equal is inf"),
        (lambda: SyntheticTeacher(margin_per_step=np.inf), "margin_per_step is inf"),
    ],
)
def test_bad_settings(make, told):
    with pytest.raises(InputError, match=told):
        make()


def test_rewards_stay_sealed():
    first = TrueReward([[1.0, 2.0]])
    Oracle().answer(first, first, np.random.default_rng(0))
    with pytest.raises(TypeError):
        np.asarray(first)
    np.testing.assert_array_equal(first.reveal(TrueRewardReader.TEACHER), [[1.0, 2.0]])
