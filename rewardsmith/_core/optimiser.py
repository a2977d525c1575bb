"""Adam with its learning rate in its state, so that runs side by side in one program can differ in it."""

from typing import Any

import optax

_FIXED = ("b1", "b2", "eps", "eps_root", "mu_dtype", "nesterov", "weight_decay", "mask")


def adam(learning_rate: Any, eps: float = 1e-8, weight_decay: float = 0.0) -> optax.GradientTransformation:
    """Adam, or AdamW where weights decay.

    Args:
        learning_rate: a number, which `init` puts into the state and `update` reads from there; or a
            schedule, which stays in the program.
        eps: ε.
        weight_decay: of AdamW.
    """
    if weight_decay:
        kind, settings = optax.adamw, {"weight_decay": weight_decay}
    else:
        kind, settings = optax.adam, {}
    fixed = [name for name in _FIXED if kind is optax.adamw or name not in ("weight_decay", "mask")]
    return optax.inject_hyperparams(kind, static_args=fixed)(learning_rate, eps=eps, **settings)
