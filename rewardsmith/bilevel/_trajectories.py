"""What the methods of this room that draw trajectories share; AMD, which draws none, shares the exact parts.

All that they estimate is linear in ∇r. So no gradient of a reward is ever stored: each estimate is a table
C(s,a), pulled back through x -> r_x once.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._core import InputError
from ..mdp import MDP, Trajectories, q_values, roll_out
from ..problem import BilevelProblem
from ..upper_losses import LeaderReturn
from ._policy_value import require_softmax
from .enumeration import exact_upper_loss


def check_sampled(problem: Any) -> None:
    """Raise InputError unless the policy is a softmax on a table and the leader counts the world it moves."""
    require_softmax(problem)
    check_leader(problem)


def check_leader(problem: BilevelProblem[MDP]) -> None:
    """Raise InputError where leader and follower do not live in the same world."""
    loss = problem.upper_loss
    if isinstance(loss, LeaderReturn) and (loss.transition is None) != (problem.transition is None):
        raise InputError(
            "transition is given to only one of BilevelProblem and LeaderReturn; give both the same"
        )


def check_sizes(**sizes: int) -> None:
    """Raise InputError unless each is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} is {size}; give at least 1")


def sample(
    problem: BilevelProblem[MDP],
    x: PyTree,
    policy: Float[Array, "S A"],
    key: PRNGKeyArray,
    count: int,
    horizon: int,
) -> Trajectories:
    """Trajectories of the follower in the world at x, from where the leader counts."""
    loss = problem.upper_loss
    start = loss.world.initial if isinstance(loss, LeaderReturn) else None
    return roll_out(problem.world_at(x), policy, key, count, horizon, initial=start)


def powers(discount: Float[Array, ""], drawn: Trajectories) -> Float[Array, "N T"]:
    """γ^t / N while the trajectory lives, 0 after: what a step at t weighs in an expected return."""
    count, horizon = drawn.alive.shape
    falling = jnp.cumprod(jnp.full(horizon, discount).at[0].set(1.0))
    return jnp.where(drawn.alive, falling / count, 0.0)


def first_half(drawn: Trajectories, dtype: Any) -> Float[Array, "N T"]:
    """1 at the visits of the first half, which T/2 steps or more follow, else 0."""
    horizon = drawn.alive.shape[1]
    return (drawn.alive & (2 * jnp.arange(horizon) < horizon)).astype(dtype)


def by_pair(
    drawn: Trajectories, terms: Float[Array, "N T"], like: Float[Array, "S A"]
) -> Float[Array, "S A"]:
    """Σ of terms over the visits of each state and action."""
    return jnp.zeros_like(like).at[drawn.states, drawn.actions].add(jnp.where(drawn.alive, terms, 0.0))


def suffix_sums(terms: Float[Array, "N T"], discount: Float[Array, ""]) -> Float[Array, "N T"]:
    """Σ_{m>=t} γ^(m−t) terms_m at each t."""
    return _discounted_sums(terms, discount, reverse=True)


def suffix_coefficients(
    drawn: Trajectories,
    coefficients: Float[Array, "N T"],
    discount: Float[Array, ""],
    like: Float[Array, "S A"],
) -> Float[Array, "S A"]:
    """C with Σ_i c_i Σ_{m>=i} γ^(m−i) h(s_m, a_m) = Σ_{s,a} C(s,a) h(s,a) for every table h.

    Step m of a trajectory receives Σ_{i<=m} c_i γ^(m−i).
    """
    received = _discounted_sums(jnp.where(drawn.alive, coefficients, 0.0), discount, reverse=False)
    return by_pair(drawn, received, like)


def _discounted_sums(
    terms: Float[Array, "N T"], discount: Float[Array, ""], *, reverse: bool
) -> Float[Array, "N T"]:
    def step(carried: Array, term: Array) -> tuple[Array, Array]:
        carried = term + discount * carried
        return carried, carried

    return jax.lax.scan(step, jnp.zeros_like(terms[:, 0]), terms.T, reverse=reverse)[1].T


def mean_by(
    sums: Float[Array, "*n"], counts: Float[Array, "*n"], default: Float[Array, ""] | float = 0.0
) -> Float[Array, "*n"]:
    """sums / counts, `default` where nothing was counted."""
    return jnp.where(counts > 0, sums / jnp.where(counts > 0, counts, 1.0), default)


def centred(table: Float[Array, "S A"], policy: Float[Array, "S A"]) -> Float[Array, "S A"]:
    """table(s,a) − Σ_a π(a|s) table(s,a)."""
    return table - jnp.sum(policy * table, axis=1, keepdims=True)


def pull_follower(
    problem: BilevelProblem[MDP], x: PyTree, values: Float[Array, " S"], coefficients: Float[Array, "S A"]
) -> PyTree:
    """Σ_{s,a} C (∇r + γ Σ_t ∇P V(t)), V held still: one vector–Jacobian product."""

    def q_of(moving: PyTree, rest: PyTree) -> Array:
        there = eqx.combine(moving, rest)
        return q_values(problem.world_at(there), problem.reward(there), values)

    return _pull(q_of, x, coefficients)


def pull_leader(
    loss: LeaderReturn, x: PyTree, values: Float[Array, " S"], weights: Float[Array, "S A"]
) -> PyTree:
    """Σ_{s,a} weights (∇r_L + γ_L Σ_t ∇P V_L(t)), V_L held still.

    With weights d_L π it is the derivative of the leader's return in x at a policy held still.
    """

    def q_of(moving: PyTree, rest: PyTree) -> Array:
        there = eqx.combine(moving, rest)
        return q_values(loss.leader_world(there), loss.reward(there), values)

    return _pull(q_of, x, weights)


def _pull(q_of: Any, x: PyTree, cotangent: Float[Array, "S A"]) -> PyTree:
    moving, rest = eqx.partition(x, eqx.is_inexact_array)
    q, pull = jax.vjp(lambda m: q_of(m, rest), moving)
    return pull(cotangent.astype(q.dtype))[0]


def partial_derivatives(
    problem: BilevelProblem[MDP], x: PyTree, policy: Float[Array, "S A"]
) -> tuple[Float[Array, ""], PyTree, Float[Array, "S A"]]:
    """f, ∂f/∂x and g = ∂f/∂π, exact."""
    moving, rest = eqx.partition(x, eqx.is_inexact_array)
    loss, (direct, g) = jax.value_and_grad(
        lambda m, p: exact_upper_loss(problem, eqx.combine(m, rest), p), argnums=(0, 1)
    )(moving, policy)
    return loss, direct, g


def at_steps(table: Float[Array, "S A"], drawn: Trajectories) -> Float[Array, "N T"]:
    """table(s_t, a_t), 0 after the end."""
    return jnp.where(drawn.alive, table[drawn.states, drawn.actions], 0.0)


def steps_drawn(drawn: Trajectories) -> Int[Array, ""]:
    """Environment steps: those before the ends."""
    return jnp.sum(drawn.alive, dtype=jnp.int32)
