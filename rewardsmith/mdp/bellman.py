"""The soft Bellman equations as pure kernels, one world at a time; `vmap` for more.

    Q(s,a) = r(s,a) + γ Σ_t P[s,a,t] V(t)
    V(s)   = τ log Σ_a exp(Q(s,a)/τ)
    π(a|s) = exp((Q(s,a) − V(s))/τ)

for the entropy; other regularisers put their own V and π in place of the last two.

Geist, Scherrer and Pietquin, "A theory of regularized Markov decision processes", ICML 2019.
"""

from jaxtyping import Array, Float

from .model import MDP
from .regularisers import Regulariser, Shannon, Temperature
from .transition import expect, under

_ENTROPY = Shannon()


def q_values(world: MDP, reward: Float[Array, "S A"], values: Float[Array, " S"]) -> Float[Array, "S A"]:
    """Q(s,a) = r(s,a) + γ Σ_t P[s,a,t] V(t).

    Args:
        world: gives P and γ.
        reward: r, (S, A).
        values: V, (S,), in units of reward.
    """
    return reward + world.discount * expect(world.transition, values)


def soft_value(
    q_values: Float[Array, "*S A"], temperature: Temperature, regulariser: Regulariser = _ENTROPY
) -> Float[Array, "*S"]:
    """V(s) = max over π of Σ_a π Q − τ Ω(π); tends to max_a Q as τ → 0, without overflow on the way.

    Args:
        q_values: Q, (*S, A), in units of reward.
        temperature: τ > 0, in units of reward.
        regulariser: Ω; the negative entropy unless told otherwise, then V = τ log Σ_a exp(Q/τ).
    """
    return regulariser.value(q_values, temperature)


def soft_policy(
    q_values: Float[Array, "*S A"], temperature: Temperature, regulariser: Regulariser = _ENTROPY
) -> Float[Array, "*S A"]:
    """The policy that attains `soft_value`; rows sum to 1, greedy (ties shared) as τ → 0.

    Args:
        q_values: Q, (*S, A), in units of reward.
        temperature: τ > 0, in units of reward.
        regulariser: Ω; the negative entropy unless told otherwise, then π = exp((Q − V)/τ).
    """
    return regulariser.policy(q_values, temperature)


def soft_bellman(
    world: MDP,
    reward: Float[Array, "S A"],
    temperature: Temperature,
    values: Float[Array, " S"],
    regulariser: Regulariser = _ENTROPY,
) -> Float[Array, " S"]:
    """One sweep T V, a γ-contraction in the largest-entry norm whose fixed point is the soft value.

    Args:
        world: gives P and γ.
        reward: r, (S, A).
        temperature: τ > 0, in units of reward.
        values: V, (S,), in units of reward.
        regulariser: Ω; the negative entropy unless told otherwise.
    """
    return soft_value(q_values(world, reward, values), temperature, regulariser)


def policy_transition(world: MDP, policy: Float[Array, "S A"]) -> Float[Array, "S S"]:
    """P^π[s,t] = Σ_a π(a|s) P[s,a,t]; rows of terminal states are zero.

    Args:
        world: gives P, in any form.
        policy: π, (S, A), rows sum to 1.
    """
    return under(world.transition, policy)
