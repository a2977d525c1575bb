"""What implicit and unrolled differentiation need of a lower level: a contraction y = Φ(x, y) and f(x, y)."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._core import InputError, as_numbers
from ..follower import solve_follower
from ..mdp import MDP, q_values, soft_bellman, soft_policy, solve_policy
from ..problem import BilevelProblem
from .enumeration import as_loss, exact_upper_loss


class Answer(NamedTuple):
    """A lower-level point, max|Φ(y) − y| there, and what it cost."""

    y: PyTree
    residual: Float[Array, ""]
    sweeps: Int[Array, ""]
    linear_iterations: Int[Array, ""]


class LowerLevel(eqx.Module):
    """y = Φ(x, y), a contraction in y, below f(x, y). Abstract."""

    @abc.abstractmethod
    def start(self) -> PyTree:
        """y to begin with."""

    @abc.abstractmethod
    def sweep(self, x: PyTree, y: PyTree) -> PyTree:
        """Φ(x, y)."""

    @abc.abstractmethod
    def upper(self, x: PyTree, y: PyTree) -> Float[Array, ""]:
        """f(x, y)."""

    @abc.abstractmethod
    def solve(self, x: PyTree, y: PyTree, tolerance: float) -> Answer:
        """The fixed point for x, from y; not differentiable."""

    @abc.abstractmethod
    def solve_adjoint(
        self, x: PyTree, y: PyTree, target: PyTree, tolerance: float
    ) -> tuple[PyTree, Int[Array, ""]]:
        """w with (I − ∂Φ/∂y)ᵀ w = target, and the products it took."""

    def iterate(self, x: PyTree, y: PyTree, sweeps: int) -> PyTree:
        """y after `sweeps` of Φ; differentiable by unrolling.

        Args:
            x: the leader's parameters.
            y: where to begin.
            sweeps: how often Φ is applied.
        """
        return jax.lax.scan(lambda held, _: (self.sweep(x, held), None), y, None, length=sweeps)[0]

    def residual(self, x: PyTree, y: PyTree) -> Float[Array, ""]:
        """max|Φ(x, y) − y|."""
        gaps = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), self.sweep(x, y), y)
        return jnp.max(jnp.stack(jax.tree.leaves(gaps)))


class TabularLevel(LowerLevel):
    """A follower on a table: y is V (S,), Φ a soft Bellman sweep, f(x, V) the upper loss at V's policy."""

    problem: BilevelProblem[MDP]

    def start(self) -> Float[Array, " S"]:
        """See `LowerLevel.start`."""
        world = self.problem.world
        return jnp.zeros(world.num_states, world.initial.dtype)

    def sweep(self, x: PyTree, y: PyTree) -> PyTree:
        """See `LowerLevel.sweep`."""
        p = self.problem
        return soft_bellman(p.world_at(x), p.reward(x), p.tau, y, p.regulariser)

    def policy(self, x: PyTree, y: Float[Array, " S"]) -> Float[Array, "S A"]:
        """π(x, V), soft-optimal one step ahead."""
        p = self.problem
        return soft_policy(q_values(p.world_at(x), p.reward(x), y), p.tau, p.regulariser)

    def upper(self, x: PyTree, y: PyTree) -> Float[Array, ""]:
        """See `LowerLevel.upper`."""
        return exact_upper_loss(self.problem, x, self.policy(x, y))

    def solve(self, x: PyTree, y: PyTree, tolerance: float) -> Answer:
        """See `LowerLevel.solve`; by soft policy iteration."""
        p = self.problem
        answer = solve_follower(
            p.world_at(x),
            p.reward(x),
            p.tau,
            regulariser=p.regulariser,
            initial_values=y,
            tolerance=tolerance,
            throw=False,
        )
        # T was applied once more to see the residual.
        return Answer(answer.values, answer.residual, answer.steps + 1, answer.linear_iterations)

    def solve_adjoint(
        self, x: PyTree, y: PyTree, target: PyTree, tolerance: float
    ) -> tuple[PyTree, Int[Array, ""]]:
        """See `LowerLevel.solve_adjoint`."""
        world, policy = self.problem.world_at(x), self.policy(x, y)
        return solve_policy(world, policy, target, transposed=True, tolerance=tolerance)


