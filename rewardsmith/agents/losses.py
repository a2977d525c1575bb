"""The losses of soft actor-critic for one transition, as pure functions of numbers.

Source: Haarnoja et al., *Soft Actor-Critic Algorithms and Applications*, 2018. τ is the temperature
(called α there), γ the discount.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def soft_target(
    reward: Float[Array, ""],
    terminated: Bool[Array, ""],
    next_q_values: Float[Array, " critics"],
    next_log_prob: Float[Array, ""],
    temperature: Float[Array, ""],
    discount: float,
) -> Float[Array, ""]:
    """y = r + γ (1 − terminated) (minᵢ Qᵢ(s', a') − τ log π(a'|s')), with a' ~ π(·|s').

    A truncated episode goes on in principle, so only `terminated` stops the bootstrap.
    """
    soft_value = jnp.min(next_q_values) - temperature * next_log_prob
    return reward + discount * jnp.where(terminated, 0.0, soft_value)


def critic_loss(q_values: Float[Array, " critics"], target: Float[Array, ""]) -> Float[Array, ""]:
    """½ Σᵢ (Qᵢ − y)²; the target is a constant."""
    return 0.5 * jnp.sum((q_values - target) ** 2)


def actor_loss(
    q_values: Float[Array, " critics"], log_prob: Float[Array, ""], temperature: Float[Array, ""]
) -> Float[Array, ""]:
    """τ log π(a|s) − minᵢ Qᵢ(s, a), with a reparametrised.

    Its mean over a ~ π(·|s) is τ·KL(π ‖ exp(Q/τ)/Z) up to a constant.
    """
    return temperature * log_prob - jnp.min(q_values)


def temperature_loss(
    log_temperature: Float[Array, ""], log_prob: Float[Array, ""], target_entropy: float
) -> Float[Array, ""]:
    """−log τ · (log π + H̄): raises τ while the policy's entropy lies below the target H̄ (nats)."""
    return -log_temperature * (log_prob + target_entropy)
