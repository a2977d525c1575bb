"""The synthetic problem: a quadratic form in many features scales the reward of a random world.

    r_x(s,a) = c(s,a) · xᵀMx,      f(x, π) = ½‖x‖² + ½‖π‖²

The leader wants small features and a policy near uniform. xᵀMx takes both signs, so φ is not convex; its
least value lies at x = 0, where π is uniform and f = S/(2A).

Source: Yang, Gao and Yuan, AISTATS 2025 (arXiv 2405.19697), with c(s,a) = u(s,a)·u(s), u uniform on [0,1],
and M standard normal. Departures: the paper's 10 states, 5 actions and 100 features are options; rows of P
are uniform on the simplex; ρ, which nothing depends on, is uniform.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._core import InputError
from ..mdp import MDP
from ..problem import BilevelProblem
from ._checks import check_sizes
from .task import Task


def build(
    *,
    states: int = 10,
    actions: int = 5,
    features: int = 100,
    discount: float = 0.5,
    temperature: float = 1.0,
    seed: int = 0,
) -> Task:
    """The synthetic problem with random P, c and M.

    Args:
        states: S.
        actions: A.
        features: length of x.
        discount: γ per step, a number.
        temperature: τ.
        seed: of P, c and M.
    """
    check_sizes(states=states, actions=actions, features=features)
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.ones(states), (states, actions))
    coefficients = rng.random((states, actions)) * rng.random((states, 1))
    matrix = rng.normal(size=(features, features))
    return random_mdp_from(P, coefficients, matrix, discount, temperature)


def random_mdp_from(
    transition: ArrayLike,
    coefficients: ArrayLike,
    matrix: ArrayLike,
    discount: ArrayLike,
    temperature: ArrayLike,
) -> Task:
    """The synthetic problem with given tables.

    Args:
        transition: P, (S, A, S).
        coefficients: c, (S, A); the reward is c (xᵀ M x).
        matrix: M, (n, n).
        discount: γ per step, a number.
        temperature: τ of the follower, a number, in units of reward.

    Raises:
        InputError: shapes disagree.
    """
    P = jnp.asarray(transition, float)
    c, M = jnp.asarray(coefficients, float), jnp.asarray(matrix, float)
    if P.shape[:2] != c.shape or M.ndim != 2 or M.shape[0] != M.shape[1]:
        raise InputError(
            f"transition {P.shape}, coefficients {c.shape}, matrix {M.shape}: "
            "give (S, A, S), (S, A) and (features, features)"
        )
    states, features = P.shape[0], M.shape[0]
    problem = BilevelProblem(
        MDP(P, np.full(states, 1 / states), discount),
        reward=lambda x: c * (x @ M @ x),
        upper_loss=lambda x, policy: 0.5 * jnp.sum(x**2) + 0.5 * jnp.sum(policy**2),
        temperature=temperature,
    )
    return Task(
        name="random-mdp",
        title="keep features and policy small where a quadratic form scales the reward of a random world",
        problem=problem,
        start=lambda key: jax.random.normal(key, (features,)),
        step_size=0.05,
        steps=500,
        outcomes=lambda x, policy: {
            "features' norm": jnp.linalg.norm(x),
            "policy's squared norm": jnp.sum(policy**2),
        },
    )
