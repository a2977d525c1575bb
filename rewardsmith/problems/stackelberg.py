"""A Stackelberg Markov game on a random world: the leader commits to how it acts, the follower answers.

In state s the leader plays b with probability μ_x(b|s) = softmax(x_s)_b, the follower a; they earn r_L(s,b,a)
and r_F(s,b,a). The follower sees the commitment, hence the MDP

    r_x(s,a) = Σ_b μ_x(b|s) r_F(s,b,a),      P_x(t|s,a) = Σ_b μ_x(b|s) P(t|s,b,a)

    φ(x) = −E[Σ_h γ^h r_L] + ½ · ridge · ‖x‖²

By default the follower alone moves the world (a single-controller game: P does not depend on b).

Source: PBRL, Shen, Yang and Chen, ICML 2024 (arXiv 2402.06886), whose random games have about 100 states.
Departures: rows of P are uniform on the simplex of a few random successors and rewards uniform on [0, 1];
the ridge, which keeps x finite where a pure commitment is best.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..mdp import MDP
from ..problem import BilevelProblem
from ..upper_losses import LeaderReturn
from ._checks import check_not_negative, check_sizes
from .task import Task


def build(
    *,
    states: int = 100,
    actions: int = 5,
    leader_actions: int = 4,
    successors: int = 5,
    discount: float = 0.9,
    temperature: float = 0.1,
    ridge: float = 1e-3,
    moves_world: bool = False,
    scale: float = 0.1,
    seed: int = 0,
) -> Task:
    """A random Stackelberg game.

    Args:
        states: S.
        actions: A, the follower's.
        leader_actions: B.
        successors: states that one state, action and action of the leader can lead to.
        discount: γ of both.
        temperature: τ.
        ridge: of x.
        moves_world: let P depend on the leader's action too.
        scale: standard deviation of x0.
        seed: of P and both rewards.
    """
    check_sizes(states=states, actions=actions, leader_actions=leader_actions, successors=successors)
    check_not_negative(ridge=ridge, scale=scale)
    rng = np.random.default_rng(seed)
    own, other = (jnp.asarray(rng.random((states, leader_actions, actions)), float) for _ in range(2))
    branches = min(successors, states)
    movers = leader_actions if moves_world else 1
    table = np.zeros((states, movers, actions, states))
    for row in table.reshape(-1, states):
        row[rng.choice(states, branches, replace=False)] = rng.dirichlet(np.ones(branches))
    kernel = jnp.asarray(table, float)

    def commitment(x: Array) -> Array:
        return jax.nn.softmax(x, axis=-1)

    def transition(x: Array) -> Array:
        return jnp.einsum("sb,sbat->sat", commitment(x), kernel, precision=jax.lax.Precision.HIGHEST)

    def reward(x: Array) -> Array:
        return jnp.sum(commitment(x)[..., None] * own, axis=1)

    def leader_reward(x: Array) -> Array:
        return jnp.sum(commitment(x)[..., None] * other, axis=1)

    moved = transition if moves_world else None
    world = MDP(kernel.mean(axis=1), np.full(states, 1 / states), discount)
    earned = LeaderReturn(world, leader_reward, transition=moved)
    return Task(
        name="stackelberg",
        title="commit to a mixed action in every state of a random game, before the follower acts",
        problem=BilevelProblem(
            world,
            reward,
            lambda x, policy: earned(x, policy) + 0.5 * ridge * jnp.sum(x**2),
            temperature,
            transition=moved,
        ),
        start=lambda key: scale * jax.random.normal(key, (states, leader_actions)),
        step_size=0.1,
        steps=200,
        outcomes=lambda x, policy: {
            "leader return": -earned(x, policy),
            "purity": jnp.mean(jnp.max(commitment(x), axis=-1)),
        },
    )
