"""The verb: run any method on any problem."""

import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._core import RESULTS, InputError, as_tolerance, as_whole
from ..mdp import MDP
from ..problem import BilevelProblem, ClipLoss
from .enumeration import check_enumerable
from .lower_level import LowerLevel
from .method import Method, MethodState, StepStats, movable

# A compiled call runs this many steps, then the host reads the clock and shows progress.
_CHUNK = 50

Progress = Callable[[int, StepStats], None]


class Solution(eqx.Module):
    """What `solve` found.

    Attributes:
        value: x after the last step.
        result: how it ended.
        stats: one entry a step, (steps,); what lies behind `num_steps` is not filled under `jit`.
        seconds: (steps,) wall time since the start at which each step was done, compilation left out;
            interpolated between clock readings; NaN under `jit`.
        num_steps: steps taken.
        state: of the method, to go on from: `solve(..., state=solution.state)`.
    """

    value: PyTree
    result: RESULTS
    stats: StepStats
    seconds: Float[Array, " steps"] | np.ndarray
    num_steps: Int[Array, ""]
    state: MethodState


class _Annealed(eqx.Module):
    temperature: Callable[[Int[Array, ""]], Any]

    def __call__(self, problem: BilevelProblem[MDP], step: Int[Array, ""]) -> BilevelProblem[MDP]:
        tau = jnp.asarray(self.temperature(step), problem.tau.dtype)
        return eqx.tree_at(lambda p: p.temperature, problem, tau)


def solve(
    problem: BilevelProblem[MDP] | LowerLevel,
    method: Method,
    x0: PyTree,
    max_steps: int,
    *,
    tolerance: float = 0.0,
    key: PRNGKeyArray | None = None,
    temperature: Callable[[Int[Array, ""]], Any] | None = None,
    path: Callable[[Any, Int[Array, ""]], Any] | None = None,
    state: MethodState | None = None,
    throw: bool = True,
    progress: Progress | None = None,
) -> Solution:
    """Minimise φ by `method`, from x0.

    Args:
        problem: on an `MDP`; for `ImplicitGradient` and `UnrolledGradient` also a `FixedPointProblem`.
        method: such as `MSoBiRL(step_size=8e-3)`.
        x0: any pytree; its floating-point arrays move.
        max_steps: steps of x, at most.
        tolerance: stop when the norm of the method's estimate of ∇φ falls to it; 0: run all steps.
        key: all randomness; None: key 0.
        temperature: step -> τ in units of reward, to anneal; None: the problem's own. Any optax schedule
            will do.
        path: (problem, step) -> the problem of that step, for any other homotopy; instead of `temperature`.
        state: go on from here instead of x0.
        throw: raise where the tolerance was not reached or a NaN appeared; otherwise, and always under `jit`,
            `grad` or `vmap`, look at `result`.
        progress: called with the step and its stats every 50 steps.

    Works under `jit` and `vmap`: over x0, keys, step sizes, temperatures.

    Raises:
        InputError: problem, method and x0 do not fit, or a run that `throw` does not let pass.

    Examples:
        The leader pays x for the first of two actions, which it wants taken, and pays x²/2 itself; the best
        x is that at which x = π′(x).

        >>> import jax.numpy as jnp
        >>> import rewardsmith as rs
        >>> world = rs.MDP([[[1.0], [1.0]]], initial=[1.0], discount=0.0)
        >>> problem = rs.BilevelProblem(
        ...     world,
        ...     reward=lambda x: jnp.array([[1.0, 0.0]]) * x,
        ...     upper_loss=lambda x, policy: 0.5 * x**2 - policy[0, 0],
        ...     temperature=0.5,
        ... )
        >>> solution = rs.solve(problem, rs.ImplicitGradient(0.3), 0.0, max_steps=50)
        >>> round(float(solution.value), 3), int(solution.num_steps)
        (0.421, 50)
    """
    max_steps, tolerance = as_whole("max_steps", max_steps), as_tolerance("tolerance", tolerance)
    if not isinstance(problem, BilevelProblem | LowerLevel):
        raise InputError(f"problem is a {type(problem).__name__}; give a BilevelProblem")
    if not isinstance(method, Method):
        raise InputError(f"method is a {type(method).__name__}; give one such as MSoBiRL(8e-3)")
    if isinstance(problem, BilevelProblem):
        if isinstance(problem.upper_loss, ClipLoss) and isinstance(problem.world, MDP):
            check_enumerable(problem.world, problem.upper_loss)
    if temperature is not None and not isinstance(problem, BilevelProblem):
        raise InputError("temperature is for a BilevelProblem; this problem has none")
    if temperature is not None:
        if path is not None:
            raise InputError("give temperature or path, not both")
        path = _Annealed(temperature)
    x0 = movable("x0", x0)
    if state is None:
        state = method.init(problem, x0, jax.random.key(0) if key is None else key)
    first: MethodState = _strong(state)
    threshold = jnp.asarray(tolerance)
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((problem, method, first)))
    if traced:
        begun, limit = jnp.zeros((), jnp.int32), jnp.asarray(max_steps, jnp.int32)
        last, stats, count, result = _advance(
            problem, method, first, threshold, begun, limit, max_steps, path
        )
        unfinished = (tolerance > 0) & (stats.gradient_norm[count - 1] > threshold)
        result = _unless_finished(result, unfinished)
        seconds = jnp.full(max_steps, jnp.nan, stats.loss.dtype)
        return Solution(last.x, result, stats, seconds, count, last)
    solution = _in_chunks(problem, method, first, threshold, max_steps, path, progress)
    if throw and solution.result != RESULTS.successful:
        norm = float(solution.stats.gradient_norm[-1])
        raise InputError(
            f"solve stopped at step {int(solution.num_steps)} with gradient norm {norm:.3g}: "
            f"{RESULTS[solution.result]}"
        )
    return solution


