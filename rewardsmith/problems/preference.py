"""Learning a reward from comparisons, as a bilevel problem that can be enumerated.

A teacher compares two clips of H steps, drawn under the follower's policy, by a reward of its own, r*:

    y = σ(Σ_h r*(d¹) − Σ_h r*(d²)),      r_x(s,a) = B(s,a)·x
    φ(x) = E[−y log σ(D) − (1 − y) log σ(−D)],      D = Σ_h r_x(d¹) − Σ_h r_x(d²),  d ~ π*(x)

The clips move when x moves, which is what tells the hyper-gradient from the gradient of the loss alone.

Sources: Christiano et al., NeurIPS 2017 (arXiv 1706.03741); Yang, Gao and Yuan, AISTATS 2025 (arXiv
2405.19697). Departures: a table small enough to sum over all pairs of clips; labels are expectations. Since φ
is also small where clips are easy to tell apart, its minimum need not be at r*.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from .._core import InputError
from ..mdp import MDP, state_action_occupancy
from ..problem import BilevelProblem, PreferenceLoss
from ._checks import check_not_negative, check_sizes
from .task import Task


def build(
    *,
    states: int = 3,
    actions: int = 2,
    features: int = 4,
    horizon: int = 2,
    discount: float = 0.8,
    temperature: float = 0.5,
    sharpness: float = 2.0,
    scale: float = 1.0,
    seed: int = 0,
) -> Task:
    """A random world, r* and B.

    Args:
        states: S.
        actions: A; (S·A)^(2H) pairs of clips are summed over, at most 10⁶.
        features: length of x.
        horizon: H.
        discount: γ of the follower; clip sums are not discounted.
        temperature: τ.
        sharpness: size of r*, standard normal times this; large is a decided teacher.
        scale: standard deviation of x0.
        seed: of P, ρ, B and r*.
    """
    check_sizes(states=states, actions=actions, features=features)
    check_not_negative(sharpness=sharpness, scale=scale)
    rng = np.random.default_rng(seed)
    P, initial = rng.dirichlet(np.ones(states), (states, actions)), rng.dirichlet(np.ones(states))
    true_reward = sharpness * rng.normal(size=(states, actions))
    B = rng.normal(size=(states, actions, features))
    return preference_from(P, initial, B, true_reward, horizon, discount, temperature, scale=scale)


def preference_from(
    transition: ArrayLike,
    initial: ArrayLike,
    features: ArrayLike,
    true_reward: ArrayLike,
    horizon: int,
    discount: ArrayLike,
    temperature: ArrayLike,
    *,
    scale: float = 1.0,
) -> Task:
    """The problem with given tables.

    Args:
        transition: P, (S, A, S).
        initial: ρ, (S,).
        features: B, (S, A, n); the reward is B x.
        true_reward: r*, (S, A), which the labels follow.
        horizon: H, steps of a clip.
        discount: γ per step, a number.
        temperature: τ of the follower, a number, in units of reward.
        scale: deviation of the entries of x that `start` draws.

    Raises:
        InputError: shapes disagree.
    """
    P, B, truth = (jnp.asarray(table, float) for table in (transition, features, true_reward))
    if B.ndim != 3 or P.shape[:2] != B.shape[:2] or truth.shape != B.shape[:2]:
        raise InputError(
            f"transition {P.shape}, features {B.shape}, true_reward {truth.shape}: "
            "give (S, A, S), (S, A, n) and (S, A)"
        )
    world = MDP(P, jnp.asarray(initial, float), discount)

    def target(states: Array, actions: Array) -> Array:
        returns = truth[states, actions].sum(axis=1)
        return jax.nn.sigmoid(returns[0] - returns[1])

    def outcomes(x: Array, policy: Array) -> dict[str, Array]:
        visits = state_action_occupancy(world, policy)
        share = visits / jnp.sum(visits)
        spread = [table - jnp.sum(share * table) for table in (truth, B @ x)]
        products = [jnp.sum(share * a * b) for a, b in ((spread[0],) * 2, (spread[1],) * 2, spread)]
        return {
            "true return": jnp.sum(visits * truth),
            "correlation of rewards": products[2] / jnp.sqrt(products[0] * products[1]),
        }

    return Task(
        name="preference",
        title="learn a reward from comparisons of clips that move with it",
        problem=BilevelProblem(world, lambda x: B @ x, PreferenceLoss(horizon, target), temperature),
        start=lambda key: scale * jax.random.normal(key, B.shape[-1:]),
        step_size=0.05,
        steps=300,
        outcomes=outcomes,
    )
