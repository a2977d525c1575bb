"""The advantage of a tabular world as a function of x: what clips are judged by where regret is the model."""

from collections.abc import Callable

from jaxtyping import Array, Float, PyTree

from ..follower import solve_follower
from ..mdp import MDP, Regulariser


def table_advantage(
    world: MDP,
    reward: Callable[[PyTree], Array],
    temperature: float | Array,
    *,
    regulariser: Regulariser | None = None,
    tolerance: float = 1e-12,
) -> Callable[[PyTree, Array, Array], Float[Array, "1"]]:
    """(x, s, a) -> A_x(s, a) = Q_x(s, a) − V_x(s), differentiable in x: `members` of a `PreferenceLoss`.

        loss = PreferenceLoss(H, target, members=table_advantage(world, reward, tau), model=Regret())

    The follower is solved for it once more, and differentiated implicitly, so that gradients of the loss have
    the share in them that values have. Arguments are those of the problem and of `solve_follower`.
    """

    def advantage(x: PyTree, state: Array, action: Array) -> Float[Array, "1"]:
        answer = solve_follower(
            world, reward(x), temperature, regulariser=regulariser, tolerance=tolerance, throw=False
        )
        return (answer.q_values[state, action] - answer.values[state])[None]

    return advantage
