"""The Markov decision process without its reward: what the leader's follower lives in."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from .._core import InputError

# Tables that were saved in float32 and read back in float64 must still pass.
_SUM_TOLERANCE = 1e-5


class MDP(eqx.Module):
    """A Markov decision process with S states and A actions, dense, its reward left open.

    From state s, action a leads to t with probability P[s,a,t]. A terminal state's rows of P are zero:
    its reward is received, then nothing continues. All arrays get one floating dtype, that of
    `transition` (or JAX's default where it holds integers).

    Args:
        transition: P, (S, A, S); rows sum to 1, those of terminal states to 0.
        initial: ρ, (S,), the distribution of the first state.
        discount: γ per step, 0 <= γ < 1.
        terminal: (S,) bool; None takes the states whose rows are all zero.

    The values are checked here, on the host. Under `jit`, `vmap` or `grad` there are none to check and
    only shapes are.

    Raises:
        InputError: a shape, a row, a probability or the discount is wrong; the text says which.
    """

    transition: Float[Array, "S A S"]
    initial: Float[Array, " S"]
    discount: Float[Array, ""]
    terminal: Bool[Array, " S"]

    def __init__(
        self,
        transition: ArrayLike | Sequence,
        initial: ArrayLike | Sequence,
        discount: ArrayLike,
        terminal: ArrayLike | Sequence | None = None,
    ):
        P = jnp.asarray(transition)
        if not jnp.issubdtype(P.dtype, jnp.floating):
            P = P.astype(float)
        rho, gamma = jnp.asarray(initial, P.dtype), jnp.asarray(discount, P.dtype)
        if P.ndim != 3 or P.shape[0] != P.shape[2] or P.size == 0:
            raise InputError(f"transition has shape {P.shape}; give it as (states, actions, states)")
        if rho.shape != P.shape[:1]:
            raise InputError(f"initial has shape {rho.shape}; give one probability a state: {P.shape[:1]}")
        if gamma.shape != ():
            raise InputError(f"discount has shape {gamma.shape}; give one number, and vmap over several")
        empty = jnp.all(P == 0, axis=(1, 2))
        ends = empty if terminal is None else jnp.asarray(terminal)
        if ends.shape != P.shape[:1] or ends.dtype != jnp.bool_:
            raise InputError(
                f"terminal is {ends.dtype} of shape {ends.shape}; give bool of shape {P.shape[:1]}, or None"
            )
        self.transition, self.initial, self.discount, self.terminal = P, rho, gamma, ends
        _check_discount(gamma)
        _check_distribution("initial", rho, "initial / initial.sum()")
        _check_transition(P, ends)

    @property
    def num_states(self) -> int:
        """S."""
        return self.transition.shape[-1]

    @property
    def num_actions(self) -> int:
        """A."""
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
