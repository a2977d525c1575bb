"""How often a policy visits states and state-action pairs, discounted."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .bellman import policy_transition
from .model import MDP


def state_occupancy(world: MDP, policy: Float[Array, "S A"]) -> Float[Array, " S"]:
    """d(s) = Σ_h γ^h Pr(s_h = s) from ρ, i.e. the solution of (I − γP^π)ᵀ d = ρ.

    Sums to 1/(1−γ) where no state is terminal, to less otherwise. Differentiable in all it is given.
    """
    steps_on = world.discount * policy_transition(world, policy)
    return jnp.linalg.solve((jnp.eye(world.num_states, dtype=steps_on.dtype) - steps_on).T, world.initial)


def state_action_occupancy(world: MDP, policy: Float[Array, "S A"]) -> Float[Array, "S A"]:
    """d(s) π(a|s). Its inner product with a reward table is the discounted return of π."""
    return state_occupancy(world, policy)[:, None] * policy
