"""Data Shapley: what each example is worth to whoever trains on all of them."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.stats

from ..._core import InputError

_MOST_EXACT = 14


@runtime_checkable
class Utility(Protocol):
    """v(S): how good a model is that was trained on some of n examples."""

    def __call__(self, chosen: np.ndarray, start: Any, /) -> tuple[float, Any]:
        """v(S), and the trained model.

        Args:
            chosen: (n,) bool, S; all false: nothing to train on.
            start: what the last call returned, on S less one example, to start from; None: afresh.
        """
        ...


@dataclass(frozen=True)
class Shapley:
    """Values of n examples; they sum to v(all) − v(none), but for truncation.

    Attributes:
        values: (n,) φ, in units of the utility.
        low, high: (n,) 95 % intervals over permutations, by Student's t: each by itself, not jointly.
        permutations: how many were drawn.
        converged: whether `change` fell below its tolerance.
        change: mean over examples of |φ_t − φ_{t−50}| / max(|φ_t|, mean |φ_t|), after the last permutation.
        evaluations: trainings.
        truncated: share of the trainings that truncation saved.
    """

    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    permutations: int
    converged: bool
    change: float
    evaluations: int
    truncated: float


def data_shapley(
    utility: Utility,
    count: int,
    *,
    seed: int = 0,
    max_permutations: int = 1000,
    min_permutations: int = 100,
    truncation: float = 0.01,
    tolerance: float = 0.05,
    progress: Callable[[int, float], None] | None = None,
) -> Shapley:
    """φ_i = E[v(S ∪ {i}) − v(S)], S what stands before i in a random permutation; truncated Monte Carlo.

    A permutation is left, the rest of its gains taken as 0, once v(S) is so near v(all) that what is left
    cannot matter: |v(all) − v(S)| ≤ `truncation` |v(all) − v(none)|. That biases what is late in a
    permutation towards 0, by no more than that for all examples together; 0 never truncates.

    Source: Shapley, 1953; Ghorbani and Zou, ICML 2019, arXiv 1904.02868 (Algorithm 1, and its measure of
    convergence, here with the mean |φ| under values near 0). Departures: intervals; warm starts.

    Args:
        utility: v; deterministic, quick, such as `LogisticFit`.
        count: n.
        seed: of the permutations.
        max_permutations, min_permutations: at most and at least so many.
        truncation: ≥ 0, a share of v(all) − v(none).
        tolerance: of `Shapley.change`.
        progress: called after each permutation with their number and the change.

    Raises:
        InputError: numbers out of range, or a utility that is not finite.
    """
    if count < 1 or not 2 <= min_permutations <= max_permutations:
        raise InputError(
            f"count is {count}, permutations {min_permutations} to {max_permutations}: give count ≥ 1 and "
            "2 ≤ min_permutations ≤ max_permutations"
        )
    if not 0.0 <= truncation < 1.0 or tolerance < 0.0:
        raise InputError(
            f"truncation is {truncation} and tolerance {tolerance}; give 0 ≤ truncation < 1, tolerance ≥ 0"
        )
    rng = np.random.default_rng(seed)
    none = _checked(utility, np.zeros(count, bool), None)[0]
    whole, full = _checked(utility, np.ones(count, bool), None)
    del full
    near = truncation * abs(whole - none)
    gains = np.zeros((max_permutations, count))
    means: list[np.ndarray] = []
    evaluations, change, converged = 2, math.inf, False
    while len(means) < max_permutations and not converged:
        drawn = len(means)
        chosen, before, model = np.zeros(count, bool), none, None
        for index in rng.permutation(count):
            if truncation and abs(whole - before) <= near:
                break
            chosen[index] = True
            after, model = _checked(utility, chosen.copy(), model)
            gains[drawn, index] = after - before
            evaluations, before = evaluations + 1, after
        means.append(gains[: drawn + 1].mean(axis=0))
        drawn += 1
        if drawn > 50:
            scale = np.maximum(np.abs(means[-1]), max(float(np.abs(means[-1]).mean()), 1e-300))
            change = float(np.mean(np.abs(means[-1] - means[-51]) / scale))
            converged = drawn >= min_permutations and change < tolerance
        if progress is not None:
            progress(drawn, change)
    drawn = len(means)
    spread = gains[:drawn].std(axis=0, ddof=1) / math.sqrt(drawn) * scipy.stats.t.ppf(0.975, drawn - 1)
    values = means[-1]
    return Shapley(
        values,
        values - spread,
        values + spread,
        drawn,
        converged,
        change,
        evaluations,
        1.0 - (evaluations - 2) / (drawn * count),
    )


def exact_shapley(utility: Utility, count: int) -> np.ndarray:
    """(n,) φ_i = Σ_S |S|! (n − |S| − 1)! / n! (v(S ∪ {i}) − v(S)), over all 2ⁿ subsets.

    Args:
        utility: v, of a subset of the examples.
        count: n, at most 14.

    Raises:
        InputError: more than 14 examples, or none.
    """
    if not 1 <= count <= _MOST_EXACT:
        raise InputError(f"count is {count}: give 1 to {_MOST_EXACT} examples, or data_shapley")
    value = {
        chosen: _checked(utility, np.array(chosen, bool), None)[0]
        for chosen in itertools.product((False, True), repeat=count)
    }
    found = np.zeros(count)
    for chosen, without in value.items():
        size = sum(chosen)
        for index in np.flatnonzero(~np.array(chosen)).tolist():
            with_it = value[(*chosen[:index], True, *chosen[index + 1 :])]
            found[index] += (with_it - without) / (count * math.comb(count - 1, size))
    return found


def _checked(utility: Utility, chosen: np.ndarray, start: Any) -> tuple[float, Any]:
    value, model = utility(chosen, start)
    if not math.isfinite(value):
        raise InputError(
            f"the utility of {int(chosen.sum())} examples is {value}: make it finite, also of none"
        )
    return float(value), model