def _in_chunks(
    problem: Any,
    method: Method,
    state: MethodState,
    threshold: Array,
    max_steps: int,
    path: Any,
    progress: Progress | None,
) -> Solution:
    """All steps from the host, which reads the clock and shows progress between compiled calls."""

    def chunk(state: MethodState, limit: int) -> Any:
        counts = jnp.asarray(done, jnp.int32), jnp.asarray(limit, jnp.int32)
        return jax.block_until_ready(_advance(problem, method, state, threshold, *counts, _CHUNK, path))

    parts, times, done, spent = [], [], 0, 0.0
    chunk(state, 0)  # compiles, so that the clock does not
    while True:
        limit, begun = min(_CHUNK, max_steps - done), time.perf_counter()
        state, stats, count, result = chunk(state, limit)
        elapsed, taken = time.perf_counter() - begun, int(count)
        times.append(spent + elapsed * np.arange(1, taken + 1) / taken)
        parts.append(jax.tree.map(lambda leaf, n=taken: leaf[:n], stats))
        spent, done = spent + elapsed, done + taken
        last = jax.tree.map(lambda leaf: leaf[-1], parts[-1])
        if progress is not None:
            progress(done, last)
        unfinished = (threshold > 0) & (last.gradient_norm > threshold)
        if done == max_steps or taken < limit or result != RESULTS.successful:
            break
        if threshold > 0 and not unfinished:
            break
    stats = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    result = _unless_finished(result, unfinished)
    return Solution(state.x, result, stats, np.concatenate(times), jnp.asarray(done, jnp.int32), state)


def _unless_finished(result: RESULTS, unfinished: Array) -> RESULTS:
    return RESULTS.where((result == RESULTS.successful) & unfinished, RESULTS.max_steps_reached, result)


@eqx.filter_jit
def _advance(
    problem: Any,
    method: Method,
    state: MethodState,
    threshold: Array,
    begun: Int[Array, ""],
    limit: Int[Array, ""],
    size: int,
    path: Any,
) -> tuple[MethodState, StepStats, Int[Array, ""], RESULTS]:
    """At most `limit` steps, stats in buffers of `size`; less where ∇φ is small enough or not finite."""
    moving, still = eqx.partition(state, eqx.is_array)

    def step(moving: Any, index: Int[Array, ""]) -> tuple[Any, StepStats]:
        now = problem if path is None else path(problem, begun + index)
        after, stats = method.step(now, eqx.combine(moving, still))
        return eqx.filter(_strong(after), eqx.is_array), stats

    shapes = jax.eval_shape(lambda: step(moving, jnp.zeros((), jnp.int32))[1])
    buffers = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), shapes)

    def goes_on(carry: Any) -> Array:
        _, _, index, going = carry
        return going & (index < limit)

    def body(carry: Any) -> Any:
        moving, buffers, index, _ = carry
        moving, stats = step(moving, index)
        buffers = jax.tree.map(lambda held, leaf: held.at[index].set(leaf), buffers, stats)
        norm = stats.gradient_norm
        small = (threshold > 0) & (norm <= threshold)
        return moving, buffers, index + 1, jnp.isfinite(norm) & jnp.isfinite(stats.loss) & ~small

    zero = jnp.zeros((), jnp.int32)
    carry = (moving, buffers, zero, jnp.asarray(True))
    moving, stats, count, _ = jax.lax.while_loop(goes_on, body, carry)
    last = jnp.maximum(count - 1, 0)
    finite = jnp.isfinite(stats.gradient_norm[last]) & jnp.isfinite(stats.loss[last])
    result = RESULTS.where(finite, RESULTS.successful, RESULTS.not_finite)
    return eqx.combine(moving, still), stats, count, result


def _strong(tree: PyTree) -> PyTree:
    """Weakly typed numbers, such as `jnp.asarray(0.5)`, made strong: the carry of a loop may not change."""

    def strong(leaf: Any) -> Any:
        if eqx.is_array(leaf) and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.asarray(leaf, leaf.dtype)
        return leaf

    return jax.tree.map(strong, tree)
