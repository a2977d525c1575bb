"""The two terms of the hyper-gradient of a loss on clips, from a batch of labelled clips.

    ∇φ = E[∇_x l] + (1/τ) E[ Σ_i Σ_h (l − b_h(s_h^i)) (∇Q − ∇V)(s_h^i, a_h^i) ]

Source: Yang, Gao and Yuan, AISTATS 2025, arXiv 2405.19697, with a baseline that depends on the state.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from ..problem import BilevelProblem, ClipLoss
from .baselines import Baseline
from .estimators import Estimator, Policy


class LabelledClips(eqx.Module):
    """B tuples of I clips with their labels; L = H + T, the clip and the steps behind it."""

    observations: Shaped[Array, "B I L ..."]
    actions: Shaped[Array, "B I L ..."]
    valid: Bool[Array, "B I L"]
    label: Float[Array, " B"]

    def take(self, indices: Int[Array, " n"]) -> "LabelledClips":
        """The tuples at `indices`."""
        return jax.tree.map(lambda leaf: leaf[indices], self)


class Follower(eqx.Module):
    """What a leader may know of the follower: its policy and its temperature τ."""

    policy: Policy
    temperature: Float[Array, ""]


def clip_losses(problem: BilevelProblem, x: PyTree, clips: LabelledClips) -> Float[Array, " B"]:
    """l of every tuple."""
    horizon = _horizon(problem)
    return jax.vmap(partial(problem.clip_loss, x))(
        clips.observations[:, :, :horizon], clips.actions[:, :, :horizon], clips.label
    )


def first_term(problem: BilevelProblem, x: PyTree, clips: LabelledClips) -> tuple[Float[Array, ""], PyTree]:
    """(E[l], E[∇_x l]): the clips held still."""
    return eqx.filter_value_and_grad(lambda x: jnp.mean(clip_losses(problem, x, clips)))(x)


def second_term(
    problem: BilevelProblem,
    x: PyTree,
    clips: LabelledClips,
    follower: Follower,
    estimator: Estimator,
    baseline: Baseline,
    key: PRNGKeyArray,
) -> PyTree:
    """(1/τ) E[Σ_i Σ_h (l − b)(∇Q − ∇V)]: how the clips move when x moves.

    For clips of π*(x); then its bias is the estimator's.
    """
    horizon = _horizon(problem)
    losses = clip_losses(problem, x, clips)
    values = baseline.fit(clips.observations[:, :, :horizon], losses)
    weights = jax.lax.stop_gradient(losses[:, None, None] - values)

    def objective(x: PyTree) -> Float[Array, ""]:
        total = estimator.surrogate(
            partial(problem.reward_at, x),
            clips.observations,
            clips.actions,
            clips.valid,
            weights,
            follower.policy,
            problem.world.discount,
            key,
        )
        return total / (clips.label.shape[0] * follower.temperature)

    return eqx.filter_grad(objective)(x)


def _horizon(problem: BilevelProblem) -> int:
    assert isinstance(problem.upper_loss, ClipLoss)
    return problem.upper_loss.horizon