class FixedPointProblem(LowerLevel):
    """Any bilevel problem whose lower level is a contraction: min over x of f(x, y) with y = Φ(x, y).

    For lower levels that are no Markov decision process: Φ may be a step of gradient descent on a strongly
    convex training loss. `ImplicitGradient` and `UnrolledGradient` take it in place of a `BilevelProblem`.

    Args:
        fixed_point: Φ as (x, y) -> y.
        upper_loss: f as (x, y) -> scalar.
        initial: y to begin with, any pytree of floating-point arrays.
        max_sweeps: of Φ, at most, in one solve; as many products in one adjoint solve.

    Raises:
        InputError: Φ gives another shape than it is given, or f no scalar; seen at the first solve.
    """

    fixed_point: Callable[[Any, Any], Any]
    upper_loss: Callable[[Any, Any], Array]
    initial: PyTree
    max_sweeps: int = eqx.field(default=10_000, static=True)

    def start(self) -> PyTree:
        """See `LowerLevel.start`."""
        return jax.tree.map(lambda leaf: as_numbers("initial", leaf, float), self.initial)

    def sweep(self, x: PyTree, y: PyTree) -> PyTree:
        """See `LowerLevel.sweep`."""
        moved = self.fixed_point(x, y)
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (y, moved)]
        if jax.tree.structure(y) != jax.tree.structure(moved) or shapes[0] != shapes[1]:
            raise InputError(f"fixed_point returned shapes {shapes[1]} for y of {shapes[0]}; return a new y")
        return moved

    def upper(self, x: PyTree, y: PyTree) -> Float[Array, ""]:
        """See `LowerLevel.upper`."""
        return as_loss(self.upper_loss(x, y), jax.tree.leaves(y)[0])

    def solve(self, x: PyTree, y: PyTree, tolerance: float) -> Answer:
        """See `LowerLevel.solve`; by sweeping."""

        def unsolved(state: tuple[PyTree, Array, Array]) -> Array:
            _, residual, count = state
            return (residual > tolerance) & (count < self.max_sweeps)

        def body(state: tuple[PyTree, Array, Array]) -> tuple[PyTree, Array, Array]:
            y, _, count = state
            moved = self.sweep(x, y)
            gaps = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), moved, y)
            return moved, jnp.max(jnp.stack(jax.tree.leaves(gaps))), count + 1

        first = self.residual(x, y)
        zero = jnp.zeros((), jnp.int32)
        y, residual, sweeps = jax.lax.while_loop(unsolved, body, (y, first, zero))
        return Answer(y, residual, sweeps + 1, zero)

    def solve_adjoint(
        self, x: PyTree, y: PyTree, target: PyTree, tolerance: float
    ) -> tuple[PyTree, Int[Array, ""]]:
        """See `LowerLevel.solve_adjoint`; w ← target + (∂Φ/∂y)ᵀ w, which contracts as Φ does."""
        _, pull = jax.vjp(lambda held: self.sweep(x, held), y)

        def unsolved(state: tuple[PyTree, PyTree, Array]) -> Array:
            _, term, count = state
            return (_largest(term) > tolerance * _largest(target)) & (count < self.max_sweeps)

        def body(state: tuple[PyTree, PyTree, Array]) -> tuple[PyTree, PyTree, Array]:
            w, term, count = state
            term = pull(term)[0]
            return jax.tree.map(jnp.add, w, term), term, count + 1

        w, _, count = jax.lax.while_loop(unsolved, body, (target, target, jnp.zeros((), jnp.int32)))
        return w, count


def _largest(tree: PyTree) -> Float[Array, ""]:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))


def lower_level(problem: BilevelProblem[MDP] | LowerLevel) -> LowerLevel:
    """The lower level of a problem.

    Raises:
        InputError: the problem's world is a simulator.
    """
    if isinstance(problem, LowerLevel):
        return problem
    require_table(problem)
    return TabularLevel(problem)


def require_table(problem: object) -> None:
    """Raise InputError unless the problem has a table for a world."""
    if not isinstance(problem, BilevelProblem) or not isinstance(problem.world, MDP):
        raise InputError("this method needs a BilevelProblem on an MDP; on a simulator use SoBiRL or DRLHF")
