"""DRLHF: follow the first term of the hyper-gradient only."""

import equinox as eqx
import jax.numpy as jnp
import optax

from .leader import Leader, LeaderStats, descend, start
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
    def further(self) -> int:
        """See `Leader.further`."""
        return 0

    def init(self, x):
        """See `Leader.init`."""
        return start(self.optimiser, x)

    def step(self, problem, state, clips, recent, follower, key):
        """See `Leader.step`."""
        del recent, follower, key
        loss, gradient = first_term(problem, state.x, clips)
        nothing = jnp.zeros_like(loss)
        stats = LeaderStats(loss, optax.tree.norm(gradient), nothing, nothing)
        return descend(self.optimiser, state, gradient), stats
