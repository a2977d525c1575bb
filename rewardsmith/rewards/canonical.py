"""Canonical forms: one reward for all those that no policy can tell apart, exact on tables.

Potential shaping r + γ E Φ(s') − Φ(s) changes no policy's place among the others (Ng, Harada and Russell,
ICML 1999), and neither does what a reward pays for a successor beyond its mean over successors. Rewards are
tables (S, A), or (S, A, S) where they look at the successor.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

Reward = Float[Array, "S A"] | Float[Array, "S A S"]
Transition = Float[Array, "S A S"]


def expected_reward(reward: Reward, transition: Transition) -> Float[Array, "S A"]:
    """r̄(s,a) = Σ_t P[s,a,t] r(s,a,t), 0 where P's row is zero; a table (S, A) is one already.

    Args:
        reward: r, (S, A) or (S, A, S).
        transition: P, (S, A, S).
    """
    return reward if reward.ndim == 2 else jnp.einsum("sat,sat->sa", transition, reward)


def shaped(
    reward: Float[Array, "S A"], transition: Transition, discount: float, potential: Float[Array, " S"]
) -> Float[Array, "S A"]:
    """r(s,a) + γ Σ_t P[s,a,t] Φ(t) − Φ(s): the same ranking of policies.

    Source: Ng, Harada and Russell, ICML 1999.

    Args:
        reward: r, (S, A).
        transition: P, (S, A, S).
        discount: γ.
        potential: Φ, (S,), in units of reward.
    """
    return reward + discount * transition @ potential - potential[:, None]


def value_adjusted(
    reward: Reward, transition: Transition, discount: float, policy: Float[Array, "S A"]
) -> Float[Array, "S A"]:
    """Value-adjusted levelling: r̄ shaped by V^π of one fixed policy, which makes it that policy's advantage.

    Source: Skalse et al., "STARC", ICLR 2024.

    Args:
        reward: r.
        transition: P.
        discount: γ < 1.
        policy: π, with rows that sum to 1; the same for all rewards that are to be compared.
    """
    table = expected_reward(reward, transition)
    under = jnp.einsum("sa,sat->st", policy, transition)
    values = jnp.linalg.solve(jnp.eye(len(under)) - discount * under, jnp.sum(policy * table, axis=1))
    return shaped(table, transition, discount, values)


def minimal(reward: Reward, transition: Transition, discount: float) -> Float[Array, "S A"]:
    """The member of r̄'s shaping orbit with the least Euclidean norm; unique for γ < 1.

    Source: Skalse et al., "STARC", ICLR 2024.

    Args:
        reward: r, (S, A) or (S, A, S).
        transition: P, (S, A, S).
        discount: γ < 1.
    """
    table = expected_reward(reward, transition)
    num_states, num_actions = table.shape
    # Of Φ, what shaping adds to each (s, a).
    moves = discount * transition - jnp.eye(num_states)[:, None, :]
    potential, *_ = jnp.linalg.lstsq(moves.reshape(num_states * num_actions, num_states), -table.ravel())
    return shaped(table, transition, discount, potential)


def epic_canonical(
    reward: Reward, discount: float, states: Float[Array, " S"], actions: Float[Array, " A"]
) -> Float[Array, "S A S"]:
    """r(s,a,t) + E[γ r(t,A,T) − r(s,A,T) − γ r(S,A,T)], S and T drawn from `states`, A from `actions`.

    Knows nothing of P: invariant to shaping by any potential, in any world.

    Source: Gleave et al., "Quantifying differences in reward functions", ICLR 2021.

    Args:
        reward: r, (S, A) or (S, A, S).
        discount: γ.
        states: (S,), probabilities that S and T are drawn from.
        actions: (A,), probabilities that A is drawn from.
    """
    full = _full(reward)
    mean = jnp.einsum("sat,a,t->s", full, actions, states)
    return full + discount * mean - mean[:, None, None] - discount * states @ mean


def dard_canonical(
    reward: Reward, transition: Transition, discount: float, actions: Float[Array, " A"]
) -> Float[Array, "S A S"]:
    """r(s,a,t) + E[γ r(t,A,T″) − r(s,A,T′) − γ r(T′,A,T″)], T′ after (s, A), T″ after (t, A).

    Looks at successors that the world can make, where EPIC takes any states.

    Source: Wulfe et al., "Dynamics-aware comparison of learned reward functions", ICLR 2022.

    Args:
        reward: r.
        transition: P, with rows that sum to 1; a terminal state stays where it is and pays nothing.
        discount: γ.
        actions: probabilities that A is drawn from.
    """
    full = _full(reward)
    after = expected_reward(full, transition) @ actions
    seen = jnp.einsum("sau,uav->sav", transition, full)
    across = jnp.einsum("sav,tav,a->st", seen, transition, actions)
    return full + (discount * (after[None, :] - across) - after[:, None])[:, None, :]


def _full(reward: Reward) -> Float[Array, "S A S"]:
    if reward.ndim == 3:
        return reward
    return jnp.broadcast_to(reward[:, :, None], (*reward.shape, reward.shape[0]))
