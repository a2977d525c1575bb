"""Upper losses on a tabular world computed exactly, expectations over clips by summing over all of them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree

from .._core import InputError, as_numbers
from ..mdp import MDP, probability
from ..problem import BilevelProblem, ClipLoss

# 10⁶ pairs of clips of a few steps are some 100 MB.
_MAX_DIGITS = 6


def exact_upper_loss(
    problem: BilevelProblem[MDP], x: PyTree, policy: Float[Array, "S A"]
) -> Float[Array, ""]:
    """f(x, π), whether the problem gives it as a function of the policy or of clips.

    Raises:
        InputError: the upper loss is not a scalar, or its clips cannot be enumerated.
    """
    if isinstance(problem.upper_loss, ClipLoss):
        return exact_clip_expectation(problem, x, policy)
    return as_loss(problem.upper_loss(x, policy), policy)


def as_loss(value: Any, like: Array) -> Float[Array, ""]:
    """What an upper loss returned, as a number of a type as `like` has at least.

    Raises:
        InputError: it is no scalar.
    """
    loss = as_numbers("what upper_loss returned", value)
    if loss.shape != ():
        raise InputError(f"upper_loss returned shape {loss.shape}; return one number, for instance its mean")
    return loss if jnp.issubdtype(loss.dtype, jnp.floating) else loss.astype(like.dtype)


def exact_clip_expectation(
    problem: BilevelProblem[MDP], x: PyTree, policy: Float[Array, "S A"]
) -> Float[Array, ""]:
    """E[l(d_1, …, d_I; x)] over I independent clips of H steps, from ρ under π, by enumeration.

    All (S·A)^(H·I) tuples of clips are held at once: for small worlds, to hold sampled estimates against.
    Differentiable in x and π; with π held still its gradient is E[∇_x l], the first term of ∇φ.

    Raises:
        InputError: too many tuples, no ClipLoss, or a world that ends (clips have exactly H steps).
    """
    loss, world = problem.upper_loss, problem.world
    if not isinstance(loss, ClipLoss):
        raise InputError("upper_loss is a function of the policy; only a ClipLoss has clips to enumerate")
    check_enumerable(world, loss)
    states, actions = _all_clips(world.num_states, world.num_actions, loss.horizon)
    weight = _clip_probability(problem.world_at(x), policy, states, actions)
    members = np.indices((len(states),) * loss.num_clips).reshape(loss.num_clips, -1).T
    losses = jax.vmap(lambda clips: problem.clip_loss(x, states[clips], actions[clips]))(jnp.asarray(members))
    return jnp.sum(jnp.prod(weight[members], axis=1) * losses)


def check_enumerable(world: MDP, loss: ClipLoss) -> None:
    """Raise InputError where clips cannot be enumerated; call it before `jit` hides the world's values."""
    digits = loss.horizon * loss.num_clips * math.log10(world.num_states * world.num_actions)
    if digits > _MAX_DIGITS:
        raise InputError(
            f"10^{digits:.1f} tuples of clips to enumerate, at most 10^{_MAX_DIGITS}; shorten them"
        )
    if not isinstance(world.terminal, Tracer) and np.asarray(world.terminal).any():
        raise InputError("clips cannot cross an end: let terminal states lead to themselves with reward 0")


def _all_clips(
    num_states: int, num_actions: int, horizon: int
) -> tuple[Int[Array, "N H"], Int[Array, "N H"]]:
    steps = np.indices((num_states * num_actions,) * horizon).reshape(horizon, -1).T
    return jnp.asarray(steps // num_actions), jnp.asarray(steps % num_actions)


def _clip_probability(
    world: MDP, policy: Float[Array, "S A"], states: Int[Array, "N H"], actions: Int[Array, "N H"]
) -> Float[Array, " N"]:
    moves = probability(world.transition, states[:, :-1], actions[:, :-1], states[:, 1:])
    return world.initial[states[:, 0]] * policy[states, actions].prod(axis=1) * moves.prod(axis=1)
