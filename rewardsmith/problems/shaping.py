"""Reward shaping: how much to trust a given shaping function, state by state.

A walker is to find a goal, worth 1, at the far end of two rooms. At its temperature it would rather wander:
the bonus on entropy outweighs a reward so far away. The leader weighs a shaping function F it was given,

    r_x(s,a) = 1{s is the goal} + z_x(s) F(s,a)

and maximises the return that the walker's best answer earns of the goal alone; φ = −return. x gives one
weight for each of the two rooms, for each state, or one for all. F is

    "helpful"     1 for moves towards the goal, −1 for moves away, 0 for bumping into a wall
    "misleading"  the opposite
    "useless"     noise, uniform on [−1, 1]; weights by state can still pick from it, a single one cannot
    "mixed"       helpful in the first room and the door, misleading in the second: no single weight serves

Weights by state hold a trap: where they differ between neighbours, walking to and fro earns more than the
goal that would end it, and gradient methods settle there (return 0.14, with one weight a room 0.53).

Source: BiPaRS, Hu et al., NeurIPS 2020 (arXiv 2011.02669). Departures: a grid world, solved exactly, in place
of CartPole and MuJoCo; a table in place of a weight network; "mixed" is ours: in the source's tasks one
constant weight could have served.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..mdp import MDP
from ..problem import BilevelProblem
from ..upper_losses import LeaderReturn
from ._checks import check_choice, check_not_negative, check_probability
from ._gridworld import GridMap, dense_table, slip_matrix, sparse_moves
from .task import Grid, Task

MAP = GridMap(
    """
xxxxxxxxxxxxx
x     x     x
x     x     x
xs         gx
x     x     x
x     x     x
xxxxxxxxxxxxx
"""
)
DOOR = (3, 6)
KINDS = ("helpful", "useless", "misleading", "mixed")
WEIGHTS = ("per-room", "per-state", "constant")


def build(
    *,
    kind: str = "mixed",
    weight: str = "per-room",
    temperature: float = 0.1,
    discount: float = 0.95,
    noise: float = 0.1,
    scale: float = 0.1,
    seed: int = 0,
) -> Task:
    """Reward shaping on a sparse grid world.

    Args:
        kind: of shaping, "helpful", "useless", "misleading" or "mixed".
        weight: "per-room", x (2,), "per-state", x (S,), or "constant", x (1,).
        temperature: τ.
        discount: γ.
        noise: probability of a slip into one of the three other moves.
        scale: standard deviation of x0.
        seed: of the useless shaping.
    """
    check_choice("kind", kind, KINDS)
    check_choice("weight", weight, WEIGHTS)
    check_probability(noise=noise)
    check_not_negative(scale=scale)
    start, goal = MAP.find("s"), MAP.find("g")
    states = len(MAP.cells)
    P = dense_table(*sparse_moves(MAP, slip_matrix(noise), (goal,)))
    world = MDP(P, np.eye(states)[MAP.index[start]], discount)
    F = jnp.asarray(shaping_function(kind, seed), float)
    sparse = jnp.zeros((states, 4)).at[MAP.index[goal]].set(1.0)
    loss = LeaderReturn(world, lambda x: sparse)

    index = {"per-room": second_room().astype(int), "per-state": np.arange(states)}
    place = index.get(weight, np.zeros(states, int))

    def weights(x: Array) -> Array:
        return x[place]

    return Task(
        name="shaping",
        title="weigh a shaping function of unknown worth so that a walker finds a far goal",
        problem=BilevelProblem(world, lambda x: sparse + weights(x)[:, None] * F, loss, temperature),
        start=lambda key: scale * jax.random.normal(key, (place.max() + 1,)),
        step_size=0.05,
        steps=500,
        outcomes=lambda x, policy: {
            "true return": -loss(x, policy),
            "mean weight": jnp.mean(weights(x)),
        },
        grid=Grid(MAP.shape, MAP.cells, marks={"start": start, "goal": goal}),
        payment=weights,
    )


def shaping_function(kind: str, seed: int = 0) -> np.ndarray:
    """F, (S, 4), of the kind; zero at the goal."""
    goal = MAP.find("g")
    far = MAP.distances(goal)
    helpful = (far[:, None] - far[MAP.successors]).astype(float)
    if kind == "useless":
        table = np.random.default_rng(seed).uniform(-1, 1, helpful.shape)
    elif kind == "misleading":
        table = -helpful
    elif kind == "mixed":
        table = np.where(second_room()[:, None], -helpful, helpful)
    else:
        table = helpful
    table[MAP.index[goal]] = 0
    return table


def second_room() -> np.ndarray:
    """Which cells lie behind the door, (S,)."""
    return np.array([column > DOOR[1] for _, column in MAP.cells])
