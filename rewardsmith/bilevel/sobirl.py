"""SoBiRL: follow both terms of the hyper-gradient, the second estimated from the newest clips."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._core import InputError
from .baselines import Baseline, LinearBaseline
from .estimators import Estimator, Suffix
from .leader import Leader, LeaderStats, descend, start
from .terms import first_term, second_term


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
    """

    optimiser: optax.GradientTransformation = eqx.field(static=True)
    estimator: Estimator = Suffix()
    baseline: Baseline = LinearBaseline()
    weight: float = eqx.field(default=1.0, static=True)
    bound: float | None = eqx.field(default=None, static=True)

    def __check_init__(self) -> None:
        if self.bound is not None and not 0.0 < self.bound < jnp.inf:
            raise InputError(f"bound of the second term is {self.bound}; give a positive number, or None")
        if not 0.0 <= self.weight < jnp.inf:
            raise InputError(f"weight of the second term is {self.weight}; give a number ≥ 0 (1 by default)")

    @property
    def further(self) -> int:
        """See `Leader.further`: what the estimator wants."""
        return self.estimator.further

    def init(self, x):
        """See `Leader.init`."""
        return start(self.optimiser, x)

    def step(self, problem, state, clips, recent, follower, key):
        """See `Leader.step`."""
        loss, first = first_term(problem, state.x, clips)
        second = second_term(problem, state.x, recent, follower, self.estimator, self.baseline, key)
        first_norm, second_norm = optax.tree.norm(first), optax.tree.norm(second)
        inner = sum(
            jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
        )
        # Both norms can be zero: a reward that is constant, a loss that is.
        cosine = inner / jnp.maximum(first_norm * second_norm, 1e-30)
        shrink = 1.0
        if self.bound is not None:
            shrink = jnp.minimum(1.0, self.bound * first_norm / jnp.maximum(second_norm, 1e-30))
        gradient = jax.tree.map(lambda a, b: a + self.weight * shrink * b, first, second)
        return descend(self.optimiser, state, gradient), LeaderStats(loss, first_norm, second_norm, cosine)
