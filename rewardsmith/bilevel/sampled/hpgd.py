"""HPGD with a deep follower: the leader's advantage and the follower's, both averaged over visits."""

from typing import Any

import equinox as eqx
import optax
from jaxtyping import PRNGKeyArray, PyTree

from ...problem import AnyProblem
from ._credits import check_fit, credited_term, fit_credits
from .baselines import Baseline, LinearBaseline
from .data import Evidence, Needs
from .estimator import Features, action_features
from .leader import Leader, LeaderState, LeaderStats, check_mixture, descend, mixed, start
from .terms import centred_losses, first_term


class SampledHPGD(Leader):
    """Hyper policy gradient descent: both factors of the second term are Monte-Carlo means.

        ∇φ = E[∇_x l] + (1/τ) E[ Σ_i Σ_h Â_L(s_h, a_h) ∇Â_F(s_h, a_h) ]

    In the paper's tables Â_L averages the leader's returns over the visits of (s, a) less those of s, and
    ∇Â_F averages Σ_{k>=h} γ^{k−h} ∇r(s_k, a_k) in the same way. Here a mean over visits is a ridge
    regression on z = f(s, a) − (mean of f over fresh actions); with one-hot features it is the table again.

    **One fit does for both.** Regressions of both sides on the same z are one symmetric matrix S, so
    Σ (S w)(S G) = Σ (S² w) G; and S² = S without a penalty. Hence averaging the leader's side alone, the
    follower's alone or both is one and the same, and with c_h = Â_L(s_h, a_h) the second term is

        (1/τ) E[ Σ_i Σ_h c_h Σ_{k>=h} γ^{k−h} ∇r(s_k, a_k) ]

    one backward pass, and no table of gradients. c_h is fitted for each tuple from the others: a fit that
    had seen its own loss would let in the covariance of loss and later rewards.

    Unlike `Suffix`, the step's own ∇r is averaged too. Bias: γ^T of what was cut off, and the part of the
    two advantages that the features miss, where they miss both.

    Source: Thoma et al., NeurIPS 2024, arXiv 2406.01575. Departures: regression for tables; clips of fixed
    length H and T steps behind them for roll-outs of geometric length; the newest comparisons for fresh
    clips; a baseline before the fit; any loss on clips in place of a return.

    Args:
        optimiser: turns the gradient into a step of x.
        baseline: b_h(s_h), taken off before the fit.
        further: T, steps behind the clip.
        features: f, of one observation and action; the action itself unless given.
        ridge: weight of the penalty, relative to the number of clips in the batch.
        num_actions: fresh actions for each mean of f.
        shared: one fit for all steps h, as in the paper's tables, in place of one for each: H times the
            rows. Â_L is then a mean over the steps; no bias where states are met alike at every step.
        weight, bound: of the second term, as in `SoBiRL`.
    """

    optimiser: optax.GradientTransformation = eqx.field(static=True)
    baseline: Baseline = LinearBaseline()
    further: int = eqx.field(default=100, static=True)
    features: Features = eqx.field(default=action_features, static=True)
    ridge: float = eqx.field(default=1e-2, static=True)
    num_actions: int = eqx.field(default=4, static=True)
    shared: bool = eqx.field(default=False, static=True)
    weight: float = eqx.field(default=1.0, static=True)
    bound: float | None = eqx.field(default=None, static=True)

    def __check_init__(self) -> None:
        check_fit(self.num_actions, self.further, self.ridge)
        check_mixture(self.weight, self.bound)

    @property
    def needs(self) -> Needs:
        """See `Leader.needs`: T steps behind each clip."""
        return Needs(further=self.further)

    def init(self, x: PyTree, observation: Any, action: Any, key: PRNGKeyArray) -> LeaderState:
        """See `Leader.init`."""
        return start(self.optimiser, x)

    def step(
        self, problem: AnyProblem, state: LeaderState, evidence: Evidence, key: PRNGKeyArray
    ) -> tuple[LeaderState, LeaderStats]:
        """See `Leader.step`."""
        loss, first = first_term(problem, state.x, evidence.clips)
        credits = fit_credits(
            self.features,
            evidence.recent,
            centred_losses(problem, state.x, evidence.recent, self.baseline),
            evidence.follower.policy,
            key,
            num_actions=self.num_actions,
            ridge=self.ridge,
            shared=self.shared,
        )
        second = credited_term(problem, state.x, evidence.recent, evidence.follower, credits)
        gradient, stats = mixed(loss, first, second, self.weight, self.bound)
        return descend(self.optimiser, state, gradient), stats
