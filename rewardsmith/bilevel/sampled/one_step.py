"""The one-step estimator: what an action changes at once."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..._core import InputError
from .data import LabelledClips, Needs, Policy, Visits
from .estimator import Discount, Estimator, RewardAt, minus_expected


class OneStep(Estimator):
    """∇Q − ∇V ≈ ∇r(s, a) − E_{a'~π} ∇r(s, a'): what the action changes at once, nothing later.

    The bias is that of γ = 0; it is what published deep implementations of SoBiRL compute. No bias where an
    action has no consequences.

    Source: Yang, Gao and Yuan, AISTATS 2025, arXiv 2405.19697.

    Args:
        num_actions: fresh actions a' for the expectation.

    Raises:
        InputError: no actions.
    """

    num_actions: int = eqx.field(default=4, static=True)

    def __check_init__(self) -> None:
        if self.num_actions < 1:
            raise InputError(f"num_actions is {self.num_actions}; give at least 1")

    @property
    def needs(self) -> Needs:
        """See `Estimator.needs`: the clips alone."""
        return Needs()

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
        del visits, discount
        horizon = weights.shape[2]
        differences = minus_expected(
            reward_at,
            clips.observations[:, :, :horizon],
            clips.actions[:, :, :horizon],
            policy,
            self.num_actions,
            key,
        )
        return jnp.sum(weights * differences)
