"""Scores ∇_θ log π of a policy's parameters θ along trajectories, and their second moments."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from ._blocks import over_tuples
from .data import LabelledClips, Policy
from .estimator import Discount

# Gradients of single steps that are held at once where their norms are wanted.
_AT_ONCE = 32


def parameters(policy: Policy) -> tuple[PyTree, Callable[[PyTree], Policy]]:
    """θ, the inexact arrays of a policy, and what makes a policy of them again."""
    theta, rest = eqx.partition(policy, eqx.is_inexact_array)
    return theta, lambda theta: eqx.combine(theta, rest)


def log_probs(policy: Policy, clips: LabelledClips) -> Float[Array, "B I L"]:
    """log π(a|s) at every step of the clips and of what lies behind them; 0 behind the end."""
    values = over_tuples(jax.vmap(jax.vmap(policy.log_prob)), clips.observations, clips.actions)
    return jnp.where(clips.valid, values, 0.0)


def powers(discount: Discount, length: int, like: Array) -> Float[Array, " L"]:
    """γ^k for k = 0 … `length` − 1, in the type of `like`."""
    return jnp.cumprod(jnp.full(length, discount, like.dtype).at[0].set(1.0))


class Curvature(eqx.Module):
    """F = E[g gᵀ], the Fisher matrix of θ in states that are visited with weights γ^k, sampled.

    At the soft optimum Q − τ log π does not depend on the action, so that of −∂²_{θθ}V, V what the follower
    maximises, only τ E[Σ_k γ^k F(s_k)] is left; here that is τ · `mass` · F, whatever the policy.

    Attributes:
        policy: the follower's; θ is its inexact arrays.
        observations, actions: N states, drawn with weights γ^k, and a fresh action in each.
        mass: E[Σ_k γ^k] over the steps of a trajectory, at most 1/(1 − γ).
    """

    policy: Policy
    observations: Shaped[Array, "N ..."]
    actions: Shaped[Array, "N ..."]
    mass: Float[Array, ""]

    def operator(self) -> Callable[[PyTree], PyTree]:
        """v -> F v, each at the cost of about two passes over the N steps."""
        theta, make = parameters(self.policy)

        def values(theta: PyTree) -> Float[Array, " N"]:
            return jax.vmap(make(theta).log_prob)(self.observations, self.actions)

        _, push = jax.linearize(values, theta)
        pull = jax.linear_transpose(push, theta)
        return lambda v: pull(push(v) / len(self.actions))[0]

    def trace(self) -> Float[Array, ""]:
        """tr F = E[‖g‖²]: no direction is more curved than this."""
        theta, make = parameters(self.policy)

        def squared(step: tuple[Any, Any]) -> Float[Array, ""]:
            score = jax.grad(lambda theta: make(theta).log_prob(*step))(theta)
            return jnp.asarray(optax.tree.norm(score, squared=True))

        steps = (self.observations, self.actions)
        return jnp.mean(jax.lax.map(squared, steps, batch_size=_AT_ONCE))


def draw_curvature(
    policy: Policy, clips: LabelledClips, discount: Discount, count: int, key: PRNGKeyArray
) -> Curvature:
    """`count` states of the clips and of what lies behind them, with fresh actions."""
    state_key, action_key = jax.random.split(key)
    dtype = jax.tree.leaves(parameters(policy)[0])[0].dtype
    weights = clips.valid * powers(discount, clips.valid.shape[2], jnp.zeros((), dtype))
    flat = weights.ravel()
    chosen = jax.random.choice(state_key, flat.size, (count,), p=flat / jnp.sum(flat))
    observations = clips.observations.reshape(-1, *clips.observations.shape[3:])[chosen]
    actions = jax.vmap(policy.sample)(observations, jax.random.split(action_key, count))
    mass = jnp.sum(flat) / (clips.valid.shape[0] * clips.valid.shape[1])
    return jax.lax.stop_gradient(Curvature(policy, observations, actions, mass))
