"""How often a policy visits states and state-action pairs, discounted."""

from jaxtyping import Array, Float

from .model import MDP
from .policy_system import solve_policy


def state_occupancy(
    world: MDP, policy: Float[Array, "S A"], *, tolerance: float = 1e-10
) -> Float[Array, " S"]:
    """d(s) = Σ_h γ^h Pr(s_h = s) from ρ, i.e. the solution of (I − γP^π)ᵀ d = ρ.

    Sums to 1/(1−γ) where no state is terminal, to less otherwise. Differentiable in all it is given.

    Args:
        world: gives P, γ and ρ.
        policy: π, (S, A), rows sum to 1.
        tolerance: that of `solve_policy`, for large worlds.
    """
    return solve_policy(world, policy, world.initial, transposed=True, tolerance=tolerance)[0]


def state_action_occupancy(
    world: MDP, policy: Float[Array, "S A"], *, tolerance: float = 1e-10
) -> Float[Array, "S A"]:
    """d(s) π(a|s). Its inner product with a reward table is the discounted return of π.

    Args:
        world: gives P, γ and ρ.
        policy: π, (S, A), rows sum to 1.
        tolerance: that of `solve_policy`, for large worlds.
    """
    return state_occupancy(world, policy, tolerance=tolerance)[:, None] * policy
