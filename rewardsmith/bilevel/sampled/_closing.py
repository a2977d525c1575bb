"""A world that ends, as one that goes on for ever: clips of a fixed length can then be drawn from it."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ..._core import InputError
from ...mdp import MDP, Shannon, SharedTransition, SparseTransition, Transition
from ...problem import BilevelProblem
from ...upper_losses import LeaderReturn, NetReturn


def ends(world: MDP) -> bool:
    """Whether a state of the world is terminal; False where `jit` hides it."""
    return not isinstance(world.terminal, Tracer) and bool(np.asarray(world.terminal).any())


def close_ends(problem: BilevelProblem[MDP]) -> BilevelProblem[MDP]:
    """The same problem in a world with one more state, which takes the place of the end.

    Every action in a terminal state leads to it, and it to itself. It pays the leader 0 and the follower
    −τ log A a step, which is what the entropy of wandering there is worth: V = 0 as after an end, so that V,
    π, φ and ∇φ are those of the given problem. Holds at the τ that the problem has now.

    Raises:
        InputError: another regulariser than `Shannon`, an upper loss other than `LeaderReturn` or
            `NetReturn`, or a leader that counts in another world than the follower's.
    """
    if not ends(problem.world):
        return problem
    if not isinstance(problem.regulariser, Shannon):
        raise InputError(
            "only under Shannon() is the worth of an absorbing state known; leave the regulariser out"
        )
    loss = problem.upper_loss
    if not isinstance(loss, LeaderReturn | NetReturn):
        raise InputError("only a LeaderReturn or a NetReturn can be carried past an end; give one of them")
    earned = loss.earned if isinstance(loss, NetReturn) else loss
    if not ends(earned.world) or not np.array_equal(earned.world.terminal, problem.world.terminal):
        raise InputError("the leader counts in a world that ends elsewhere; give LeaderReturn the same world")
    world = _closed(problem.world)
    closed = LeaderReturn(
        _closed(earned.world),
        _with_row(earned.reward, jnp.zeros(())),
        earned.discount,
        tolerance=earned.tolerance,
    )
    wandering = -problem.tau * jnp.log(float(world.num_actions))
    return BilevelProblem(
        world,
        _with_row(problem.reward, wandering),
        NetReturn(closed, loss.cost) if isinstance(loss, NetReturn) else closed,
        problem.tau,
    )


def _with_row(table: Callable[[Any], Array], value: Float[Array, ""]) -> Callable[[Any], Array]:
    def longer(x: Any) -> Float[Array, "S A"]:
        rows = table(x)
        return jnp.concatenate([rows, jnp.full((1, rows.shape[1]), value, rows.dtype)])

    return longer


def _closed(world: MDP) -> MDP:
    P, initial = world.transition, jnp.append(world.initial, 0.0)
    terminal = np.append(np.asarray(world.terminal), True)
    last = world.num_states
    if isinstance(P, SparseTransition):
        shape = ((0, 1), (0, 0), (0, 0))
        successors = jnp.pad(P.successors, shape).at[terminal].set(last)
        weights = jnp.pad(P.weights, shape).at[terminal, :, 0].set(1.0)
        longer: Any = SparseTransition(successors, weights)
    elif isinstance(P, SharedTransition):
        longer = SharedTransition(_closed_table(P.kernel, terminal), P.group)
    elif isinstance(P, Transition):
        raise InputError(f"no way to close a {type(P).__name__}; give the table P, (states, actions, states)")
    else:
        longer = _closed_table(P, terminal)
    return MDP(longer, initial, world.discount)


def _closed_table(table: Float[Array, "S G S"], terminal: np.ndarray) -> Float[Array, "S1 G S1"]:
    return jnp.pad(table, ((0, 1), (0, 0), (0, 1))).at[terminal, :, -1].set(1.0)
