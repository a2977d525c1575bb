"""Four-Rooms incentive design: charge a walker for cells, so that it passes by a cell of the leader's.

Two followers, each with probability ½, walk from (4,1) to goals of their own, (1,9) and (11,11), which end
the walk and are worth 1. The leader shares out at most 0.2 of charges over the cells, the same for both
followers, and none on the goal itself:

    r_x(s,·) = 1 at the goal, else −0.2 softmax(x)_s,      x ∈ R^(cells + 1), the spare takes unused mass
    r_L(s,·) = 1 in cell (8,4), −penalty · Σ_s |charge(s)| at the goal, both discounted at γ = 0.99

and maximises F, the mean over followers of its discounted return; φ = −F.

Two kernels of the same noise: "other-move", in which a slip makes one of the three other moves, is what the
published code plans and evaluates with; "uniform-move", in which it makes any of the four, is what it samples
its trajectories with. Whichever is chosen serves for all here.

Source: HPGD, Thoma et al., NeurIPS 2024 (arXiv 2406.01575), whose tables are for temperatures 0.001, 0.003
and 0.005 and penalties 1, 3 and 5; BC-HG, Kudo et al., ICAPS 2026 (arXiv 2603.14867). Departures: episodes
have no time limit; the two followers live in one world, a copy of the map each, so that F is exact at every
step where the source draws one of them.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..mdp import MDP, SparseTransition
from ..problem import BilevelProblem
from ..upper_losses import LeaderReturn
from ._checks import check_choice, check_not_negative, check_probability
from ._gridworld import KERNELS, OTHER_MOVE, GridMap, dense_table, slip_matrix, sparse_moves
from .task import Grid, Task

MAP = GridMap(
    """
xxxxxxxxxxxxx
x     x     x
x     x     x
x           x
x     x     x
x     x     x
xx xxxx     x
x     xxx xxx
x     x     x
x     x     x
x           x
x     x     x
xxxxxxxxxxxxx
"""
)
START, TARGET, GOALS = (4, 1), (8, 4), ((1, 9), (11, 11))
_BUDGET = 0.2


def build(
    *,
    temperature: float = 0.005,
    penalty: float = 1.0,
    noise: float = 0.44,
    kernel: str = OTHER_MOVE,
    scale: float = 1.0,
    sparse: bool = False,
) -> Task:
    """Four-Rooms.

    Args:
        temperature: τ.
        penalty: c, what a unit of charges costs the leader whenever a goal is reached.
        noise: probability of a slip.
        kernel: "other-move" or "uniform-move".
        scale: standard deviation of x0, source: 1 or 0.01.
        sparse: four successors a state and action instead of a table (S, A, S).
    """
    check_choice("kernel", kernel, KERNELS)
    check_probability(noise=noise)
    check_not_negative(penalty=penalty, scale=scale)
    cells, copies = len(MAP.cells), len(GOALS)
    states = cells * copies
    goal = np.array([c * cells + MAP.index[cell] for c, cell in enumerate(GOALS)])
    moves = [sparse_moves(MAP, slip_matrix(noise, kernel), (cell,)) for cell in GOALS]
    to = np.concatenate([c * cells + successors for c, (successors, _) in enumerate(moves)])
    weight = np.concatenate([weights for _, weights in moves])
    start = np.zeros(states)
    start[np.arange(copies) * cells + MAP.index[START]] = 1 / copies
    P = SparseTransition(to, jnp.asarray(weight, float)) if sparse else dense_table(to, weight)
    world = MDP(P, start, 0.99, contexts=copies)

    at_goal = jnp.zeros(states, bool).at[goal].set(True)
    at_target = jnp.zeros(states, bool).at[np.arange(copies) * cells + MAP.index[TARGET]].set(True)

    shares = _Shares(at_goal, copies)
    leader_reward = _LeaderReward(shares, at_target, jnp.asarray(penalty, float))

    loss = LeaderReturn(world, leader_reward)
    return Task(
        name="four-rooms",
        title="charge two walkers for cells of a map, so that they pass a cell of the leader's",
        problem=BilevelProblem(
            world, lambda x: _for_all_moves(jnp.where(at_goal, 1.0, shares(x))), loss, temperature
        ),
        start=lambda key: scale * jax.random.normal(key, (cells + 1,)),
        step_size=0.1,
        steps=500,
        outcomes=lambda x, policy: {
            "leader return": -loss(x, policy),
            "incentive": jnp.mean(shares.spent(x)),
        },
        grid=Grid(
            MAP.shape,
            MAP.cells,
            tuple(f"goal {goal}" for goal in GOALS),
            {"start": START, "target": TARGET, "goal 1": GOALS[0], "goal 2": GOALS[1]},
        ),
        payment=shares,
        ease=_ease,
    )


class _Shares(eqx.Module):
    """x -> the charge in each state."""

    at_goal: Array
    copies: int = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        charge = -_BUDGET * jax.nn.softmax(x)[: len(self.at_goal) // self.copies]
        return jnp.where(self.at_goal, 0.0, jnp.tile(charge, self.copies))

    def spent(self, x: Array) -> Array:
        """Σ |charge| of each follower, (copies,)."""
        return jnp.abs(self(x)).reshape(self.copies, -1).sum(axis=1)


class _LeaderReward(eqx.Module):
    """r_L, with its penalty as an array, which a search may ease in."""

    shares: _Shares
    at_target: Array
    penalty: Array

    def __call__(self, x: Array) -> Array:
        bill = jnp.repeat(self.penalty * self.shares.spent(x), len(self.at_target) // self.shares.copies)
        paid = jnp.where(self.shares.at_goal, bill, 0.0)
        return _for_all_moves(jnp.where(self.at_target, 1.0, 0.0) - paid)


def _ease(problem: BilevelProblem[MDP], t: Array) -> BilevelProblem[MDP]:
    return eqx.tree_at(lambda p: p.upper_loss.reward.penalty, problem, replace_fn=lambda c: c * t)


def _for_all_moves(table: Array) -> Array:
    return jnp.broadcast_to(table[:, None], (*table.shape, 4))
