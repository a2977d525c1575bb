"""The Markov decision process without its reward: what the leader's follower lives in."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from .._core import InputError, as_floats, as_numbers, as_whole
from .transition import Transition, expect

# Tables that were saved in float32 and read back in float64 must still pass.
_SUM_TOLERANCE = 1e-5


class MDP(eqx.Module):
    """A Markov decision process with S states and A actions, its reward left open.

    From state s, action a leads to t with probability P[s,a,t]. A terminal state's rows of P are zero:
    its reward is received, then nothing continues. All arrays get one floating dtype, that of
    `transition` (or JAX's default where it holds integers).

    Args:
        transition: P, (S, A, S); rows sum to 1, those of terminal states to 0. Or a `SparseTransition` or
            `SharedTransition`, for worlds too large for that table.
        initial: ρ, (S,), the distribution of the first state.
        discount: γ per step, a number, 0 <= γ < 1.
        terminal: (S,) bool; None takes the states whose rows are all zero.
        contexts: C, worlds of S/C states each that lie one behind another and never meet, as one for each
            of several followers; their linear systems are then solved apart, which is faster.

    The values are checked here, on the host. Under `jit`, `vmap` or `grad` there are none to check and
    only shapes are.

    Raises:
        InputError: a shape, a row, a probability or the discount is wrong; the text says which.

    Examples:
        >>> import rewardsmith as rs
        >>> P = [[[1.0, 0.0], [0.1, 0.9]], [[0.0, 0.0], [0.0, 0.0]]]  # state 1 is terminal
        >>> world = rs.MDP(P, initial=[1.0, 0.0], discount=0.9)
        >>> world.num_states, world.num_actions, world.terminal.tolist()
        (2, 2, [False, True])
    """

    transition: Float[Array, "S A S"] | Transition
    initial: Float[Array, " S"]
    discount: Float[Array, ""]
    terminal: Bool[Array, " S"]
    contexts: int = eqx.field(static=True)

    def __init__(
        self,
        transition: ArrayLike | Sequence[object] | Transition,
        initial: ArrayLike | Sequence[object],
        discount: ArrayLike,
        terminal: ArrayLike | Sequence[object] | None = None,
        *,
        contexts: int = 1,
    ):
        if isinstance(transition, Transition):
            P, table = transition, transition.probabilities
        else:
            table = as_floats("transition", transition)
            if table.ndim != 3 or table.shape[0] != table.shape[2] or table.size == 0:
                raise InputError(f"transition has shape {table.shape}; give it as (states, actions, states)")
            P = table
        states = table.shape[:1]
        rho, gamma = (
            as_numbers("initial", initial, table.dtype),
            as_numbers("discount", discount, table.dtype),
        )
        if rho.shape != states:
            raise InputError(f"initial has shape {rho.shape}; give one probability a state: {states}")
        if gamma.shape != ():
            raise InputError(f"discount has shape {gamma.shape}; give one number, and vmap over several")
        empty = jnp.all(table == 0, axis=(1, 2))
        ends = empty if terminal is None else as_numbers("terminal", terminal)
        if ends.shape != states or ends.dtype != jnp.bool_:
            raise InputError(
                f"terminal is {ends.dtype} of shape {ends.shape}; give bool of shape {states}, or None"
            )
        contexts = as_whole("contexts", contexts)
        if states[0] % contexts:
            raise InputError(f"contexts is {contexts}; give a number that divides {states[0]} states")
        self.transition, self.initial, self.discount, self.terminal = P, rho, gamma, ends
        self.contexts = contexts
        _check_discount(gamma)
        _check_distribution("initial", rho, "initial / initial.sum()")
        _check_transition(table, ends)
        _check_contexts(P, rho, contexts)

    @property
    def num_states(self) -> int:
        """S."""
        return self.terminal.shape[-1]

    @property
    def num_actions(self) -> int:
        """A."""
        if isinstance(self.transition, Transition):
            return self.transition.num_actions
        return self.transition.shape[-2]


def _concrete(value: Array) -> np.ndarray | None:
    return None if isinstance(value, Tracer) else np.asarray(value)


def _check_discount(discount: Array) -> None:
    gamma = _concrete(discount)
    if gamma is not None and not 0 <= gamma < 1:
        raise InputError(
            f"discount is {gamma} (in {gamma.dtype}); give 0 <= discount < 1, "
            "for an undiscounted task something like 0.99"
        )


def _check_distribution(name: str, probabilities: Array, repair: str) -> None:
    p = _concrete(probabilities)
    if p is None:
        return
    if not np.all(np.isfinite(p)) or np.any(p < 0):
        raise InputError(f"{name} has negative, infinite or NaN entries; give probabilities")
    total = p.sum(dtype=np.float64)
    if abs(total - 1) > _SUM_TOLERANCE:
        raise InputError(f"{name} sums to {total:.6g}, not 1; write {repair}")


def _check_transition(transition: Array, terminal: Array) -> None:
    P, ends = _concrete(transition), _concrete(terminal)
    if P is None:
        return
    bad = ~np.isfinite(P) | (P < 0)
    if bad.any():
        s, a, t = np.argwhere(bad)[0]
        raise InputError(f"transition[{s},{a},{t}] is {P[s, a, t]}; give probabilities, finite and >= 0")
    if ends is None:
        return
    sums = P.sum(axis=-1, dtype=np.float64)
    wrong = abs(sums - ~ends[:, None]) > _SUM_TOLERANCE
    if not wrong.any():
        return
    s, a = np.argwhere(wrong)[0]
    if ends[s]:
        raise InputError(
            f"terminal state {s} continues: transition[{s},{a}] sums to {sums[s, a]:.6g}, not 0; "
            "write np.where(terminal[:, None, None], 0, transition)"
        )
    if sums[s, a] == 0:
        raise InputError(
            f"transition[{s},{a}] is empty but state {s} is not terminal; "
            "let the action lead to a terminal state, or empty all its rows"
        )
    raise InputError(
        f"transition[{s},{a}] sums to {sums[s, a]:.6g}, not 1; "
        "divide each row that is not a terminal state's by its sum"
    )


def _check_contexts(transition: Array | Transition, initial: Array, contexts: int) -> None:
    if contexts == 1 or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(transition)):
        return
    # One product with the number of each state's context: within a context it comes out again.
    number = jnp.repeat(jnp.arange(1, contexts + 1, dtype=initial.dtype), len(initial) // contexts)
    away = expect(transition, jnp.ones_like(number)) * number[:, None] - expect(transition, number)
    if float(jnp.max(jnp.abs(away))) > _SUM_TOLERANCE * contexts:
        state = int(np.argmax(np.abs(np.asarray(away)).max(axis=1)))
        raise InputError(
            f"state {state} leads out of its context; order states by context, or leave contexts at 1"
        )
