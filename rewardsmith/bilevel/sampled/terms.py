"""The two terms of the hyper-gradient of a loss on clips, from a batch of labelled clips.

    ∇φ = E[∇_x l] + (1/τ) E[ Σ_i Σ_h (l − b_h(s_h^i)) (∇Q − ∇V)(s_h^i, a_h^i) ]

Source: Yang, Gao and Yuan, AISTATS 2025, arXiv 2405.19697, with a baseline that depends on the state.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ...problem import AnyProblem, ClipLoss
from ._blocks import over_tuples, value_and_grad_over_tuples
from .baselines import Baseline
from .data import Evidence, Follower, LabelledClips, Policy, Visits
from .estimator import Estimator


def clip_losses(problem: AnyProblem, x: PyTree, clips: LabelledClips) -> Float[Array, " B"]:
    """l of every tuple."""
    return over_tuples(partial(problem.clip_loss, x), *_compared(problem, clips), clips.label)


def first_term(
    problem: AnyProblem, x: PyTree, clips: LabelledClips, importance: Float[Array, " B"] | None = None
) -> tuple[Float[Array, ""], PyTree]:
    """(E[l], E[∇_x l]): the clips held still.

    Args:
        problem: whose upper loss is a `ClipLoss`.
        x: the leader's parameters.
        clips: B tuples with their labels.
        importance: a weight for each tuple; None: 1.

    Returns:
        The mean loss, and its gradient as a pytree like x.
    """

    def share(x: PyTree, observations: Any, actions: Any, label: Any, weight: Any) -> Float[Array, ""]:
        loss = problem.clip_loss(x, observations, actions, label)
        return (loss if weight is None else weight * loss) / clips.count

    return value_and_grad_over_tuples(share, x, *_compared(problem, clips), clips.label, importance)


def centred_losses(
    problem: AnyProblem, x: PyTree, clips: LabelledClips, baseline: Baseline
) -> Float[Array, "B I H"]:
    """w_h = l − b_h(s_h) at every step, constants: what the leader's side says of an action."""
    observations, actions = _compared(problem, clips)
    losses = over_tuples(partial(problem.clip_loss_to_go, x), observations, actions, clips.label)
    return jax.lax.stop_gradient(losses - baseline.fit(observations, losses))


def second_term(
    problem: AnyProblem,
    x: PyTree,
    clips: LabelledClips,
    follower: Follower,
    estimator: Estimator,
    baseline: Baseline,
    key: PRNGKeyArray,
    *,
    visits: Visits | None = None,
    importance: Float[Array, " B"] | None = None,
) -> PyTree:
    """(1/τ) E[Σ_i Σ_h (l − b)(∇Q − ∇V)]: how the clips move when x moves.

    For clips of π*(x), or weighted by `importance` as if they were; then its bias is the estimator's.

    Args:
        problem: whose upper loss is a `ClipLoss`.
        x: the leader's parameters.
        clips: B tuples with their labels, and the steps or roll-outs that the estimator needs.
        follower: π and τ.
        estimator: of ∇Q − ∇V.
        baseline: b.
        key: of the estimator's own draws.
        visits: replayed transitions, for an estimator that asks for them.
        importance: a weight for each tuple; None: 1.

    Returns:
        A pytree like x.
    """
    weights = centred_losses(problem, x, clips, baseline)
    if importance is not None:
        weights = weights * importance[:, None, None]
        clips = replace(clips, importance=importance)

    def objective(x: PyTree) -> Float[Array, ""]:
        total = estimator.surrogate(
            partial(problem.reward_at, x),
            clips,
            weights,
            visits,
            follower.policy,
            problem.world.discount,
            key,
        )
        return total / (clips.count * follower.temperature)

    return eqx.filter_grad(objective)(x)


def both_terms(
    problem: AnyProblem,
    x: PyTree,
    evidence: Evidence,
    follower: Follower,
    estimator: Estimator,
    baseline: Baseline,
    key: PRNGKeyArray,
    *,
    importance: bool = False,
    first_importance: Float[Array, " B"] | None = None,
) -> tuple[Float[Array, ""], PyTree, PyTree, Float[Array, ""] | float]:
    """E[l] and both terms at x for `follower`: the first from all clips, the second from the newest.

    Args:
        importance: weigh the newest clips by how likely `follower` would draw them.
        first_importance: a weight for each tuple of the first term; None: 1.

    Returns:
        E[l], the first term, the second, and the share of the newest clips that counts.
    """
    loss, first = first_term(problem, x, evidence.clips, first_importance)
    weights, share = None, 1.0
    if importance:
        weights, share = importance_weights(follower.policy, evidence.recent)
    second = second_term(
        problem,
        x,
        evidence.recent,
        follower,
        estimator,
        baseline,
        key,
        visits=evidence.visits,
        importance=weights,
    )
    return loss, first, second, share


def drawn_by(policy: Policy, clips: LabelledClips) -> LabelledClips:
    """The clips as if `policy` had drawn them: with its log-probabilities."""
    return replace(clips, log_prob=_log_probs(policy, clips))


def log_ratios(policy: Policy, clips: LabelledClips) -> Float[Array, "B I H"]:
    """log π(a_h|s_h) − log of the policy that took a_h, at every step of every clip."""
    assert clips.log_prob is not None, "Needs.log_prob"
    return _log_probs(policy, clips) - clips.log_prob


def _log_probs(policy: Policy, clips: LabelledClips) -> Float[Array, "B I H"]:
    assert clips.log_prob is not None, "Needs.log_prob"
    horizon = clips.log_prob.shape[2]
    return over_tuples(
        jax.vmap(jax.vmap(policy.log_prob)), clips.observations[:, :, :horizon], clips.actions[:, :, :horizon]
    )


def importance_weights(
    policy: Policy, clips: LabelledClips, largest: float = 10.0
) -> tuple[Float[Array, " B"], Float[Array, ""]]:
    """Weights that make stale clips stand for clips of `policy`, and how many count.

        W_b = Π_i Π_h π(a_h|s_h) / π_then(a_h|s_h), divided by its mean over the batch, cut at `largest`

    Self-normalised: consistent, with a bias of order 1/B, and the cut adds one.

    Returns:
        The weights, and (Σ W)²/(B Σ W²): the share of the batch that is left, 1/B to 1.
    """
    logs = jnp.sum(log_ratios(policy, clips), axis=(1, 2))
    weights = jax.lax.stop_gradient(jax.nn.softmax(logs) * clips.count)
    weights = jnp.minimum(weights, largest)
    share = jnp.sum(weights) ** 2 / (clips.count * jnp.maximum(jnp.sum(weights**2), 1e-30))
    return weights, share


def horizon_of(problem: AnyProblem) -> int:
    """H of the problem's clips."""
    assert isinstance(problem.upper_loss, ClipLoss)
    return problem.upper_loss.horizon


def _compared(problem: AnyProblem, clips: LabelledClips) -> tuple[Any, Any]:
    horizon = horizon_of(problem)
    return clips.observations[:, :, :horizon], clips.actions[:, :, :horizon]
