"""One run of one method, measured against the truth on its way."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from ..._core import RESULTS
from ...bilevel import Method, Solution, hypergradient, search, solve
from ...follower import solve_follower
from ...mdp import MDP
from ...problem import BilevelProblem
from ...problems.task import Task
from .build import annealing
from .config import SolveConfig
from .records import COSTS, outcome_column

Row = dict[str, Any]


@dataclass
class Measured:
    """One run: its measurements, its last x (arrays only), and why it failed, if it did."""

    rows: list[Row] = field(default_factory=list)
    x: PyTree = None
    reason: str | None = None


class Measurer:
    """Runs methods on one task.

    At each point of measurement the method is asked for one step more, of which only its estimate of ∇φ is
    kept: estimate and truth are then of the same x, and the run goes on as if nobody had looked.

    Args:
        task: the problem.
        config: settings.
        steps: of x, at most.
    """

    def __init__(self, task: Task, config: SolveConfig, steps: int):
        self.task, self.config, self.steps = task, config, steps
        self._answer = eqx.filter_jit(lambda problem, x: _outcomes(task, problem, x))

    def run(self, method: Method, seed: int, seen: Callable[[Row], None]) -> Measured:
        """Run `method` from the start that `seed` gives; `seen` is told each row."""
        start_key, method_key = jax.random.split(jax.random.key(seed))
        x, state, measured = self.task.start(start_key), None, Measured()
        points = np.unique(np.linspace(0, self.steps, self.config.evaluations + 1).round().astype(int))
        step, seconds, residual = 0, 0.0, float("nan")
        costs, ended = {name: 0 for name in COSTS}, False
        if self.config.rungs is not None:
            x, seconds, costs = self._search(method, start_key, self.config.rungs)
        while True:
            probe = self._solve(method, x, 1, step, state, method_key)
            if not _finite(probe):
                return _diverged(measured, step)
            row: Row = {"step": step, "seconds": seconds} | costs
            row |= self._measure(x, probe.state.gradient, step)
            row["residual"] = residual if step else float(probe.stats.residual[0])
            if not np.isfinite(row["phi"]):
                return _diverged(measured, step)
            measured.rows.append(row)
            seen(row)
            if ended or step == self.steps:
                measured.x = eqx.filter(x, eqx.is_array)
                return measured
            length = int(points[points > step][0]) - step
            part = self._solve(method, x, length, step, state, method_key, self.config.tolerance)
            step, seconds = step + int(part.num_steps), seconds + float(part.seconds[-1])
            costs = {name: costs[name] + int(np.sum(getattr(part.stats, name))) for name in COSTS}
            residual = float(part.stats.residual[-1])
            if not _finite(part):
                return _diverged(measured, step)
            x, state = part.value, part.state
            ended = self.config.tolerance > 0 and bool(part.result == RESULTS.successful)

    def _search(self, method: Method, key: Array, rungs: int) -> tuple[PyTree, float, dict[str, int]]:
        """Where the search ends, and what it cost: the run's own costs come on top."""
        found = search(
            self.task.problem,
            method,
            self.task.start,
            key=key,
            rungs=rungs,
            keep=min(2, rungs),
            ease=self.task.ease,
        )
        costs = {name: int(np.sum(getattr(found.stats, name))) for name in COSTS}
        return found.value, float(found.seconds[-1]), costs

    def _solve(
        self,
        method: Method,
        x: PyTree,
        steps: int,
        begun: int,
        state: Any,
        key: Array,
        tolerance: float = 0.0,
    ) -> Solution:
        return solve(
            self.task.problem,
            method,
            x,
            steps,
            tolerance=tolerance,
            key=key,
            temperature=annealing(self.config, self.task, self.steps, begun),
            state=state,
            throw=False,
        )

    def _measure(self, x: PyTree, estimate: PyTree, step: int) -> Row:
        problem = self.task.problem
        phi, gradient = hypergradient(problem, x)
        row: Row = {"phi": float(phi), "gradient_norm": float(optax.tree.norm(gradient))}
        row["temperature"] = float(problem.temperature)
        schedule = annealing(self.config, self.task, self.steps, step)
        if schedule is not None:
            tau = schedule(jnp.zeros((), jnp.int32))
            _, gradient = hypergradient(eqx.tree_at(lambda p: p.temperature, problem, tau), x)
            row["temperature"] = float(tau)
        cosine, error = _against(gradient, estimate)
        outcomes = self._answer(problem, x)
        row |= {"cosine": float(cosine), "relative_error": float(error)}
        return row | {outcome_column(name): float(value) for name, value in outcomes}


def policy_of(problem: BilevelProblem[MDP], x: PyTree) -> Float[Array, "S A"]:
    """π*(x)."""
    return solve_follower(
        problem.world_at(x), problem.reward(x), problem.tau, regulariser=problem.regulariser, throw=False
    ).policy


def _outcomes(task: Task, problem: BilevelProblem[MDP], x: PyTree) -> list[tuple[str, Array]]:
    # Pairs, since `jit` would sort a dict's names.
    return list(task.outcomes(x, policy_of(problem, x)).items())


@eqx.filter_jit
def _against(gradient: PyTree, estimate: PyTree) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cosine of estimate and truth, and the norm of their difference in units of the truth's; NaN at 0."""
    truth, held = (jax.flatten_util.ravel_pytree(tree)[0] for tree in (gradient, estimate))
    norm = jnp.linalg.norm(truth)
    return truth @ held / (norm * jnp.linalg.norm(held)), jnp.linalg.norm(held - truth) / norm


def _finite(solution: Solution) -> bool:
    return bool(solution.result != RESULTS.not_finite)


def _diverged(measured: Measured, step: int) -> Measured:
    measured.reason = f"NaN or infinity at step {step}: give a smaller --step-size"
    return measured
