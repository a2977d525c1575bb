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

from .._core import RESULTS, InputError, as_numbers, as_tolerance, as_whole
from ..mdp import (
    MDP,
    Regulariser,
    Shannon,
    q_values,
    soft_bellman,
    soft_policy,
    solve_policy,
    solves_directly,
)

# Rounding leaves max|TV − V| at a few units in the last place of V, however many steps are taken.
_FLOOR = 32
# How much of the gap each inner solve of a large world must remove; a tenth more digits buy no fewer steps.
_INNER = 1e-2


class FollowerSolution(eqx.Module):
    """The follower's answer to one reward table.

    Attributes:
        values: V, (S,), in units of reward.
        q_values: Q, (S, A).
        policy: π, (S, A), rows sum to 1.
        residual: max|TV − V| at `values`, in units of reward.
        steps: policy improvements.
        linear_iterations: products with P^π inside them, a factorisation counting as one.
        result: whether the tolerance was reached.
    """

    values: Float[Array, " S"]
    q_values: Float[Array, "S A"]
    policy: Float[Array, "S A"]
    residual: Float[Array, ""]
    steps: Int[Array, ""]
    linear_iterations: Int[Array, ""]
    result: RESULTS


def solve_follower(
    world: MDP,
    reward_table: ArrayLike | Sequence[object],
    temperature: ArrayLike,
    *,
    regulariser: Regulariser | None = None,
    initial_values: ArrayLike | None = None,
    tolerance: float = 1e-12,
    max_steps: int = 100,
    throw: bool = True,
) -> FollowerSolution:
    """Solve the soft Bellman equations by soft policy iteration, which is Newton's method on them.

        V ← V + (I − γP^π)⁻¹ (T V − V),    π = softmax(Q/τ)

    Values rise from the second step on and converge quadratically, a handful of S×S solves from any
    start. In worlds of more than 1,000 states (300 if sparse) the solves are iterative and loose, and a
    sweep V ← TV goes with each. The answer can be differentiated in `reward_table`, the transition and
    discount of `world`, `temperature` and `regulariser`, forwards and backwards and to any order, by the
    implicit function theorem: one more solve with the last matrix, transposed when backwards, and never the
    unrolled iteration.

    Args:
        world: S states, A actions.
        reward_table: r, (S, A).
        temperature: τ > 0, a number, in units of reward; small is near greedy, large near uniform.
        regulariser: Ω; None: negative entropy, `Shannon()`.
        initial_values: V to start from, (S,), for instance of a reward close by; None: zeros.
        tolerance: stop when max|TV − V| <= tolerance·τ, which bounds the error of log π by about
            2·tolerance/(1−γ), or when rounding allows no less.
        max_steps: policy improvements at most.
        throw: raise where the tolerance was not reached; otherwise, and always under `jit`, `grad` or
            `vmap`, look at `result`.

    Works under `jit`, `vmap` and `scan`; a `vmap` runs until its slowest member is done.

    Raises:
        InputError: a wrong shape, τ <= 0, a reward with NaN, a tolerance not reached.

    Examples:
        With γ = 0 the follower looks at the reward alone: π = softmax(r/τ).

        >>> import jax
        >>> import jax.numpy as jnp
        >>> import rewardsmith as rs
        >>> world = rs.MDP([[[1.0], [1.0]]], initial=[1.0], discount=0.0)
        >>> answer = rs.solve_follower(world, [[1.0, 0.0]], temperature=0.5)
        >>> bool(jnp.allclose(answer.policy[0], jax.nn.softmax(jnp.array([2.0, 0.0]))))
        True

        How much likelier the first action becomes for each unit of its own reward, π(1 − π)/τ:

        >>> slope = jax.grad(lambda r: rs.solve_follower(world, r, 0.5).policy[0, 0])(jnp.array([[1.0, 0.0]]))
        >>> round(float(slope[0, 0]), 3)
        0.21
    """
    check_world(world)
    reward, tau = as_numbers("reward_table", reward_table), as_numbers("temperature", temperature)
    wanted = (world.num_states, world.num_actions)
    if reward.shape != wanted:
        raise InputError(f"reward_table has shape {reward.shape}; give {wanted}: (states, actions)")
    if tau.shape != ():
        raise InputError(f"temperature has shape {tau.shape}; give one number, and vmap over several")
    if not isinstance(tau, Tracer) and not 0 < float(tau) < np.inf:
        raise InputError(f"temperature is {float(tau)}; give a positive number, such as 0.1")
    if not isinstance(reward, Tracer) and np.isnan(np.asarray(reward)).any():
        raise InputError("reward_table holds NaN; check the x it was computed from")
    max_steps, tolerance = as_whole("max_steps", max_steps), as_tolerance("tolerance", tolerance)
    _check_reference(regulariser, wanted)
    dtype = jnp.result_type(world.initial, reward, tau)
    start = jnp.zeros(wanted[:1], dtype)
    if initial_values is not None:
        start = as_numbers("initial_values", initial_values, dtype)
    if start.shape != wanted[:1]:
        raise InputError(f"initial_values has shape {start.shape}; give one value a state: {wanted[:1]}")
    limits = jnp.asarray(tolerance, dtype), jnp.asarray(max_steps, jnp.int32)
    answer = _solve(world, reward.astype(dtype), tau.astype(dtype), regulariser or Shannon(), start, *limits)
    if throw and not isinstance(answer.residual, Tracer) and answer.result != RESULTS.successful:
        raise InputError(f"follower: max|TV − V| is {float(answer.residual):.3g}: {RESULTS[answer.result]}")
    return answer


