"""Trajectories drawn from a table."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._core import InputError
from .model import MDP
from .transition import SparseTransition, probability


class Trajectories(eqx.Module):
    """N trajectories of at most T steps, or one without the axis N.

    Attributes:
        states: s_h.
        actions: a_h. One taken in a terminal state is the last: its reward is received.
        alive: False behind the last action, where states and actions mean nothing.
    """

    states: Int[Array, "*N T"]
    actions: Int[Array, "*N T"]
    alive: Bool[Array, "*N T"]


def roll_out(
    world: MDP,
    policy: ArrayLike,
    key: PRNGKeyArray,
    num_trajectories: int,
    horizon: int,
    *,
    initial: ArrayLike | None = None,
) -> Trajectories:
    """Trajectories of π: s₀ ~ ρ, a ~ π(·|s), t ~ P[s,a,·].

    A draw reads one row of P, in whatever form P is; no table is made. Not differentiable. Works under `jit`
    and `vmap`, with the two sizes static.

    Args:
        world: S states, A actions.
        policy: π, (S, A), rows sum to 1.
        key: all randomness.
        num_trajectories: N.
        horizon: T, actions in each at most.
        initial: distribution of s₀, (S,); None: the world's.

    Raises:
        InputError: a size below 1, or a policy or a start of the wrong shape.
    """
    for name, size in (("num_trajectories", num_trajectories), ("horizon", horizon)):
        if size < 1:
            raise InputError(f"{name} is {size}; give at least 1")
    wanted = (world.num_states, world.num_actions)
    pi = jnp.asarray(policy, world.initial.dtype)
    if pi.shape != wanted:
        raise InputError(f"policy has shape {pi.shape}; give {wanted}: (states, actions)")
    start = world.initial if initial is None else jnp.asarray(initial, world.initial.dtype)
    if start.shape != wanted[:1]:
        raise InputError(f"initial has shape {start.shape}; give one probability a state: {wanted[:1]}")
    cumulative = _cumulative(start)
    # All at once: a generator compiles slowly, and each call of it anew.
    uniforms = jax.random.uniform(key, (num_trajectories, 1 + 2 * horizon), pi.dtype)
    begun = jnp.searchsorted(cumulative, uniforms[:, 0] * cumulative[-1], side="right").astype(jnp.int32)
    steps = uniforms[:, 1:].reshape(num_trajectories, horizon, 2)
    return Trajectories(*jax.vmap(lambda state, own: _walk(world, pi, state, own))(begun, steps))


def roll_out_from(
    world: MDP,
    policy: Float[Array, "S A"],
    key: PRNGKeyArray,
    state: Int[Array, ""],
    action: Int[Array, ""],
    horizon: int,
) -> Trajectories:
    """One trajectory of `horizon` actions (T,), the first of them given: from (s, a), then π.

    The same key gives the same random numbers at the same step, whatever the state and action.

    Args:
        world: S states, A actions.
        policy: π, (S, A), rows sum to 1.
        key: all randomness.
        state: s, ().
        action: a, ().
        horizon: T, actions.
    """
    uniforms = jax.random.uniform(key, (horizon, 2), policy.dtype)
    return Trajectories(*_walk(world, policy, state, uniforms, action))


def _walk(
    world: MDP,
    policy: Float[Array, "S A"],
    state: Int[Array, ""],
    uniforms: Float[Array, "T 2"],
    first_action: Int[Array, ""] | None = None,
) -> tuple[Int[Array, " T"], Int[Array, " T"], Bool[Array, " T"]]:
    def step(
        carry: tuple[Int[Array, ""], Bool[Array, ""]], inputs: tuple[Float[Array, "2"], Bool[Array, ""]]
    ) -> tuple[
        tuple[Int[Array, ""], Bool[Array, ""]], tuple[Int[Array, ""], Int[Array, ""], Bool[Array, ""]]
    ]:
        state, alive = carry
        uniforms, first = inputs
        action = _draw(policy[state], uniforms[0])
        if first_action is not None:
            action = jnp.where(first, first_action.astype(action.dtype), action)
        going = alive & ~world.terminal[state]
        successor = jnp.where(going, _successor(world, state, action, uniforms[1]), state)
        return (successor, going), (state, action, alive)

    first = jnp.arange(uniforms.shape[0]) == 0
    return jax.lax.scan(step, (state.astype(jnp.int32), jnp.asarray(True)), (uniforms, first))[1]


def _successor(
    world: MDP, state: Int[Array, ""], action: Int[Array, ""], uniform: Float[Array, ""]
) -> Int[Array, ""]:
    P = world.transition
    if isinstance(P, SparseTransition):
        return P.successors[state, action, _draw(P.weights[state, action], uniform)]
    successors = jnp.arange(world.num_states, dtype=jnp.int32)
    state, action = (jnp.broadcast_to(index, successors.shape) for index in (state, action))
    return _draw(probability(P, state, action, successors), uniform)


def _draw(weights: Float[Array, " K"], uniform: Float[Array, ""]) -> Int[Array, ""]:
    """Index k with probability weights[k] / Σ weights; never one of weight 0 unless all are."""
    cumulative = _cumulative(weights)
    index = jnp.sum(cumulative <= uniform * cumulative[-1], dtype=jnp.int32)
    return jnp.minimum(index, weights.shape[0] - 1)


def _cumulative(weights: Float[Array, " K"]) -> Float[Array, " K"]:
    # A parallel sum may round differently from one entry to the next; without the maximum, an entry of
    # weight 0 could be drawn.
    return jax.lax.cummax(jnp.where(weights > 0, jnp.cumsum(weights), 0.0))
