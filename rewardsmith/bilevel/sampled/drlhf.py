"""DRLHF: follow the first term of the hyper-gradient only."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray, PyTree

from ...problem import AnyProblem
from .data import Evidence, Needs
from .leader import Leader, LeaderState, LeaderStats, descend, mixed, start
from .terms import first_term


class DRLHF(Leader):
    """Deep RL from human preferences: x ← x − β E[∇_x l], the clips taken as given.

    Alternates with the follower's improvement. What it leaves out is that the clips move when x moves.
    Departs from the paper in the optimiser (any of optax) and in that queries are uniform.

    Source: Christiano et al., NeurIPS 2017, arXiv 1706.03741.

    Args:
        optimiser: turns the gradient into a step of x.
    """

    optimiser: optax.GradientTransformation = eqx.field(static=True)

    @property
    def needs(self) -> Needs:
        """See `Leader.needs`: the clips alone."""
        return Needs()

    def init(self, x: PyTree, observation: Any, action: Any, key: PRNGKeyArray) -> LeaderState:
        """See `Leader.init`."""
        return start(self.optimiser, x)

    def step(
        self, problem: AnyProblem, state: LeaderState, evidence: Evidence, key: PRNGKeyArray
    ) -> tuple[LeaderState, LeaderStats]:
        """See `Leader.step`."""
        loss, first = first_term(problem, state.x, evidence.clips)
        gradient, stats = mixed(loss, first, jax.tree.map(jnp.zeros_like, first))
        return descend(self.optimiser, state, gradient), stats
