"""How much an answer is expected to move the hyper-gradient: why to ask about a pair of clips."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..._core import InputError
from ...preferences.models import Judgement
from ...problem import AnyProblem
from ._credits import credited_rewards, fit_credits
from .data import Follower, LabelledClips
from .estimator import Estimator
from .leader import check_mixture
from .one_step import OneStep
from .suffix import Suffix
from .terms import horizon_of

_Transform = Callable[[Callable[[PyTree], Array]], Callable[[PyTree], PyTree]]


def expected_influence(
    problem: AnyProblem,
    x: PyTree,
    clips: LabelledClips,
    follower: Follower,
    estimator: Estimator | None,
    baseline: Float[Array, ""] | float | None,
    key: PRNGKeyArray,
    *,
    weight: float = 1.0,
    bound: float | None = None,
    together: int = 16,
) -> Float[Array, " B"]:
    """Σ_y P(y) ‖g_y‖ of each pair: how long the hyper-gradient is that its answer is expected to add.

        g_y = ∇l_y + s_y,      s_y = (1/τ) ((l_y − b) N + F),      P(1) = σ(l_0 − l_1),  y in {0, 1}

    l_y is the loss under label y, and s_y the pair's share of the second term by the run's `estimator`:

        N = Σ_i Σ_h (∇r(s_h, a_h) − E_{a'~π} ∇r(s_h, a'))       one-step and suffix
        F = Σ_i Σ_h c_h Σ_{k>h} γ^{k−h} ∇r(s_k, a_k)            suffix; c_h fitted on the other candidates

    c_h is what `Suffix` would fit if every candidate had its expected loss. The plain rewards behind a clip
    in place of ∇Q − ∇V, with nothing for ∇V, would be noise that outgrows the rest. Other estimators need
    more than a candidate has: with them, and without a second term, g_y = ∇l_y. For the Bradley–Terry loss
    P(1) = σ(D), with D the mean over members where x is an ensemble.

    g_y is linear in at most four gradients: as many backward passes a pair, for both labels together.

    Source: expected gradient length, Settles, Craven and Ray, NeurIPS 2007; of a bilevel gradient here.

    Args:
        problem: gives l and r_x; its upper loss takes labels.
        x: the leader's, now.
        clips: the candidates, with the steps behind them that `estimator` needs. Labels are not read; what
            else a `Judgement` says is.
        follower: its policy and temperature now.
        estimator: of the run; None: there is no second term.
        baseline: b, such as the mean loss of the last session; None: the mean of the candidates' expected
            losses.
        key: for the policy's fresh actions.
        weight: s_y is multiplied with it, as in `mixed`.
        bound: c, as in `mixed`: before, all s_y are scaled down together until their root mean square over
            candidates is at most c times that of ∇l_y. None: they are not.
        together: pairs whose gradients are held at a time.

    Raises:
        InputError: `together` below 1, or a weight or bound that `mixed` would refuse.
    """
    if together < 1:
        raise InputError(f"together is {together}; give at least 1")
    check_mixture(weight, bound)
    side = _Side(problem, follower, estimator, horizon_of(problem))
    moving, still = eqx.partition(x, eqx.is_inexact_array)
    judgement = clips.label if isinstance(clips.label, Judgement) else None
    clips = replace(clips, label=judgement, log_prob=None, branches=None, importance=None)
    losses = jax.lax.map(
        lambda clip: side.losses(eqx.combine(moving, still), clip), clips, batch_size=together
    )
    chances = jax.nn.softmax(-losses, axis=1)
    expected = jnp.sum(chances * losses, axis=1)
    centre = jnp.mean(expected) if baseline is None else baseline
    credit_key, key = jax.random.split(key)
    credits = side.credits(clips, expected - centre, credit_key)

    def products(
        inputs: tuple[LabelledClips, Array, Array | None, PRNGKeyArray],
    ) -> tuple[Float[Array, "2"], Float[Array, "2"], Float[Array, "2"]]:
        """‖∇l_y‖², ⟨∇l_y, s_y⟩ and ‖s_y‖² of one pair, for both labels."""
        clip, loss, credit, key = inputs

        def gradient(transform: _Transform, part: Callable[[PyTree], Array]) -> PyTree:
            return transform(lambda moving: part(eqx.combine(moving, still)))(moving)

        first = gradient(jax.jacrev, lambda x: side.losses(x, clip))
        second = jax.tree.map(jnp.zeros_like, first)
        if isinstance(estimator, OneStep | Suffix):
            now = gradient(jax.grad, lambda x: side.now(x, clip, key))
            second = jax.tree.map(lambda leaf: jnp.tensordot(loss - centre, leaf, axes=0), now)
        if credit is not None:
            later = gradient(jax.grad, lambda x: side.later(x, clip, credit))
            second = jax.tree.map(jnp.add, second, later)
        second = jax.tree.map(lambda leaf: leaf / follower.temperature, second)
        inner = jax.vmap(lambda a, b: jnp.asarray(optax.tree.vdot(a, b)))
        return inner(first, first), inner(first, second), inner(second, second)

    keys = jax.random.split(key, clips.count)
    inputs = (clips, losses, credits, keys)
    return _expected_length(jax.lax.map(products, inputs, batch_size=together), chances, weight, bound)


class _Side(NamedTuple):
    """The scalars whose gradients in x make up g_y, each of one tuple of clips."""

    problem: AnyProblem
    follower: Follower
    estimator: Estimator | None
    horizon: int

    def losses(self, x: PyTree, clip: LabelledClips) -> Float[Array, "2"]:
        """l_0 and l_1."""
        compared = clip.observations[:, : self.horizon], clip.actions[:, : self.horizon]

        def loss(label: Float[Array, ""]) -> Float[Array, ""]:
            told = replace(clip.label, label=label) if isinstance(clip.label, Judgement) else label
            return self.problem.clip_loss(x, *compared, told)

        return jax.vmap(loss)(jnp.array([0.0, 1.0]))

    def now(self, x: PyTree, clip: LabelledClips, key: PRNGKeyArray) -> Float[Array, ""]:
        """Its gradient is N."""
        assert isinstance(self.estimator, OneStep | Suffix)
        ones = jnp.ones((1, clip.valid.shape[0], self.horizon))
        estimator = OneStep(self.estimator.num_actions)
        reward_at, discount = partial(self.problem.reward_at, x), self.problem.world.discount
        return estimator.surrogate(reward_at, _alone(clip), ones, None, self.follower.policy, discount, key)

    def later(self, x: PyTree, clip: LabelledClips, credit: Float[Array, "I H"]) -> Float[Array, ""]:
        """Its gradient is F."""
        reward_at, discount = partial(self.problem.reward_at, x), self.problem.world.discount
        return credited_rewards(reward_at, _alone(clip), credit[None], discount, now=False)

    def credits(
        self, clips: LabelledClips, weights: Float[Array, " B"], key: PRNGKeyArray
    ) -> Float[Array, "B I H"] | None:
        """c_h of every tuple; None where the estimator has none."""
        estimator = self.estimator
        if not isinstance(estimator, Suffix):
            return None
        at_steps = jnp.broadcast_to(weights[:, None, None], (*clips.valid.shape[:2], self.horizon))
        return fit_credits(
            estimator.features,
            clips,
            at_steps,
            self.follower.policy,
            key,
            num_actions=estimator.num_actions,
            ridge=estimator.ridge,
            shared=estimator.shared,
        )


def _alone(clip: LabelledClips) -> LabelledClips:
    """One tuple as a batch of one."""
    return LabelledClips(clip.observations[None], clip.actions[None], clip.valid[None], None)


def _expected_length(
    products: tuple[Float[Array, "B 2"], Float[Array, "B 2"], Float[Array, "B 2"]],
    chances: Float[Array, "B 2"],
    weight: float,
    bound: float | None,
) -> Float[Array, " B"]:
    first, inner, second = products
    scale = jnp.asarray(weight, first.dtype)
    if bound is not None:
        means = [jnp.mean(jnp.sum(chances * squares, axis=1)) for squares in (first, second)]
        scale = scale * jnp.minimum(1.0, bound * jnp.sqrt(means[0] / jnp.maximum(means[1], 1e-30)))
    # Rounding may leave the square of a vector that nearly vanishes below 0.
    squares = jnp.maximum(first + 2.0 * scale * inner + scale**2 * second, 0.0)
    return jnp.sum(chances * jnp.sqrt(squares), axis=1)
