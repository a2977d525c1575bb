"""Iterations for systems I − γP^π too large for a table, that end well whatever the matrix.

Library solvers of this kind throw their iterate away when they break down, and judge by relative entries that
an occupancy, most of it near zero, never satisfies. Here the best iterate is kept and swept on.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Product = Callable[[Float[Array, " S"]], Float[Array, " S"]]

_KRYLOV_STEPS = 300
# Values, what is missing of them, the least of its size so far, sweeps since, products.
_Sweep = tuple[Float[Array, " S"], Float[Array, " S"], Float[Array, ""], Int[Array, ""], Int[Array, ""]]
# A sweep gains a factor γ in the long run; so many in a row without gain mean that rounding allows no more.
_PATIENCE = 200


class _BiCGStab(NamedTuple):
    x: Float[Array, " S"]
    r: Float[Array, " S"]
    p: Float[Array, " S"]
    v: Float[Array, " S"]
    rho: Float[Array, ""]
    alpha: Float[Array, ""]
    omega: Float[Array, ""]
    best: Float[Array, " S"]
    best_gap: Float[Array, ""]
    step: Int[Array, ""]
    sound: Bool[Array, ""]


def bicgstab(
    matvec: Product, right: Float[Array, " S"], tolerance: Float[Array, ""]
) -> tuple[Float[Array, " S"], Int[Array, ""]]:
    """The best iterate of BiCGStab from 0, and how many products it took.

    Ends when the largest residual is within `tolerance`, or at a breakdown.

    Source: van der Vorst, SIAM J. Sci. Stat. Comput. 13, 1992.
    """

    # The usual shadow, `right` itself, fails on the commonest case: a uniform start is a left eigenvector.
    shadow = jax.random.normal(jax.random.key(0), right.shape, right.dtype)

    def goes_on(s: _BiCGStab) -> Bool[Array, ""]:
        return (s.best_gap > tolerance) & (s.step < _KRYLOV_STEPS) & s.sound

    def step(s: _BiCGStab) -> _BiCGStab:
        rho = jnp.vdot(shadow, s.r)
        p = s.r + (rho / s.rho) * (s.alpha / s.omega) * (s.p - s.omega * s.v)
        v = matvec(p)
        alpha = rho / jnp.vdot(shadow, v)
        half = s.r - alpha * v
        t = matvec(half)
        omega = jnp.vdot(t, half) / jnp.vdot(t, t)
        x = s.x + alpha * p + omega * half
        r = half - omega * t
        gap = jnp.max(jnp.abs(r))
        # A zero denominator is a breakdown. The largest entry does not tell: a CPU's maximum may drop NaN.
        sound = jnp.isfinite(jnp.vdot(r, r)) & (omega != 0) & (rho != 0)
        better = sound & (gap < s.best_gap)
        best = jnp.where(better, x, s.best)
        best_gap = jnp.where(better, gap, s.best_gap)
        return _BiCGStab(x, r, p, v, rho, alpha, omega, best, best_gap, s.step + 1, sound)

    zero, one = jnp.zeros_like(right), jnp.ones((), right.dtype)
    none, gap = jnp.zeros((), jnp.int32), jnp.max(jnp.abs(right))
    first = _BiCGStab(zero, right, zero, zero, one, one, one, zero, gap, none, one > 0)
    last = jax.lax.while_loop(goes_on, step, first)
    return last.best, 2 * last.step


def sweep(
    matvec: Product, right: Float[Array, " S"], start: Float[Array, " S"], tolerance: Float[Array, ""]
) -> tuple[Float[Array, " S"], Int[Array, ""]]:
    """v ← v + (right − matvec v) from `start`, and how many products; cannot fail while γ < 1.

    Ends when the largest residual is within `tolerance`, or when it has not fallen for long.
    """

    def goes_on(state: _Sweep) -> Bool[Array, ""]:
        _, gap, _, since, _ = state
        return (jnp.max(jnp.abs(gap)) > tolerance) & (since < _PATIENCE)

    def body(state: _Sweep) -> _Sweep:
        values, gap, best, since, count = state
        values = values + gap
        gap = right - matvec(values)
        size = jnp.max(jnp.abs(gap))
        return values, gap, jnp.minimum(best, size), jnp.where(size < best, 0, since + 1), count + 1

    gap, zero = right - matvec(start), jnp.zeros((), jnp.int32)
    values, _, _, _, count = jax.lax.while_loop(
        goes_on, body, (start, gap, jnp.max(jnp.abs(gap)), zero, zero + 1)
    )
    return values, count
