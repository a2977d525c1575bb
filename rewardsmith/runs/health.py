"""What is not finite ends a run before it reaches a checkpoint, and is named."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._core import InputError, TrueReward

SKIPPED = "updates whose gradients were not finite were left out: lower --learning-rate"
_MEND = "mend the environment, then go on with --resume"
_LOWER = "start anew with a lower --learning-rate or --reward-learning-rate, or go on with --resume"


def check_seen(env_id: str, step: int, observation: np.ndarray, reward: TrueReward) -> None:
    """`InputError` where an environment gave an observation or a true reward that is NaN or infinite.

    Args:
        env_id: of the environment, for the message.
        step: of the run, likewise.
        observation: (N, *o); pictures are finite by their type.
        reward: (N,).
    """
    if observation.dtype.kind == "f" and not np.isfinite(observation).all():
        what = "an observation"
    elif not reward.is_finite():
        what = "a true reward"
    else:
        return
    raise InputError(
        f"{what} of {env_id} is not finite at step {step:,}: the last checkpoint is kept; {_MEND}"
    )


def check_learned(step: int, followers: Sequence[Any], leader: Any, replay: Any = None) -> None:
    """`InputError` where a number of what was learned, or learned from, is not finite; names it.

    Args:
        step: of the run, for the message.
        followers: the one that is evaluated, and its companions.
        leader: None where there is none.
        replay: what a run holds of its environment, if nobody has looked at it yet.
    """
    parts = {"replay": replay, "follower": followers[0], "companions": followers[1:], "leader": leader}
    if bool(_all_finite(parts)):
        return
    for name, part in parts.items():
        cure = _MEND if name == "replay" else _LOWER
        for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(part, eqx.is_inexact_array)):
            if not np.isfinite(np.asarray(leaf)).all():
                raise InputError(
                    f"{name}{jax.tree_util.keystr(path)} is not finite at step {step:,}: the last checkpoint "
                    f"is kept; {cure}"
                )


@eqx.filter_jit
def _all_finite(parts: Any) -> jax.Array:
    leaves = jax.tree.leaves(eqx.filter(parts, eqx.is_inexact_array))
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))
