"""Ridge regression of a tuple's loss on features of its clips, each prediction made without that tuple."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def left_out_predictions(
    features: Float[Array, "B I f"],
    targets: Float[Array, "B I"],
    ridge: float,
    *,
    intercept: bool,
    noise_share: float = 0.0,
    importance: Float[Array, " B"] | None = None,
) -> Float[Array, "B I"]:
    """zᵀu for every clip's features z, where u is fitted to the clips of all *other* tuples.

    A prediction that had seen its own target would follow it, by f/(B·I) of the way, and so take as much
    from what is left of the target. All B fits cost one: with M = κZᵀZ + penalty, a tuple's own rows Z_T,
    fit ŷ_T and block K = Z_T M⁻¹ Z_Tᵀ, Woodbury's identity gives (1 − κK)⁻¹ (ŷ_T − K y_T).

    Args:
        features: of B tuples of I clips; scaled here to unit deviation.
        targets: what to predict.
        ridge: penalty on the scaled features, relative to the number of clips.
        intercept: centre the features and add a constant, not penalised.
        noise_share: 1 − κ, the share of ZᵀZ that is noise of the features themselves and of no use.
        importance: a weight W for each tuple's squared errors, with which its `targets` are multiplied
            already; None: 1. Not with an intercept. Then M = κZᵀWZ + penalty, and W K stands for K at its
            first place above.
    """
    batch, clips, _ = features.shape
    count = batch * clips
    deviation = jnp.std(features, axis=(0, 1))
    scaled = features / jnp.where(deviation > 1e-6, deviation, 1.0)
    penalty = jnp.full(features.shape[2], ridge * count, features.dtype)
    if intercept:
        scaled = scaled - jnp.mean(scaled, axis=(0, 1))
        scaled = jnp.concatenate([scaled, jnp.ones((batch, clips, 1), features.dtype)], axis=2)
        penalty = jnp.concatenate([penalty, jnp.zeros(1, features.dtype)])
    kept = 1.0 - noise_share
    rows = scaled.reshape(count, -1)
    weighted, share = rows, jnp.full(batch, kept, features.dtype)
    if importance is not None:
        weighted = (importance[:, None, None] * scaled).reshape(count, -1)
        share = kept * importance
    gram = kept * weighted.T @ rows + jnp.diag(penalty)
    # (f, B·I): M⁻¹Zᵀ.
    solved = jax.scipy.linalg.solve(gram, rows.T, assume_a="pos")
    fitted = (rows @ (solved @ targets.reshape(count))).reshape(batch, clips)
    own = jnp.einsum("bif,fbj->bij", scaled, solved.reshape(-1, batch, clips))
    seen = jnp.einsum("bij,bj->bi", own, targets)
    left = jnp.eye(clips, dtype=own.dtype) - share[:, None, None] * own
    return jnp.linalg.solve(left, (fitted - seen)[..., None])[..., 0]


def predictions_at_steps(
    features: Float[Array, "B I H f"],
    targets: Float[Array, "B I H"],
    ridge: float,
    *,
    shared: bool,
    intercept: bool,
    noise_share: float = 0.0,
    importance: Float[Array, " B"] | None = None,
) -> Float[Array, "B I H"]:
    """`left_out_predictions` for every step h of a clip: by one regression a step, or one `shared` by all."""
    fit = partial(
        left_out_predictions,
        ridge=ridge,
        intercept=intercept,
        noise_share=noise_share,
        importance=importance,
    )
    if not shared:
        return jax.vmap(fit, 2, 2)(features, targets)
    batch, clips, horizon, size = features.shape
    rows = clips * horizon
    fitted = fit(features.reshape(batch, rows, size), targets.reshape(batch, rows))
    return fitted.reshape(batch, clips, horizon)
