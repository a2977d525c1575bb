"""What every method on a table is: `init` and `step`, so that `solve` and comparisons treat all alike."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._core import InputError


class MethodState(eqx.Module):
    """Between two steps: x, its optimiser, the estimate of ∇φ last followed, and the method's own memory.

    Attributes:
        x: the leader's parameters, any pytree.
        optimiser: what the optax optimiser keeps.
        gradient: the estimate of ∇φ last followed, of x's structure with None for what is not differentiated;
            before the first step it is zero.
        memory: the method's own, for instance the V that the next follower solve starts from.
        key: all randomness to come.
    """

    x: PyTree
    optimiser: optax.OptState
    gradient: PyTree
    memory: PyTree
    key: PRNGKeyArray


class StepStats(eqx.Module):
    """What one step saw and what it cost, so that methods are compared by cost and not by steps.

    Attributes:
        loss: f(x, π) at the x of before the step and the policy that the method holds for it.
        gradient_norm: ‖estimate of ∇φ‖.
        residual: max|TV − V| of the follower it used, in units of reward; NaN where it has no values.
        oracle_calls: evaluations of r_x or f or products with one of their derivatives.
        sweeps: soft Bellman sweeps over all states (a policy improvement holds one), backward ones included.
        linear_iterations: products with P^π or a Hessian in linear solves, a factorisation counting as one.
        samples: environment steps drawn.
    """

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    residual: Float[Array, ""]
    oracle_calls: Int[Array, ""]
    sweeps: Int[Array, ""]
    linear_iterations: Int[Array, ""]
    samples: Int[Array, ""]


class Method(eqx.Module):
    """A way to lower φ. Abstract: a subclass gives `init` and `step`, and never its own loop.

    All move x by x ← x + step_size · update, with `update` from any optax optimiser; the default,
    `optax.sgd(1.0)`, makes it x ← x − step_size · gradient. Step sizes are array leaves, to `vmap` over.

    Attributes:
        step_size: β, (); in units of x for each unit of `update`.
        optimiser: turns the estimate of ∇φ into `update`.
    """

    step_size: eqx.AbstractVar[Array]
    optimiser: eqx.AbstractVar[optax.GradientTransformation]

    @abc.abstractmethod
    def init(self, problem: Any, x: PyTree, key: PRNGKeyArray) -> MethodState:
        """The state before the first step.

        Args:
            problem: a `BilevelProblem` on an `MDP`; some methods take a `FixedPointProblem` too.
            x: where to start.
            key: all randomness of the method.

        Raises:
            InputError: the method cannot treat this problem; the text says which can.
        """

    @abc.abstractmethod
    def step(self, problem: Any, state: MethodState) -> tuple[MethodState, StepStats]:
        """One step of x. Pure: may be compiled, scanned and `vmap`ped.

        Args:
            problem: the one that `init` was given.
            state: of the step before.

        Returns:
            The state after it, and what the step saw and cost.
        """


def movable(name: str, x: PyTree) -> PyTree:
    """x with its floats and arrays of NumPy as arrays, once it is known to hold numbers that can be moved.

    Args:
        name: of x, for the error.
        x: any pytree; leaves that are no arrays are kept, and compile into the program.

    Raises:
        InputError: no floating-point array in it, NaN or infinity, or a leaf that cannot be compiled in.
    """
    try:
        x = jax.tree.map(lambda leaf: jnp.asarray(leaf) if _is_number(leaf) else leaf, x)
        leaves = jax.tree.leaves(x)
        for leaf in leaves:
            if not eqx.is_array_like(leaf):
                hash(leaf)
    # Keys of a dictionary that cannot be ordered, and leaves that cannot be hashed.
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is no pytree of arrays; give arrays in lists, tuples or dicts") from error
    moving = [leaf for leaf in leaves if eqx.is_inexact_array(leaf)]
    if not moving:
        raise InputError(f"{name} holds no floating-point array; give jnp.asarray({name}, float)")
    for leaf in moving:
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise InputError(f"{name} holds {leaf.dtype}; give real numbers")
        if not isinstance(leaf, Tracer) and not np.isfinite(np.asarray(leaf, np.float64)).all():
            raise InputError(f"{name} holds NaN or infinity; check what it was computed from")
    return x


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, float) or (isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc")


def begin(method: Method, x: PyTree, memory: PyTree, key: PRNGKeyArray) -> MethodState:
    """The state before the first step; only the floating-point arrays of x are ever moved."""
    moving = eqx.filter(x, eqx.is_inexact_array)
    return MethodState(x, method.optimiser.init(moving), jax.tree.map(jnp.zeros_like, moving), memory, key)


def advance(
    method: Method, state: MethodState, gradient: PyTree, memory: PyTree, key: PRNGKeyArray | None = None
) -> MethodState:
    """x moved along `gradient` by the method's optimiser; the next state."""
    moving = eqx.filter(state.x, eqx.is_inexact_array)
    updates, optimiser = method.optimiser.update(gradient, state.optimiser, moving)
    scaled = jax.tree.map(lambda u: (method.step_size * u).astype(u.dtype), updates)
    x = eqx.apply_updates(state.x, scaled)
    return MethodState(x, optimiser, gradient, memory, state.key if key is None else key)


def step_stats(
    loss: Array,
    gradient: PyTree,
    *,
    residual: Array | float = jnp.nan,
    oracle_calls: Array | int = 0,
    sweeps: Array | int = 0,
    linear_iterations: Array | int = 0,
    samples: Array | int = 0,
) -> StepStats:
    """`StepStats` with arrays of one type each, whatever a method counts in."""
    loss = jnp.asarray(loss)
    counts = (jnp.asarray(count, jnp.int32) for count in (oracle_calls, sweeps, linear_iterations, samples))
    norm = jnp.asarray(optax.tree.norm(gradient), loss.dtype)
    return StepStats(loss, norm, jnp.asarray(residual, loss.dtype), *counts)
