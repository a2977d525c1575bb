"""What each action did to the loss, c_h, and the rewards behind it that c_h is multiplied with."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..._core import InputError
from ...problem import AnyProblem
from ._blocks import over_tuples
from ._ridge import predictions_at_steps
from .data import Follower, LabelledClips, Policy
from .estimator import Discount, Features, RewardAt, minus_expected, noise_of_mean, suffix_coefficients


def fit_credits(
    features: Features,
    clips: LabelledClips,
    weights: Float[Array, "B I H"],
    policy: Policy,
    key: PRNGKeyArray,
    *,
    num_actions: int,
    ridge: float,
    shared: bool = False,
) -> Float[Array, "B I H"]:
    """c_h ≈ E[w_h | s_h, a_h] − E[w_h | s_h], linear in z = f(s, a) − (mean of f over fresh actions).

    Ridge regression of w_h on z, for each tuple from the others. E[c_h | s_h] = 0 whatever was fitted. With
    `clips.importance` W, which is in `weights` already, the squares are weighted and the result is W c_h:
    a fit of W w_h itself would not average to 0 under the law that drew the clips, and let ∇V in.

    Args:
        features: f.
        weights: w_h, constants.
        policy: draws the fresh actions.
        num_actions: K of them.
        ridge: penalty, relative to the number of rows of a regression.
        shared: one regression for all steps h; else one for each.
    """
    horizon = weights.shape[2]
    centred = minus_expected(
        features,
        clips.observations[:, :, :horizon],
        clips.actions[:, :, :horizon],
        policy,
        num_actions,
        key,
    ).astype(weights.dtype)
    # Given s, z has 1 + 1/K times the covariance of f where the mean is one over K fresh actions.
    credits = predictions_at_steps(
        centred,
        weights,
        ridge,
        shared=shared,
        intercept=False,
        noise_share=noise_of_mean(policy, num_actions),
        importance=clips.importance,
    )
    if clips.importance is not None:
        credits = credits * clips.importance[:, None, None]
    return jax.lax.stop_gradient(credits)


def check_fit(num_actions: int, further: int, ridge: float) -> None:
    """Raise InputError unless `fit_credits` and the steps behind a clip can use them."""
    if num_actions < 1 or further < 0:
        raise InputError("num_actions must be at least 1 and further at least 0")
    if not ridge > 0.0:
        raise InputError(f"ridge is {ridge}; give a positive number, such as 0.01")


def credited_rewards(
    reward_at: RewardAt,
    clips: LabelledClips,
    credits: Float[Array, "B I H"],
    discount: Discount,
    *,
    now: bool,
) -> Float[Array, ""]:
    """Σ c_h Σ_k γ^{k−h} r_x(s_k, a_k), all tuples together: over k >= h with `now`, else over k > h."""
    rewards = over_tuples(jax.vmap(jax.vmap(reward_at)), clips.observations, clips.actions)
    length = clips.valid.shape[2]
    coefficients = jax.vmap(jax.vmap(suffix_coefficients, (0, None, None)), (0, None, None))(
        credits, length, discount
    )
    if now:
        coefficients = coefficients.at[:, :, : credits.shape[2]].add(credits)
    return jnp.sum(jnp.where(clips.valid, coefficients * rewards, 0.0))


def credited_term(
    problem: AnyProblem,
    x: PyTree,
    clips: LabelledClips,
    follower: Follower,
    credits: Float[Array, "B I H"],
) -> PyTree:
    """(1/τ) E[Σ_i Σ_h c_h Σ_{k>=h} γ^{k−h} ∇r_x(s_k, a_k)], by one backward pass."""

    def objective(x: PyTree) -> Float[Array, ""]:
        total = credited_rewards(
            partial(problem.reward_at, x), clips, credits, problem.world.discount, now=True
        )
        return total / (clips.count * follower.temperature)

    return eqx.filter_grad(objective)(x)
