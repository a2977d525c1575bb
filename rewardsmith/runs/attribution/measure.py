"""What each answer did to a run's reward: influence, and scores by which wrong labels show."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ..._core import MLP
from ...preferences.attribution import (
    ExactCurvature,
    KroneckerCurvature,
    ScoredNetwork,
    exact_curvature,
    influence,
    kronecker_curvature,
    leave_one_out_score,
    margin,
)
from .heads import Heads, score_all

Kind = Literal["exact", "ek-fac"]
# Numbers that the gradients of all examples may take: 512 MB of float32.
_ROWS = 2**27
# Examples whose decomposition takes seconds.
_EXAMPLES = 4000
# Comparisons whose scores stand for all that the reward says.
_WATCHED = 64


class Measured(eqx.Module):
    """Of n answers, the mean over members.

    Attributes:
        probability: of the answer "first", by the reward as it is.
        loss: nats.
        margin: (2y − 1) D; −|D| of a tie.
        self_influence: ∇lᵀ (G + λI)⁻¹ ∇l.
        leave_one_out_loss: nats, to one step of Newton's method.
        moved: by how much the scores of other comparisons would change without this answer, root mean square
            as a share of the scores' own.
        influence: on the mean held-out loss, nats per unit of weight; None: nothing is held out.
    """

    probability: np.ndarray
    loss: np.ndarray
    margin: np.ndarray
    self_influence: np.ndarray
    leave_one_out_loss: np.ndarray
    moved: np.ndarray
    influence: np.ndarray | None


class Circumstances(eqx.Module):
    """What the numbers stand on.

    Attributes:
        gradient_norm: ‖∇J‖ / root mean square of ‖∇l_i‖: 0 at a stationary point; 1/√n where the ∇l_i
            have nothing to do with one another.
        damping: λ, mean over members, in nats per squared unit of a parameter.
        mean_eigenvalue: of G, in the same unit.
        residual: of the worst linear system, relative.
    """

    gradient_norm: float
    damping: float
    mean_eigenvalue: float
    residual: float


def curvature_kind(heads: Heads) -> Kind:
    """The exact Gauss–Newton matrix where it fits into memory, else its Kronecker approximation."""
    rows = heads.inputs.shape[1]
    size = sum(leaf[0].size for leaf in jax.tree.leaves(heads.networks))
    return "exact" if rows <= _EXAMPLES and rows * size <= _ROWS else "ek-fac"


def measure(
    seen: ScoredNetwork,
    heads: Heads,
    held_out: Heads | None,
    kind: Kind,
    damping: float,
    seed: int,
    told: Callable[[], None] = lambda: None,
) -> tuple[Measured, Circumstances]:
    """All of it, one member after another.

    Args:
        seen: how the loss sees a head.
        heads: the members on the answers that they were trained on.
        held_out: the same members on others.
        kind: of the curvature.
        damping: λ as a share of the mean eigenvalue.
        seed: of the comparisons whose scores are watched.
        told: called when a member is done.
    """
    count = heads.inputs.shape[1]
    rng = np.random.default_rng(seed)
    watched = jnp.asarray(np.sort(rng.choice(count, min(_WATCHED, count), replace=False)))
    parts = []
    for member in range(heads.count):
        apart = None if held_out is None else held_out.of(member)[1]
        parts.append(jax.device_get(_of_member(seen, kind, *heads.of(member), apart, watched, damping)))
        told()
    found: dict[str, Any] = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    changes, scores = found.pop("changes").mean(axis=0), np.asarray(score_all(seen, heads)).mean(axis=0)
    size = max(float(np.sqrt(np.mean(scores**2))), 1e-12)
    circumstances = Circumstances(
        float(found.pop("gradient_norm").mean()),
        float(found.pop("damping").mean()),
        float(found.pop("mean_eigenvalue").mean()),
        float(found.pop("residual").max()),
    )
    means = {name: values.mean(axis=0) for name, values in found.items()}
    moved = np.sqrt(np.mean(changes**2, axis=0)) / size
    return Measured(moved=moved, influence=means.pop("influence", None), **means), circumstances


@partial(jax.jit, static_argnums=(0, 1))
def _of_member(
    seen: ScoredNetwork,
    kind: Kind,
    network: MLP,
    examples: dict[str, Array],
    held_out: dict[str, Array] | None,
    watched: Array,
    damping: Float[Array, ""] | float,
) -> dict[str, Array]:
    count = examples["label"].shape[0]
    curvature = _curvature(seen, kind, network, examples, damping)
    scores = jax.lax.map(partial(seen.scores_of, network), examples, batch_size=64)
    losses = jax.vmap(seen.loss)(scores, examples)
    slopes = jax.vmap(jax.grad(seen.loss))(scores, examples)
    weights = jax.vmap(seen.weights)(scores, examples)
    inner, squares, residual = _products(seen, network, examples, curvature)
    own = jnp.einsum("nk,nkl,nl->n", slopes, inner, slopes)
    apart = leave_one_out_score(scores, slopes, weights, jnp.einsum("nkk->nk", inner) / count)
    some = {name: array[watched] for name, array in examples.items()}

    def watched_scores(at: MLP) -> Array:
        return jax.vmap(lambda example: jnp.mean(seen.scores_of(at, example)))(some)

    changes = influence(seen.loss_of, network, examples, watched_scores, curvature)
    mean_slope = jax.grad(lambda at: _mean_loss(seen, at, examples))(network)
    mean_square = jnp.mean(jnp.einsum("nk,nkl,nl->n", slopes, squares, slopes))
    found = {
        "probability": jnp.exp(-jax.vmap(seen.loss)(scores, examples | _first(examples))),
        "loss": losses,
        "margin": margin(jnp.mean(scores, axis=1), examples["label"]),
        "self_influence": own,
        "leave_one_out_loss": jax.vmap(seen.loss)(apart, examples),
        "changes": changes.values / count,
        "gradient_norm": optax.tree.norm(mean_slope) / jnp.sqrt(jnp.maximum(mean_square, 1e-30)),
        "damping": curvature.damping,
        "mean_eigenvalue": curvature.mean_eigenvalue,
        "residual": jnp.maximum(residual, changes.residual),
    }
    if held_out is not None:
        found["influence"] = _on_held_out(seen, network, examples, held_out, curvature)
    return found


def held_out_influence(
    seen: ScoredNetwork, heads: Heads, held_out: Heads, kind: Kind, damping: float
) -> np.ndarray:
    """(n,) `Measured.influence` alone."""

    parts = [
        _onto(seen, kind, *heads.of(member), held_out.of(member)[1], damping) for member in range(heads.count)
    ]
    return np.mean([np.asarray(part) for part in parts], axis=0)


@partial(jax.jit, static_argnums=(0, 1))
def _onto(
    seen: ScoredNetwork,
    kind: Kind,
    network: MLP,
    examples: dict[str, Array],
    held_out: dict[str, Array],
    damping: Float[Array, ""] | float,
) -> Float[Array, " n"]:
    curvature = _curvature(seen, kind, network, examples, damping)
    return _on_held_out(seen, network, examples, held_out, curvature)


def _curvature(
    seen: ScoredNetwork,
    kind: Kind,
    network: MLP,
    examples: dict[str, Array],
    damping: Float[Array, ""] | float,
) -> ExactCurvature | KroneckerCurvature:
    if kind == "exact":
        curvature = exact_curvature(seen.scores_of, seen.weights, network, examples)
    else:
        curvature = kronecker_curvature(network, examples, seen)
    # Above 0 where every answer is foreseen with certainty, so that nothing is curved.
    return curvature.damped(jnp.maximum(damping * curvature.mean_eigenvalue, 1e-12))


def _on_held_out(
    seen: ScoredNetwork,
    network: MLP,
    examples: dict[str, Array],
    held_out: dict[str, Array],
    curvature: ExactCurvature | KroneckerCurvature,
) -> Float[Array, " n"]:
    return influence(
        seen.loss_of, network, examples, lambda at: _mean_loss(seen, at, held_out), curvature
    ).values


def _first(examples: dict[str, Array]) -> dict[str, Array]:
    return {"label": jnp.ones_like(examples["label"])}


def _mean_loss(seen: ScoredNetwork, network: MLP, examples: dict[str, Array]) -> Float[Array, ""]:
    return jnp.mean(jax.vmap(partial(seen.loss_of, network))(examples))


def _products(
    seen: ScoredNetwork,
    network: MLP,
    examples: dict[str, Array],
    curvature: ExactCurvature | KroneckerCurvature,
) -> tuple[Float[Array, "n k k"], Float[Array, "n k k"], Float[Array, ""]]:
    """∇D_ik · (G + λI)⁻¹ ∇D_il, ∇D_ik · ∇D_il, and the worst residual.

    All that is asked of single answers, for ∇l = Σ_k ∂l/∂D_k ∇D_k: `self_influence` in one go.
    """

    def one(example: dict[str, Array]) -> tuple[Array, Array, Array]:
        slopes = jax.jacrev(lambda at: seen.scores_of(at, example))(network)
        solved = jax.vmap(curvature)(slopes)
        rows, turned = (jax.vmap(lambda tree: ravel_pytree(tree)[0])(of) for of in (slopes, solved.value))
        return rows @ turned.T, rows @ rows.T, jnp.max(solved.residual)

    inner, squares, residuals = jax.lax.map(one, examples, batch_size=16)
    return inner, squares, jnp.max(residuals)
