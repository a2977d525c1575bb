"""The follower's value as a function of its policy, for methods that vary x and the policy apart."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from .._core import InputError
from ..mdp import MDP, KullbackLeibler, Regulariser, Shannon, solve_policy
from ..mdp.regularisers import Temperature
from .lower_level import require_table

# exp of it is 0 in any dtype, and unlike −∞ it may be multiplied by 0.
_FORBIDDEN = -1e9


def require_softmax(problem: Any) -> None:
    """Raise InputError unless the follower lives on a table and answers with a softmax of Q/τ."""
    require_table(problem)
    if not isinstance(problem.regulariser, Shannon | KullbackLeibler):
        raise InputError(
            f"this method needs a softmax policy, not {type(problem.regulariser).__name__}; use Shannon() or "
            "KullbackLeibler(...), or another method, such as AMD or ImplicitGradient"
        )


def everywhere(number: Array, holds: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Whether all entries of a setting pass, as far as can be told: one that is traced does."""
    return isinstance(number, Tracer) or bool(np.all(holds(np.asarray(number))))


def check_exploration(exploration: Array) -> None:
    """Raise InputError unless it is a weight."""
    if not everywhere(exploration, lambda weight: (weight >= 0) & (weight <= 1)):
        raise InputError(f"exploration is {exploration}; give a weight between 0 and 1, such as 0.1")


def log_policy(
    regulariser: Regulariser, q_values: Float[Array, "S A"], temperature: Temperature
) -> Float[Array, "S A"]:
    """log π of the softmax answer to Q, finite everywhere: the logits that the methods carry."""
    if not isinstance(regulariser, KullbackLeibler):
        pivot = jnp.max(q_values, axis=1, keepdims=True)
        return jax.nn.log_softmax((q_values - pivot) / temperature, axis=1)
    allowed = regulariser.reference > 0
    pivot = jnp.max(jnp.where(allowed, q_values, -jnp.inf), axis=1, keepdims=True)
    weight = jnp.log(jnp.where(allowed, regulariser.reference, 1.0))
    logits = jnp.where(allowed, (q_values - pivot) / temperature + weight, _FORBIDDEN)
    return jax.nn.log_softmax(logits, axis=1)


def explored_start(world: MDP, exploration: Float[Array, ""]) -> Float[Array, " S"]:
    """(1 − ε) ρ + ε/S. The optimal policy is the same from any start, but only where it visits does
    ρ·V^π tell one policy from another."""
    mixed = (1 - exploration) * world.initial + exploration / world.num_states
    return mixed.astype(world.initial.dtype)


def regularised_values(
    world: MDP,
    reward: Float[Array, "S A"],
    policy: Float[Array, "S A"],
    temperature: Temperature,
    regulariser: Regulariser,
    tolerance: float = 0.0,
) -> tuple[Float[Array, " S"], Int[Array, ""]]:
    """V^π = (I − γP^π)⁻¹ (Σ_a π r − τ Ω(π)), differentiable in all arrays; and the products it took."""
    income = jnp.sum(policy * reward, axis=1) - temperature * regulariser.penalty(policy)
    return solve_policy(world, policy, income, tolerance=tolerance)
