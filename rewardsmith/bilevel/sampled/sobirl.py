"""SoBiRL: follow both terms of the hyper-gradient, the second estimated from the newest clips."""

from typing import Any

import equinox as eqx
import optax
from jaxtyping import PRNGKeyArray, PyTree

from ...problem import AnyProblem
from .baselines import Baseline, LinearBaseline
from .data import Evidence, Needs, with_log_prob
from .estimator import Estimator
from .leader import Leader, LeaderState, LeaderStats, check_mixture, descend, mixed, start
from .suffix import Suffix
from .terms import both_terms


class SoBiRL(Leader):
    """Soft bilevel RL on clips: x ← x − β (E[∇_x l] + weight · (1/τ) E[(l − b) Σ (∇Q − ∇V)]).

    τ is the follower's own temperature at that step. Departs from the paper in the baseline b, in warm
    starts of one deep follower instead of a solve to accuracy ε, and in that the clips of the second term
    are the newest comparisons, which the follower drew shortly before, instead of fresh ones each step.

    Source: Yang, Gao and Yuan, AISTATS 2025, arXiv 2405.19697.

    Args:
        optimiser: turns the gradient into a step of x.
        estimator: of ∇Q − ∇V.
        baseline: b_h(s_h); the better it predicts l, the lower the variance.
        weight: of the second term. 1 is the hyper-gradient; 0 is DRLHF.
        bound: c, before it is weighed the second term is scaled down to ‖second‖ ≤ c ‖first‖; None leaves
            it as it is. Where the bound binds, the step is no longer along ∇φ: a price for not following
            noise, since on a simulator the estimate from some tens of pairs is orders of magnitude longer
            than the first term and grows with the loss that weighs it.
        importance: weigh the clips of the second term by how likely the follower of now would draw them.
    """

    optimiser: optax.GradientTransformation = eqx.field(static=True)
    estimator: Estimator = Suffix()
    baseline: Baseline = LinearBaseline()
    weight: float = eqx.field(default=1.0, static=True)
    bound: float | None = eqx.field(default=None, static=True)
    importance: bool = eqx.field(default=False, static=True)

    def __check_init__(self) -> None:
        check_mixture(self.weight, self.bound)

    @property
    def needs(self) -> Needs:
        """See `Leader.needs`: what the estimator wants."""
        return with_log_prob(self.estimator.needs, self.importance)

    def init(self, x: PyTree, observation: Any, action: Any, key: PRNGKeyArray) -> LeaderState:
        """See `Leader.init`."""
        return start(self.optimiser, x)

    def step(
        self, problem: AnyProblem, state: LeaderState, evidence: Evidence, key: PRNGKeyArray
    ) -> tuple[LeaderState, LeaderStats]:
        """See `Leader.step`."""
        loss, first, second, share = both_terms(
            problem,
            state.x,
            evidence,
            evidence.follower,
            self.estimator,
            self.baseline,
            key,
            importance=self.importance,
        )
        gradient, stats = mixed(loss, first, second, self.weight, self.bound, share)
        return descend(self.optimiser, state, gradient), stats
