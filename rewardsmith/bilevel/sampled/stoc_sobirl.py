"""Stoc-SoBiRL: SoBiRL with recursive momentum, which averages the noise of many steps away."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ..._core import InputError
from ...problem import AnyProblem
from .baselines import Baseline, LinearBaseline
from .data import Evidence, Follower, Needs, with_log_prob
from .estimator import Estimator
from .leader import Leader, LeaderState, LeaderStats, check_mixture, descend, mixed, start
from .suffix import Suffix
from .terms import both_terms, drawn_by, importance_weights


class Recursion(eqx.Module):
    """What the next step needs of this one.

    Attributes:
        x: x_{k−1}.
        direction: h_{k−1}.
        count: k, steps taken.
        follower: of the step before, with importance weights; else None.
    """

    x: PyTree
    direction: PyTree
    count: Int[Array, ""]
    follower: Follower | None


class StocSoBiRL(Leader):
    """SoBiRL along a running estimate of ∇φ that is corrected for how x moved:

        h_k = g_k(x_k) + (1 − ρ_k) (h_{k−1} − g_k(x_{k−1})),      h_0 = g_0(x_0),      x ← x − β h_k

    g is SoBiRL's gradient, both terms. g_k(x_k) and g_k(x_{k−1}) see the same samples and fresh actions, so
    their noise cancels as far as x stood still: the variance of h tends to ρ/(2 − ρ) of that of g where x
    moves slowly, and h does not lag behind x as plain momentum does. Each step costs two gradients.

    **Whose clips.** g_k(x_{k−1}) wants clips of the follower before, and gets those of now. Without weights
    the follower of now stands for both; what the change of the policy adds to ∇φ is then no part of
    g_k(x_k) − g_k(x_{k−1}), and h is biased by up to (1 − ρ)/ρ times that of one step: small steps, or a
    larger ρ. With `importance`, g_k(x_{k−1}) is estimated with the follower before, policy and temperature,
    and its clips are weighed to be those of that follower: the newest by Π π_{k−1}/π_then, those of the
    first term, which count as of now, by Π π_{k−1}/π_k. Weights reach to the end of the clip; what an
    estimator takes from behind it is still drawn under the follower of now.

    Source: Yang, Gao and Yuan, AISTATS 2025, arXiv 2405.19697, who name the method and release no code.
    Departs from the paper as `SoBiRL` does, in the optimiser that h may be handed to, and in that weights
    are self-normalised and cut.

    Args:
        optimiser: turns h into a step of x.
        estimator: of ∇Q − ∇V.
        baseline: b_h(s_h).
        momentum: ρ, 0 < ρ <= 1, or an optax schedule k -> ρ_k; 1 is SoBiRL.
        weight, bound: of the second term of each g, before the recursion, as in `SoBiRL`.
        importance: weigh the clips, for both x.

    Raises:
        InputError: a momentum outside (0, 1], or a weight or bound that is negative.
    """

    optimiser: optax.GradientTransformation = eqx.field(static=True)
    estimator: Estimator = Suffix()
    baseline: Baseline = LinearBaseline()
    momentum: float | optax.Schedule = eqx.field(default=0.1, static=True)
    weight: float = eqx.field(default=1.0, static=True)
    bound: float | None = eqx.field(default=None, static=True)
    importance: bool = eqx.field(default=False, static=True)

    def __check_init__(self) -> None:
        check_mixture(self.weight, self.bound)
        if not callable(self.momentum) and not 0.0 < self.momentum <= 1.0:
            raise InputError(
                f"momentum is {self.momentum}; give 0 < momentum <= 1, such as 0.1, or a schedule"
            )

    @property
    def needs(self) -> Needs:
        """See `Leader.needs`: what the estimator wants."""
        return with_log_prob(self.estimator.needs, self.importance)

    def init(self, x: PyTree, observation: Any, action: Any, key: PRNGKeyArray) -> LeaderState:
        """See `Leader.init`."""
        zeros = jax.tree.map(jnp.zeros_like, eqx.filter(x, eqx.is_inexact_array))
        return start(self.optimiser, x, Recursion(x, zeros, jnp.zeros((), jnp.int32), None))

    def meet(self, state: LeaderState, follower: Follower) -> LeaderState:
        """See `Leader.meet`: with importance weights the follower of the step before is kept."""
        if not self.importance or state.memory.follower is not None:
            return state
        return eqx.tree_at(lambda s: s.memory.follower, state, _plain(follower), is_leaf=lambda n: n is None)

    def step(
        self, problem: AnyProblem, state: LeaderState, evidence: Evidence, key: PRNGKeyArray
    ) -> tuple[LeaderState, LeaderStats]:
        """See `Leader.step`; its stats are those of g_k(x_k)."""
        state = self.meet(state, evidence.follower)
        held = state.memory
        gradient, stats = self._gradient(problem, state.x, evidence, evidence.follower, key, None)
        now_as_then = None
        if self.importance:
            clips = drawn_by(evidence.follower.policy, evidence.clips)
            now_as_then, _ = importance_weights(held.follower.policy, clips)
        follower = held.follower if self.importance else evidence.follower
        before, _ = self._gradient(problem, held.x, evidence, follower, key, now_as_then)
        momentum = self.momentum(held.count) if callable(self.momentum) else self.momentum
        kept = jnp.where(held.count == 0, 0.0, 1.0 - momentum)
        direction = jax.tree.map(
            lambda g, h, b: g + (kept * (h - b)).astype(g.dtype), gradient, held.direction, before
        )
        moved = descend(self.optimiser, state, direction)
        remembered = _plain(evidence.follower) if self.importance else None
        memory = Recursion(state.x, direction, held.count + 1, remembered)
        return LeaderState(moved.x, moved.optimiser, memory), stats

    def _gradient(
        self,
        problem: AnyProblem,
        x: PyTree,
        evidence: Evidence,
        follower: Follower,
        key: PRNGKeyArray,
        first_importance: Float[Array, " B"] | None,
    ) -> tuple[PyTree, LeaderStats]:
        loss, first, second, share = both_terms(
            problem,
            x,
            evidence,
            follower,
            self.estimator,
            self.baseline,
            key,
            importance=self.importance,
            first_importance=first_importance,
        )
        return mixed(loss, first, second, self.weight, self.bound, share)


def _plain(follower: Follower) -> Follower:
    """The follower with no weak types, which a scan would not carry."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), follower)
