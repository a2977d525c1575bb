"""The branch estimator: what comes later, from fresh roll-outs off a restored state."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..._core import InputError
from ._blocks import over_tuples
from .data import LabelledClips, Needs, Policy, Visits
from .estimator import Discount, Estimator, RewardAt


class Branch(Estimator):
    """∇Q − ∇V from pairs of fresh roll-outs that start at M random steps of each clip:

        Σ_m (H/M) w_{h_m} [Σ_{k<T} γ^k ∇r(roll-out 0 of m)_k − Σ_{k<T} γ^k ∇r(roll-out 1 of m)_k]

    Roll-out 0 starts with the clip's own action a_h, roll-out 1 with a fresh one of π; then both follow π.
    Given (s_h, a_h) they are independent of the rest of the clip, so the mean of the product is the product
    of the means and the plain w_h = l − b_h will do, where `Suffix` needs a fit. What the two share in
    random numbers lowers the variance of their difference.

    Bias: γ^T of what was cut off, nothing else, whatever the baseline. Without roll-out 1 (`values` False)
    ∇Q stands for ∇Q − ∇V, which has the same mean only where b_h(s_h) = E[l | s_h]: right when either the
    baseline or ∇V is.

    Args:
        num_branches: M, steps of each clip that are branched, drawn evenly with replacement.
        length: T, steps of each roll-out with the first; 1/(1 − γ) steps carry 63 % of the sum.
        values: subtract roll-out 1, a sample of ∇V.

    Raises:
        InputError: no branches, or roll-outs without a step.
    """

    num_branches: int = eqx.field(default=1, static=True)
    length: int = eqx.field(default=100, static=True)
    values: bool = eqx.field(default=True, static=True)

    def __check_init__(self) -> None:
        if self.num_branches < 1 or self.length < 1:
            raise InputError(
                f"num_branches is {self.num_branches} and length {self.length}; give at least 1 of both"
            )

    @property
    def needs(self) -> Needs:
        """See `Estimator.needs`: M pairs of roll-outs of T steps a clip."""
        return Needs(branches=self.num_branches, branch_length=self.length)

    def surrogate(
        self,
        reward_at: RewardAt,
        clips: LabelledClips,
        weights: Float[Array, "B I H"],
        visits: Visits | None,
        policy: Policy,
        discount: Discount,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        """See `Estimator.surrogate`."""
        del visits, policy, key
        assert clips.branches is not None, "Needs.branches"
        branches, horizon = clips.branches, weights.shape[2]
        # Signs of the roll-outs.
        signs = jnp.asarray([1.0, -1.0] if self.values else [1.0], weights.dtype)
        observations, actions, valid = (
            leaf[:, :, :, : signs.shape[0]]
            for leaf in (branches.observations, branches.actions, branches.valid)
        )
        count, length = valid.shape[2], valid.shape[4]
        rewards = reward_at
        for _ in range(4):
            rewards = jax.vmap(rewards)
        powers = jnp.asarray(discount, weights.dtype) ** jnp.arange(length)
        discounted = powers * over_tuples(rewards, observations, actions)
        returns = jnp.sum(jnp.where(valid, discounted, 0.0), axis=-1)
        chosen = jnp.take_along_axis(weights, branches.step, axis=2)
        return (horizon / count) * jnp.sum(chosen[..., None] * signs * returns)
