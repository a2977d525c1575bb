"""The soft Bellman equations as pure kernels, one world at a time; `vmap` for more.

    Q(s,a) = r(s,a) + γ Σ_t P[s,a,t] V(t)
    V(s)   = τ log Σ_a exp(Q(s,a)/τ)
    π(a|s) = exp((Q(s,a) − V(s))/τ)

Geist, Scherrer and Pietquin, "A theory of regularized Markov decision processes", ICML 2019.
"""

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float

from .model import MDP

# GPUs multiply float32 matrices at TF32 by default: three digits, on which the residual never settles.
_EXACT = Precision.HIGHEST


def q_values(world: MDP, reward: Float[Array, "S A"], values: Float[Array, " S"]) -> Float[Array, "S A"]:
    """Q(s,a) = r(s,a) + γ Σ_t P[s,a,t] V(t)."""
    return reward + world.discount * jnp.einsum("sat,t->sa", world.transition, values, precision=_EXACT)


def soft_value(q_values: Float[Array, "*S A"], temperature: Float[Array, ""] | float) -> Float[Array, "*S"]:
    """V(s) = τ log Σ_a exp(Q(s,a)/τ); tends to max_a Q as τ → 0, without overflow on the way."""
    # V does not depend on the pivot, so nothing is lost by holding it still, and ties cost no gradient.
    pivot = jax.lax.stop_gradient(jnp.max(q_values, axis=-1, keepdims=True))
    scaled = jnp.exp((q_values - pivot) / temperature)
    return pivot[..., 0] + temperature * jnp.log(jnp.sum(scaled, axis=-1))


def soft_policy(
    q_values: Float[Array, "*S A"], temperature: Float[Array, ""] | float
) -> Float[Array, "*S A"]:
    """π(a|s) = exp((Q(s,a) − V(s))/τ); rows sum to 1, greedy (ties shared) as τ → 0."""
    # Before the division: Q/τ overflows for small τ, the difference only underflows.
    pivot = jax.lax.stop_gradient(jnp.max(q_values, axis=-1, keepdims=True))
    return jax.nn.softmax((q_values - pivot) / temperature, axis=-1)


def soft_bellman(
    world: MDP,
    reward: Float[Array, "S A"],
    temperature: Float[Array, ""] | float,
    values: Float[Array, " S"],
) -> Float[Array, " S"]:
    """One sweep T V, a γ-contraction in the largest-entry norm whose fixed point is the soft value."""
    return soft_value(q_values(world, reward, values), temperature)


def policy_transition(world: MDP, policy: Float[Array, "S A"]) -> Float[Array, "S S"]:
    """P^π[s,t] = Σ_a π(a|s) P[s,a,t]."""
    return jnp.einsum("sa,sat->st", policy, world.transition, precision=_EXACT)
