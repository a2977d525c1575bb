"""The losses of soft actor-critic for one transition, as pure functions of numbers.

Source: Haarnoja et al., *Soft Actor-Critic Algorithms and Applications*, 2018; for discrete actions
Christodoulou, arXiv 1910.07207. τ is the temperature (called α there), γ the discount.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def sampled_soft_value(
    q_values: Float[Array, " critics"], log_prob: Float[Array, ""], temperature: Float[Array, ""]
) -> Float[Array, ""]:
    """minᵢ Qᵢ(s, a) − τ log π(a|s) with a ~ π(·|s): one sample of V(s)."""
    return jnp.min(q_values) - temperature * log_prob


def expected_soft_value(
    q_values: Float[Array, "critics A"], log_probs: Float[Array, " A"], temperature: Float[Array, ""]
) -> Float[Array, ""]:
    """Σ_a π(a|s) (minᵢ Qᵢ(s, a) − τ log π(a|s)): V(s), where actions can be counted."""
    return jnp.exp(log_probs) @ (jnp.min(q_values, axis=0) - temperature * log_probs)


def soft_target(
    reward: Float[Array, ""],
    terminated: Bool[Array, ""],
    next_value: Float[Array, ""],
    discount: float,
) -> Float[Array, ""]:
    """y = r + γ (1 − terminated) V(s').

    A truncated episode goes on in principle, so only `terminated` stops the bootstrap.
    """
    return reward + discount * jnp.where(terminated, 0.0, next_value)


def critic_loss(q_values: Float[Array, " critics"], target: Float[Array, ""]) -> Float[Array, ""]:
    """½ Σᵢ (Qᵢ − y)²; the target is a constant."""
    return 0.5 * jnp.sum((q_values - target) ** 2)


def actor_loss(value: Float[Array, ""]) -> Float[Array, ""]:
    """−V(s) as the policy would have it: a sample with a reparametrised, or the sum over all actions.

    Its mean over a ~ π(·|s) is τ·KL(π ‖ exp(Q/τ)/Z) up to a constant.
    """
    return -value


def temperature_loss(
    log_temperature: Float[Array, ""], entropy: Float[Array, ""], target_entropy: float
) -> Float[Array, ""]:
    """log τ · (H − H̄): raises τ while the policy's entropy H, or −log π of a sample, lies below H̄ (nats)."""
    return log_temperature * (entropy - target_entropy)
