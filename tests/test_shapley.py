"""Data Shapley against all subsets, its axioms, and the quick trainings it is made for."""

import numpy as np
import pytest
from scipy.stats import rankdata

from rewardsmith._core import InputError
from rewardsmith.preferences.attribution import LogisticFit, RidgeFit, data_shapley, exact_shapley
from tests.test_attribution import linear_data

pytestmark = pytest.mark.usefixtures("double_precision")


def shapley_data(count, seed=0):
    examples, _ = linear_data(count, 3, seed=seed)
    held_out, _ = linear_data(100, 3, seed=seed)
    return [np.asarray(array) for array in (examples["f"], examples["y"], held_out["f"], held_out["y"])]


@pytest.mark.parametrize("fit", [LogisticFit, RidgeFit])
def test_axioms_of_exact_shapley(fit):
    features, label, *held_out = map(np.array, shapley_data(6))
    features[1], label[1] = features[0], label[0]
    features[2] = 0.0
    utility = fit(features, label, *held_out)
    values = exact_shapley(utility, 6)
    whole, none = (utility(np.full(6, chosen), None)[0] for chosen in (True, False))
    assert values.sum() == pytest.approx(whole - none, abs=1e-6)
    assert values[0] == pytest.approx(values[1], abs=1e-6) and abs(values[0]) > 1e-3
    assert values[2] == pytest.approx(0.0, abs=1e-6)


def test_truncated_monte_carlo_finds_the_exact_values():
    utility = LogisticFit(*shapley_data(8))
    exact = exact_shapley(utility, 8)
    seen = []
    found = data_shapley(
        utility, 8, truncation=0.0, tolerance=0.0, max_permutations=400, progress=lambda n, c: seen.append(c)
    )
    assert found.permutations == 400 == len(seen) and not found.converged and found.truncated == 0.0
    assert found.values.sum() == pytest.approx(exact.sum(), abs=1e-5)
    np.testing.assert_allclose(found.values, exact, atol=0.1 * np.abs(exact).max())
    # Of 95 % intervals, 6 of 8 cover the truth but for one time in a hundred.
    assert np.sum((found.low <= exact) & (exact <= found.high)) >= 6
    again = data_shapley(utility, 8, truncation=0.0, tolerance=0.0, max_permutations=400)
    np.testing.assert_array_equal(again.values, found.values)


def test_truncation_saves_trainings_and_convergence_ends_them():
    utility = LogisticFit(*shapley_data(40), measure="accuracy")
    whole = data_shapley(utility, 40, truncation=0.0, max_permutations=60, min_permutations=60)
    cut = data_shapley(utility, 40, truncation=0.05, max_permutations=60, min_permutations=60)
    assert cut.evaluations < whole.evaluations and 0.0 < cut.truncated < 1.0
    assert np.corrcoef(rankdata(cut.values), rankdata(whole.values))[0, 1] > 0.7
    ended = data_shapley(utility, 40, tolerance=0.9, max_permutations=200)
    assert ended.converged and ended.permutations == 100 and ended.change < 0.9


def test_a_warm_start_changes_nothing():
    utility = LogisticFit(*shapley_data(12))
    cold = LogisticFit(*shapley_data(12))
    model = None
    for index in range(12):
        chosen = np.arange(12) <= index
        value, model = utility(chosen, model)
        # Newton's method stops short of the minimum by as much as its tolerance allows.
        assert value == pytest.approx(cold(chosen, None)[0], abs=1e-3)
    assert utility(np.ones(12, bool), None)[0] == cold(np.ones(12, bool), None)[0]


def test_shapley_refuses():
    data = shapley_data(4)
    utility = RidgeFit(*data)
    with pytest.raises(InputError, match="give 1 to 14 examples, or data_shapley"):
        exact_shapley(utility, 20)
    with pytest.raises(InputError, match="2 ≤ min_permutations"):
        data_shapley(utility, 4, max_permutations=10)
    with pytest.raises(InputError, match="truncation is 2"):
        data_shapley(utility, 4, truncation=2.0)
    with pytest.raises(InputError, match="make it finite"):
        data_shapley(lambda chosen, start: (float("nan"), None), 4)
    with pytest.raises(InputError, match="ridge is 0"):
        RidgeFit(*data, ridge=0.0)
    with pytest.raises(InputError, match=r"give \(n, d\)"):
        LogisticFit(data[0], data[1][:2], *data[2:])
    with pytest.raises(InputError, match='measure is "auc"'):
        LogisticFit(*data, measure="auc")  # pyright: ignore[reportArgumentType]
