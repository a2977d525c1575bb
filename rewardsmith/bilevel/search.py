"""Many starts and a homotopy: for problems whose φ has many basins, of which a descent finds the nearest."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._core import RESULTS, InputError
from ..mdp import MDP
from ..problem import BilevelProblem
from .hypergradient import hypergradient
from .method import Method, StepStats
from .solve import Progress, Solution, solve

Ease = Callable[[BilevelProblem[MDP], Float[Array, ""]], BilevelProblem[MDP]]


class _Cooling(eqx.Module):
    """The problem along one run: temperature falls geometrically, the problem is eased in linearly."""

    ratio: Float[Array, ""]
    steps: Int[Array, ""]
    ease: Ease | None

    def __call__(self, problem: BilevelProblem[MDP], step: Int[Array, ""]) -> BilevelProblem[MDP]:
        done = jnp.minimum(step / jnp.maximum(self.steps - 1, 1), 1.0)
        tau = problem.tau * self.ratio ** (1.0 - done)
        hot = eqx.tree_at(lambda p: p.temperature, problem, tau.astype(problem.tau.dtype))
        return hot if self.ease is None else self.ease(hot, done)


def search(
    problem: BilevelProblem[MDP],
    method: Method,
    start: Callable[[PRNGKeyArray], PyTree],
    *,
    key: PRNGKeyArray | None = None,
    rungs: int = 6,
    ratio: float = 1.5,
    steps: int = 300,
    hold: int = 20,
    keep: int = 2,
    polish: int = 200,
    ease: Ease | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Minimise φ from several starts at several temperatures, and polish the best.

    Run k of `rungs` begins at a fresh start and at temperature ratio^k τ, which falls geometrically to τ over
    `steps` steps and stays for `hold`. A warm follower spreads out, so φ is smooth and its basins few; which
    basin a run cools into depends on where it began, hence the ladder. The `keep` runs of the lowest exact
    φ get `polish` more steps with half the step size, and the best of them is returned.

    Args:
        problem: on an `MDP`.
        method: follows ∇φ, such as `ImplicitGradient(0.2, optimiser=optax.adam(1.0))`.
        start: key -> x0.
        key: all randomness; None: key 0.
        rungs: runs.
        ratio: of one rung's starting temperature to the last's, > 1.
        steps: over which a run cools.
        hold: steps at τ behind them.
        keep: runs that are polished.
        polish: steps of polishing; 0: none.
        ease: (problem, t) -> the problem at t ∈ [0, 1], the real one at 1: what makes the problem hard, such
            as the price of an incentive, comes in while the run cools.
        progress: called with the step counted over all runs, and its stats.

    Returns:
        The `Solution` of the best run; its `stats`, `seconds` and `num_steps` are of all runs, in a row.

    Raises:
        InputError: a count or ratio that makes no sense, or no run came to a finite φ.
    """
    if rungs < 1 or not 1 <= keep <= rungs or steps < 1 or hold < 0 or polish < 0:
        raise InputError(
            f"rungs {rungs}, keep {keep}, steps {steps}, hold {hold}, polish {polish}; "
            "give rungs >= keep >= 1, steps >= 1, and the others >= 0"
        )
    if not 1 <= ratio < np.inf:
        raise InputError(f"ratio is {ratio}; give a number >= 1, such as 1.5")
    keys = jax.random.split(jax.random.key(0) if key is None else key, rungs)
    legs: list[Solution] = []

    def leg(method: Method, x: PyTree, length: int, key: PRNGKeyArray, path: _Cooling | None) -> Solution:
        behind = sum(int(done.num_steps) for done in legs)

        def told(step: int, stats: StepStats) -> None:
            if progress is not None:
                progress(behind + step, stats)

        legs.append(solve(problem, method, x, length, key=key, path=path, throw=False, progress=told))
        return legs[-1]

    for k, run_key in enumerate(keys):
        path = _Cooling(jnp.asarray(ratio**k), jnp.asarray(steps, jnp.int32), ease)
        leg(method, start(run_key), steps + hold, run_key, path)
    best = _best_first(problem, legs)[:keep]
    if polish:
        gentler = eqx.tree_at(lambda m: m.step_size, method, method.step_size / 2)
        best = _best_first(problem, [leg(gentler, end.value, polish, keys[0], None) for end in best])
    return _joined(legs, best[0])


def _best_first(problem: BilevelProblem[MDP], ends: list[Solution]) -> list[Solution]:
    sound = [end for end in ends if end.result == RESULTS.successful]
    if not sound:
        raise InputError(f"no run of the search ended well: {RESULTS[ends[0].result]}")
    return sorted(sound, key=lambda end: float(hypergradient(problem, end.value)[0]))


def _joined(legs: list[Solution], best: Solution) -> Solution:
    """The best leg, with what all of them cost."""
    stats = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(leg.stats for leg in legs))
    begun = np.cumsum([0.0, *(float(leg.seconds[-1]) for leg in legs)])
    seconds = np.concatenate([t + np.asarray(leg.seconds) for t, leg in zip(begun, legs, strict=False)])
    steps = jnp.asarray(sum(int(leg.num_steps) for leg in legs), jnp.int32)
    return Solution(best.value, best.result, stats, seconds, steps, best.state)
