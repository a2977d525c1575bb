"""The suffix estimator: what comes later, from the rest of the same trajectory."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from ._credits import check_fit, credited_rewards, fit_credits
from .data import LabelledClips, Needs, Policy, Visits
from .estimator import Discount, Estimator, Features, RewardAt, action_features
from .one_step import OneStep


class Suffix(Estimator):
    """∇Q − ∇V from the rewards along the rest of the trajectory, which are a sample of ∇Q:

        Σ_h w_h (∇r(s_h, a_h) − E_{a'~π} ∇r(s_h, a')) + Σ_h c_h Σ_{k>h} γ^{k−h} ∇r(s_k, a_k)

    with c_h an estimate of E[l | s_h, a_h] − E[l | s_h]. The plain w_h = l − b_h would not do for what comes
    later: l and ∇r(s_k, a_k) both depend on the rest of the clip, so for h < H − 1 their product does not
    average to E[l | s_h, a_h] ∇Q, and the error outgrows the term itself. c_h depends on (s_h, a_h) alone.

    c_h is linear in features of (s, a) less their mean over fresh actions, z = f(s, a) − f̄(s): ridge
    regression of w_h on z, one per step h or one for all, for each tuple from the others. E[c_h | s_h] = 0
    whatever was fitted, so what is left out of ∇V adds nothing.

    Bias: γ^T of what was cut off, and the part of E[l | s_h, a_h] and of ∇Q that the features miss, where
    they miss both. With one-hot features of a finite world nothing is missed.

    Args:
        further: T, steps behind the clip. 1/(1 − γ) steps carry 63 % of the sum; variance grows with T.
        num_actions: fresh actions a' for each expectation.
        features: f, of one observation and action; the action itself unless given.
        ridge: weight of the penalty, relative to the number of rows of a regression.
        shared: one regression for all steps h, with H times the rows: where there are few clips. What an
            action does to the loss is then the same at every step of a clip, as far as f tells.
    """

    further: int = eqx.field(default=100, static=True)
    num_actions: int = eqx.field(default=4, static=True)
    features: Features = eqx.field(default=action_features, static=True)
    ridge: float = eqx.field(default=1e-2, static=True)
    shared: bool = eqx.field(default=False, static=True)

    def __check_init__(self) -> None:
        check_fit(self.num_actions, self.further, self.ridge)

    @property
    def needs(self) -> Needs:
        """See `Estimator.needs`: T steps behind each clip."""
        return Needs(further=self.further)

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
        now_key, credit_key = jax.random.split(key)
        now = OneStep(self.num_actions).surrogate(
            reward_at, clips, weights, visits, policy, discount, now_key
        )
        credits = fit_credits(
            self.features,
            clips,
            weights,
            policy,
            credit_key,
            num_actions=self.num_actions,
            ridge=self.ridge,
            shared=self.shared,
        )
        return now + credited_rewards(reward_at, clips, credits, discount, now=False)
