"""The hyper-gradient as τ → 0, where it has a limit."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..follower import solve_follower
from ..mdp import MDP, KullbackLeibler, q_values, solve_policy
from ..problem import BilevelProblem
from .enumeration import exact_upper_loss
from .lower_level import require_table

# Far below any gap that double precision can tell, and policy iteration does not mind.
_COLD = 1e-9


class Limit(NamedTuple):
    """φ and ∇φ of the follower that has no regulariser.

    Attributes:
        value: φ.
        gradient: ∇φ, a pytree like x.
        gap: the smallest difference, over states that do not end, between the values of the best and of the
            second-best action, in units of reward. It tells whether the limit exists: 0, up to rounding, and
            it does not.
    """

    value: Float[Array, ""]
    gradient: PyTree
    gap: Float[Array, ""]


def limit_hypergradient(problem: BilevelProblem[MDP], x: PyTree) -> Limit:
    """lim φ(x) and lim ∇φ(x) as τ → 0.

    Where every state has one best action, that is still so for x nearby: the greedy policy π₀ does not move,
    and ∇φ → ∂f/∂x (x, π₀), the rest vanishing like exp(−gap/τ)/τ. Where two actions tie, φ jumps or has a
    kink, and there is no limit; a descent has to come there with τ > 0, annealed (`solve`'s `temperature`).

    Args:
        problem: on an `MDP`; its own temperature is not used.
        x: any pytree.

    Raises:
        InputError: no tabular world.
    """
    require_table(problem)
    return _limit(problem, x)


@eqx.filter_jit
def _limit(problem: BilevelProblem[MDP], x: PyTree) -> Limit:
    world, reward = problem.world_at(x), problem.reward(x)
    cold = _COLD * jnp.maximum(1.0, jnp.max(jnp.abs(reward)))
    answer = solve_follower(world, reward, cold, regulariser=problem.regulariser)
    # The regularised values are off by O(τ); the greedy policy's own are not.
    policy = jax.nn.one_hot(jnp.argmax(answer.q_values, axis=1), world.num_actions, dtype=reward.dtype)
    if isinstance(problem.regulariser, KullbackLeibler):
        allowed = problem.regulariser.reference > 0
        best = jnp.argmax(jnp.where(allowed, answer.q_values, -jnp.inf), axis=1)
        policy = jax.nn.one_hot(best, world.num_actions, dtype=reward.dtype)
    else:
        allowed = jnp.ones_like(policy, bool)
    values, _ = solve_policy(world, policy, jnp.sum(policy * reward, axis=1))
    q = q_values(world, reward, values)
    others = jnp.max(jnp.where(allowed & (policy == 0), q, -jnp.inf), axis=1)
    gaps = jnp.where(world.terminal, jnp.inf, jnp.sum(policy * q, axis=1) - others)

    @eqx.filter_value_and_grad
    def direct(x: PyTree) -> Array:
        return exact_upper_loss(problem, x, policy)

    return Limit(*direct(x), jnp.min(gaps))
