"""Inverse reinforcement learning: find the reward under which what an expert did was likely.

The expert walks a map of terrains to a goal, which ends the walk, soft-optimally for a reward that is linear
in the terrain of the cell, r(s,·) = ψ(s)·w; its actions are recorded. The leader, who knows ψ and not w, fits

    r_x(s,·) = ψ(s)·x,      f(x, π) = −mean of log π(a|s) over the records + ½ · ridge · ‖x‖²

whose hyper-gradient matches the expected terrain counts of follower and expert.

Sources: Ziebart et al., AAAI 2008; Zeng et al., NeurIPS 2022 (arXiv 2210.01808), the bilevel form.
Departures: the map is ours; τ, γ and P are known to the leader.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..mdp import MDP, q_values, soft_bellman, soft_policy, state_occupancy
from ..problem import BilevelProblem
from ..upper_losses import DemonstrationLoss
from ._checks import check_not_negative, check_probability, check_sizes
from ._gridworld import GridMap, dense_table, slip_matrix, sparse_moves
from .task import Grid, Task

MAP = GridMap(
    """
s.,,,,~~
.,,~~~~~
.,,,~~,.
...,,,,.
xx.xx.,.
,,.,,..~
~~,,,~.~
~~~,,,.g
"""
)
# Terrain -> what a step in it is worth to the expert.
TERRAINS = {".": -0.05, ",": -0.2, "~": -0.6, "g": 1.0}
_SWEEPS = 2000


def build(
    *,
    demonstrations: int = 50,
    length: int = 30,
    temperature: float = 0.1,
    discount: float = 0.95,
    noise: float = 0.1,
    ridge: float = 1e-4,
    scale: float = 0.1,
    seed: int = 0,
) -> Task:
    """Inverse reinforcement learning on a map of terrains.

    Args:
        demonstrations: recorded walks, half from the start and half from anywhere.
        length: steps after which a record ends.
        temperature: τ of expert and follower.
        discount: γ of both.
        noise: probability of a slip into one of the three other moves.
        ridge: of x.
        scale: standard deviation of x0.
        seed: of the records.
    """
    check_sizes(demonstrations=demonstrations, length=length)
    check_probability(noise=noise)
    check_not_negative(ridge=ridge, scale=scale)
    start, goal = MAP.find("s"), MAP.find("g")
    states = len(MAP.cells)
    table = dense_table(*sparse_moves(MAP, slip_matrix(noise), (goal,)))
    first = 0.5 * np.eye(states)[MAP.index[start]] + 0.5 / states
    world = MDP(table, first, discount)
    # The start lies on a road.
    terrain = np.where(MAP.letters == "s", ".", MAP.letters)
    features = jnp.asarray(terrain[:, None] == np.array(list(TERRAINS)), float)

    def reward(x: Array) -> Array:
        return jnp.broadcast_to((features @ x)[:, None], (states, 4))

    true_weights = jnp.asarray(list(TERRAINS.values()), float)
    expert = _soft_optimal(world, reward(true_weights), temperature)
    counts = _record(np.random.default_rng(seed), table, first, np.asarray(expert), demonstrations, length)
    likelihood = DemonstrationLoss(counts)
    visits = state_occupancy(world, expert)

    def outcomes(x: Array, policy: Array) -> dict[str, Array]:
        ratio = jnp.log(expert) - jnp.log(policy)
        return {
            "divergence from expert": jnp.sum(visits * jnp.sum(expert * ratio, axis=1)) / jnp.sum(visits),
            "log-likelihood": -likelihood(x, policy),
            "expert's log-likelihood": -likelihood(x, expert),
        }

    return Task(
        name="inverse-rl",
        title="find the reward of terrains under which an expert's walks were likely",
        problem=BilevelProblem(
            world,
            reward,
            lambda x, policy: likelihood(x, policy) + 0.5 * ridge * jnp.sum(x**2),
            temperature,
        ),
        start=lambda key: scale * jax.random.normal(key, (len(TERRAINS),)),
        step_size=0.02,
        steps=300,
        outcomes=outcomes,
        grid=Grid(MAP.shape, MAP.cells, marks={"start": start, "goal": goal}),
        payment=lambda x: features @ x,
    )


@jax.jit
def _soft_optimal(world: MDP, reward: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """By sweeps, enough for γ = 0.98 and fifteen digits."""
    zeros = jnp.zeros(reward.shape[0], reward.dtype)
    values = jax.lax.fori_loop(0, _SWEEPS, lambda _, v: soft_bellman(world, reward, temperature, v), zeros)
    return soft_policy(q_values(world, reward, values), temperature)


def _record(
    rng: np.random.Generator,
    table: np.ndarray,
    first: np.ndarray,
    policy: np.ndarray,
    walks: int,
    length: int,
) -> np.ndarray:
    """How often each action was taken in each state, (S, A), the goal's left out."""
    counts = np.zeros(policy.shape)
    ends = table.sum(axis=(1, 2)) == 0
    for _ in range(walks):
        state = rng.choice(len(first), p=first)
        for _ in range(length):
            if ends[state]:
                break
            action = rng.choice(policy.shape[1], p=policy[state] / policy[state].sum())
            counts[state, action] += 1
            state = rng.choice(len(first), p=table[state, action])
    return counts
