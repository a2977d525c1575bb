"""Rewards fitted anew without a part of the answers, to judge that part, and what the rest did to it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...preferences.attribution import ScoredNetwork
from ..experiment import Experiment
from .heads import Fit, Heads, fitter, fresh, score_all, with_margin
from .measure import curvature_kind, held_out_influence

# How often a fit is looked at.
_LOOKS = 20


def cross_fit(
    experiment: Experiment,
    seen: ScoredNetwork,
    heads: Heads,
    folds: int,
    steps: int,
    damping: float,
    seed: int,
    told: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Of every answer the loss by a reward that did not see it, and its influence on answers left out.

    Each fold's reward starts from nothing, by the run's optimiser, and is kept as it was when the fold's own
    mean loss was lowest: one number chosen by all of a fold's answers together.

    Args:
        experiment: of the run.
        seen: how the loss sees a head.
        heads: the shapes of the reward, and all answers.
        folds: at least 2.
        steps: of the optimiser, at most.
        damping: λ as a share of the mean eigenvalue.
        seed: of folds, starts and minibatches.
        told: called after each fold.

    Returns:
        (n,) nats; (n,) nats per unit of weight, the mean over the folds that an answer was trained for.
    """
    count = heads.inputs.shape[1]
    fold = np.random.default_rng(seed).permutation(np.arange(count) % folds)
    losses, influences = np.zeros(count), np.zeros(count)
    stretch = max(1, steps // _LOOKS)
    run = fitter(experiment, seen, stretch)
    for which in range(folds):
        inside, outside = np.flatnonzero(fold != which), np.flatnonzero(fold == which)
        key = jax.random.fold_in(jax.random.key(seed), which)
        begun = fresh(experiment, heads.networks, jax.random.fold_in(key, 2**31))
        fit = _best(run, begun, seen, heads.rows(inside), heads.rows(outside), -(-steps // stretch), key)
        apart, rest = (
            with_margin(experiment, seen, Heads(fit.networks, own.inputs, own.others))
            for own in (heads.rows(outside), heads.rows(inside))
        )
        losses[outside] = _losses(seen, apart)
        kind = curvature_kind(rest)
        influences[inside] += held_out_influence(seen, rest, apart, kind, damping) / (folds - 1)
        told()
    return losses, influences


def _best(
    run: Any, fit: Fit, seen: ScoredNetwork, inside: Heads, outside: Heads, looks: int, key: jax.Array
) -> Fit:
    best, lowest = fit, np.inf
    for look in range(looks):
        fit = run(fit, inside, jax.random.fold_in(key, look))
        now = float(_losses(seen, Heads(fit.networks, outside.inputs, outside.others).bare()).mean())
        if now < lowest:
            lowest, best = now, fit
    return best


def _losses(seen: ScoredNetwork, heads: Heads) -> np.ndarray:
    """(n,) the mean over members."""
    return np.asarray(_mean_losses(seen, score_all(seen, heads), heads.others))


@partial(jax.jit, static_argnums=0)
def _mean_losses(
    seen: ScoredNetwork, scores: Float[Array, "M n k"], others: dict[str, Array]
) -> Float[Array, " n"]:
    return jnp.mean(jax.vmap(lambda own: jax.vmap(seen.loss)(own, others))(scores), axis=0)
