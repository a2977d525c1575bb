"""Robot navigation: place rewards on a map so that a robot takes the way one wants.

The robot pays 0.02 a step and earns 1 at its goal, where it stops; left alone it takes the shortest way,
straight through the hazards marked "!". The leader would have it go by the lane marked "+". It places a
reward x(s) of either sign on every cell but the goal,

    r_x(s,·) = 1 at the goal, else x(s) − 0.02
    r_L(s,·) = 1 at the goal, −0.3 on a hazard, 0 on the lane, else −0.02

and minimises −(its discounted return) + price · cost(x), with cost = ½‖x‖² ("l2") or Σ √(x² + ε²) − ε ("l1":
few cells, smooth within ε = 0.01 of 0).

An instance of incentive design as in Thoma et al., NeurIPS 2024 (arXiv 2406.01575), with rewards for
charges; the map and its numbers are ours.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..mdp import MDP, SparseTransition, state_occupancy
from ..problem import BilevelProblem
from ..upper_losses import LeaderReturn, NetReturn
from ._checks import check_choice, check_not_negative, check_probability
from ._gridworld import GridMap, slip_matrix, sparse_moves
from .task import Grid, Task

MAP = GridMap(
    """
xxxxxxxxxxxxxxxxxxxx
xs......x++++++++++x
x.xxx...x+.xxxx...+x
x.x.....x+.x..x...+x
x.x..xxxx+.x..x...+x
x.x......++x......+x
x.xxxxxx!!!!xxxxx.+x
x.....xx!!!!x...x.+x
x.xxx.xx....x...x.+x
x.x....x..........+x
x.x.xxxx..xxxxx...+x
x......x..x.......+x
xxxxxxxx..x..xxx..+x
x.................gx
xxxxxxxxxxxxxxxxxxxx
"""
)
NORMS = ("l2", "l1")
_EDGE = 0.01


def build(
    *,
    norm: str = "l2",
    price: float = 0.02,
    temperature: float = 0.01,
    discount: float = 0.98,
    noise: float = 0.1,
    scale: float = 0.001,
) -> Task:
    """Robot navigation.

    Its outcomes count visits discounted.

    Args:
        norm: cost of the rewards placed, "l2" or "l1".
        price: of a unit of cost.
        temperature: τ.
        discount: γ of both.
        noise: probability of a slip into one of the three other moves.
        scale: standard deviation of x0.
    """
    check_choice("norm", norm, NORMS)
    check_probability(noise=noise)
    check_not_negative(price=price, scale=scale)
    start, goal = MAP.find("s"), MAP.find("g")
    states, last = len(MAP.cells), MAP.index[goal]
    to, weight = sparse_moves(MAP, slip_matrix(noise), (goal,))
    world = MDP(SparseTransition(to, jnp.asarray(weight, float)), np.eye(states)[MAP.index[start]], discount)
    hazard, lane = jnp.asarray(MAP.letters == "!"), jnp.asarray(MAP.letters == "+")
    at_goal = jnp.zeros(states, bool).at[last].set(True)
    wanted = jnp.where(hazard, -0.3, jnp.where(at_goal, 1.0, jnp.where(lane, 0.0, -0.02)))

    def placed(x: Array) -> Array:
        return jnp.where(at_goal, 0.0, x)

    def cost(x: Array) -> Array:
        if norm == "l2":
            return 0.5 * jnp.sum(x**2)
        return jnp.sum(jnp.sqrt(x**2 + _EDGE**2) - _EDGE)

    def for_all_moves(values: Array) -> Array:
        return jnp.broadcast_to(values[:, None], (states, 4))

    earned = LeaderReturn(world, lambda x: for_all_moves(wanted))

    def outcomes(x: Array, policy: Array) -> dict[str, Array]:
        visits = state_occupancy(world, policy)
        return {
            "leader return": -earned(x, policy),
            "visits of hazards": jnp.sum(jnp.where(hazard, visits, 0.0)),
            "visits of the lane": jnp.sum(jnp.where(lane, visits, 0.0)),
            "visits of the goal": visits[last],
            "cost": cost(x),
        }

    return Task(
        name="navigation",
        title="place rewards on a map so that a robot keeps clear of hazards on its way",
        problem=BilevelProblem(
            world,
            lambda x: for_all_moves(jnp.where(at_goal, 1.0, placed(x) - 0.02)),
            NetReturn(earned, lambda x: price * cost(x)),
            temperature,
        ),
        start=lambda key: scale * jax.random.normal(key, (states,)),
        step_size=0.002,
        steps=500,
        outcomes=outcomes,
        grid=Grid(MAP.shape, MAP.cells, marks={"start": start, "goal": goal}),
        payment=placed,
    )
