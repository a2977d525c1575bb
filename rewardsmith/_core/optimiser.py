"""Adam with its learning rate in its state, so that runs side by side in one program can differ in it."""

from typing import Any

import jax
import numpy as np
import optax

SKIPPED_IN_A_ROW = 10
_FIXED = ("b1", "b2", "eps", "eps_root", "mu_dtype", "nesterov", "weight_decay", "mask")


def adam(
    learning_rate: Any, eps: float = 1e-8, weight_decay: float = 0.0, *, skip_not_finite: bool = False
) -> optax.GradientTransformation:
    """Adam, or AdamW where weights decay.

    Args:
        learning_rate: a number, which `init` puts into the state and `update` reads from there; or a
            schedule, which stays in the program.
        eps: ε.
        weight_decay: of AdamW.
        skip_not_finite: whether a gradient that is not finite moves nothing, up to `SKIPPED_IN_A_ROW` times.
    """
    if weight_decay:
        kind, settings = optax.adamw, {"weight_decay": weight_decay}
    else:
        kind, settings = optax.adam, {}
    fixed = [name for name in _FIXED if kind is optax.adamw or name not in ("weight_decay", "mask")]
    optimiser = optax.inject_hyperparams(kind, static_args=fixed)(learning_rate, eps=eps, **settings)
    return optax.apply_if_finite(optimiser, SKIPPED_IN_A_ROW) if skip_not_finite else optimiser


def skipped(state: Any) -> int:
    """Updates that the optimisers anywhere in a state have left out."""
    of_kind = jax.tree.leaves(state, is_leaf=_counts)
    return sum(int(np.max(part.total_notfinite)) for part in of_kind if _counts(part))


def _counts(part: Any) -> bool:
    return isinstance(part, optax.ApplyIfFiniteState)
