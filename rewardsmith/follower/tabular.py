"""The soft-optimal policy of a tabular world, differentiable."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from .._core import InputError
from ..mdp import MDP, policy_transition, q_values, soft_bellman, soft_policy

# Rounding leaves max|TV − V| at a few units in the last place of V, however many steps are taken.
_FLOOR = 32


class FollowerSolution(eqx.Module):
    """The follower's answer to one reward table.

    `residual` is max|TV − V| at `values`, in units of reward; NaN or large means not solved: the reward
    holds NaN, or `steps` reached `max_steps`.
    """

    values: Float[Array, " S"]
    q_values: Float[Array, "S A"]
    policy: Float[Array, "S A"]
    residual: Float[Array, ""]
    steps: Int[Array, ""]


def solve_follower(
    world: MDP,
    reward_table: ArrayLike | Sequence,
    temperature: ArrayLike,
    *,
    tolerance: float = 1e-12,
    max_steps: int = 100,
) -> FollowerSolution:
    """Solve the soft Bellman equations by soft policy iteration, which is Newton's method on them.

        V ← V + (I − γP^π)⁻¹ (T V − V),    π = softmax(Q/τ)

    Values rise from the second step on and converge quadratically, a handful of S×S solves from any
    start. The answer can be differentiated in `reward_table`, the transition and discount of `world`,
    and `temperature`, forwards and backwards and to any order, by the implicit function theorem: one
    more solve with the last matrix, transposed when backwards, and never the unrolled iteration.

    Args:
        world: S states, A actions.
        reward_table: r, (S, A).
        temperature: τ > 0, in units of reward; small is near greedy, large near uniform.
        tolerance: stop when max|TV − V| <= tolerance·τ, which bounds the error of log π by about
            2·tolerance/(1−γ), or when rounding allows no less.
        max_steps: solves at most.

    Works under `jit`, `vmap` and `scan`; a `vmap` runs until its slowest member is done.

    Raises:
        InputError: a wrong shape, τ <= 0, a reward with NaN.
    """
    reward, tau = jnp.asarray(reward_table), jnp.asarray(temperature)
    wanted = world.transition.shape[:-1]
    if reward.shape != wanted:
        raise InputError(f"reward_table has shape {reward.shape}; give {wanted}: (states, actions)")
    if tau.shape != ():
        raise InputError(f"temperature has shape {tau.shape}; give one number, and vmap over several")
    if not isinstance(tau, Tracer) and not 0 < float(tau) < np.inf:
        raise InputError(f"temperature is {float(tau)}; give a positive number, such as 0.1")
    if not isinstance(reward, Tracer) and np.isnan(np.asarray(reward)).any():
        raise InputError("reward_table holds NaN; check the x it was computed from")
    if max_steps < 1:
        raise InputError(f"max_steps is {max_steps}; give at least 1")
    dtype = jnp.result_type(world.transition, reward, tau)
    limits = jnp.asarray(tolerance, dtype), jnp.asarray(max_steps, jnp.int32)
    return _solve(world, reward.astype(dtype), tau.astype(dtype), *limits)


@eqx.filter_jit
def _solve(
    world: MDP, reward: Array, temperature: Array, tolerance: Array, max_steps: Array
) -> FollowerSolution:
    values, steps = _fixed_point(world, reward, temperature, tolerance=tolerance, max_steps=max_steps)
    q = q_values(world, reward, values)
    swept = jax.lax.stop_gradient(soft_bellman(world, reward, temperature, values))
    residual = jnp.max(jnp.abs(swept - jax.lax.stop_gradient(values)))
    return FollowerSolution(values, q, soft_policy(q, temperature), residual, steps)


@eqx.filter_custom_jvp
def _fixed_point(world: MDP, reward: Array, temperature: Array, *, tolerance: Array, max_steps: Array) -> Any:
    epsilon = jnp.finfo(reward.dtype).eps

    def unsolved(state):
        values, gap, step = state
        rounding = _FLOOR * epsilon * jnp.max(jnp.abs(values))
        size = jnp.max(jnp.abs(gap))
        return (step < max_steps) & (size > jnp.maximum(tolerance * temperature, rounding))

    def newton(state):
        values, gap, step = state
        policy = soft_policy(q_values(world, reward, values), temperature)
        values = values + _solve_policy(world, policy, gap)
        return values, soft_bellman(world, reward, temperature, values) - values, step + 1

    start = jnp.zeros(reward.shape[0], reward.dtype)
    first_gap = soft_bellman(world, reward, temperature, start) - start
    values, _, steps = jax.lax.while_loop(unsolved, newton, (start, first_gap, jnp.zeros((), jnp.int32)))
    return values, steps


@_fixed_point.def_jvp
def _fixed_point_jvp(primals: Any, tangents: Any, *, tolerance: Array, max_steps: Array) -> Any:
    # V = T(V) when r, P, γ or τ move asks for dV = γP^π dV + ∂T, with ∂T the change of T at a V held still:
    # T is a maximum over policies, hence stationary in π, and the change of π itself costs no term.  `values`
    # comes from a call that has this rule too, so the rule can be differentiated again.
    values, steps = _fixed_point(*primals, tolerance=tolerance, max_steps=max_steps)
    world, reward, temperature = primals

    def sweep(world, reward, temperature):
        return soft_bellman(world, reward, temperature, values)

    _, moved = eqx.filter_jvp(sweep, primals, tangents)
    policy = soft_policy(q_values(world, reward, values), temperature)
    return (values, steps), (_solve_policy(world, policy, moved), None)


def _solve_policy(world: MDP, policy: Float[Array, "S A"], target: Float[Array, " S"]) -> Float[Array, " S"]:
    steps_on = world.discount * policy_transition(world, policy)
    return jnp.linalg.solve(jnp.eye(world.num_states, dtype=steps_on.dtype) - steps_on, target)