def check_world(world: MDP) -> None:
    """Raise InputError unless `world` is a table."""
    if not isinstance(world, MDP):
        raise InputError(f"world is a {type(world).__name__}; give an MDP")


def _check_reference(regulariser: Regulariser | None, wanted: tuple[int, int]) -> None:
    if not (regulariser is None or isinstance(regulariser, Regulariser)):
        raise InputError(f"regulariser is a {type(regulariser).__name__}; give one such as Shannon()")
    reference = getattr(regulariser, "reference", None)
    if reference is not None and reference.shape != wanted:
        raise InputError(f"reference has shape {reference.shape}; give {wanted}: (states, actions)")


@eqx.filter_jit
def _solve(
    world: MDP,
    reward: Array,
    temperature: Array,
    regulariser: Regulariser,
    start: Array,
    tolerance: Array,
    max_steps: Array,
) -> FollowerSolution:
    values, steps, products = _fixed_point(
        world, reward, temperature, regulariser, start=start, tolerance=tolerance, max_steps=max_steps
    )
    q = q_values(world, reward, values)
    held = jax.lax.stop_gradient((world, reward, temperature, regulariser, values))
    residual = jnp.max(jnp.abs(_gap(*held)))
    allowed = _allowed(held[-1], temperature, tolerance)
    result = RESULTS.where(
        residual <= allowed,
        RESULTS.successful,
        RESULTS.where(jnp.isfinite(residual), RESULTS.max_steps_reached, RESULTS.not_finite),
    )
    policy = soft_policy(q, temperature, regulariser)
    return FollowerSolution(values, q, policy, residual, steps, products, result)


def _gap(
    world: MDP, reward: Array, temperature: Array, regulariser: Regulariser, values: Float[Array, " S"]
) -> Float[Array, " S"]:
    return soft_bellman(world, reward, temperature, values, regulariser) - values


def _allowed(values: Array, temperature: Array, tolerance: Array) -> Array:
    rounding = _FLOOR * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    return jnp.maximum(tolerance * temperature, rounding)


@eqx.filter_custom_jvp
def _fixed_point(
    world: MDP,
    reward: Array,
    temperature: Array,
    regulariser: Regulariser,
    *,
    start: Array,
    tolerance: Array,
    max_steps: Array,
) -> Any:
    def gap_at(values: Array) -> Array:
        return _gap(world, reward, temperature, regulariser, values)

    def unsolved(state: tuple[Array, Array, Array, Array]) -> Array:
        values, gap, step, _ = state
        # Written so that NaN stops.
        return (step < max_steps) & (jnp.max(jnp.abs(gap)) > _allowed(values, temperature, tolerance))

    def newton(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        values, gap, step, products = state
        policy = soft_policy(q_values(world, reward, values), temperature, regulariser)
        move, count = solve_policy(world, policy, gap, tolerance=_INNER)
        values = values + move
        gap = gap_at(values)
        if not solves_directly(world):
            # A loose solve is right on average and wrong in places; a sweep evens that out.
            values = values + gap
            gap = gap_at(values)
        return values, gap, step + 1, products + count

    zero = jnp.zeros((), jnp.int32)
    values, _, steps, products = jax.lax.while_loop(unsolved, newton, (start, gap_at(start), zero, zero))
    return values, steps, products


@_fixed_point.def_jvp
def _fixed_point_jvp(primals: Any, tangents: Any, *, start: Array, tolerance: Array, max_steps: Array) -> Any:
    # V = T(V) when r, P, γ, τ or Ω move asks for dV = γP^π dV + ∂T, with ∂T the change of T at a V held
    # still: T is a maximum over policies, hence stationary in π, and the change of π itself costs no term.
    # `values` comes from a call that has this rule too, so the rule can be differentiated again.
    values, steps, products = _fixed_point(*primals, start=start, tolerance=tolerance, max_steps=max_steps)
    world, reward, temperature, regulariser = primals

    def sweep(world: MDP, reward: Array, temperature: Array, regulariser: Regulariser) -> Array:
        return soft_bellman(world, reward, temperature, values, regulariser)

    _, moved = eqx.filter_jvp(sweep, primals, tangents)
    policy = soft_policy(q_values(world, reward, values), temperature, regulariser)
    change, _ = solve_policy(world, policy, moved, tolerance=tolerance)
    return (values, steps, products), (change, None, None)
