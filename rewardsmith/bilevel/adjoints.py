"""How the adjoint system (I − ∂Φ/∂y)ᵀ w = b is solved: exactly, by Neumann series, by conjugate gradients."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Int, PyTree

from .._core import InputError

Product = Callable[[PyTree], PyTree]


class Adjoint(eqx.Module):
    """A solver of the adjoint system. Abstract."""

    @abc.abstractmethod
    def __call__(
        self,
        product: Product,
        target: PyTree,
        exact: Callable[[PyTree], tuple[PyTree, Int[Array, ""]]],
    ) -> tuple[PyTree, Int[Array, ""]]:
        """w, and the products with ∂Φ/∂y it took.

        Args:
            product: v -> (∂Φ/∂y)ᵀ v.
            target: b.
            exact: b -> w by the lower level's own solver.
        """


class Exact(Adjoint):
    """The lower level's own solver: on a table a factorisation or BiCGStab, to the method's tolerance."""

    def __call__(
        self, product: Product, target: PyTree, exact: Callable[[PyTree], tuple[PyTree, Int[Array, ""]]]
    ) -> tuple[PyTree, Int[Array, ""]]:
        """See `Adjoint.__call__`."""
        del product
        return exact(target)


class Neumann(Adjoint):
    """The first terms of the Neumann series: w = Σ_{k<terms} ((∂Φ/∂y)ᵀ)^k b; the error falls like γ^terms.

    Source: Grazzi, Franceschi, Pontil and Salzo, ICML 2020, arXiv 2006.16218.

    Args:
        terms: of the series, at least 1; each further one costs a product with ∂Φ/∂y.

    Raises:
        InputError: no terms.
    """

    terms: int = eqx.field(static=True)

    def __check_init__(self):
        if self.terms < 1:
            raise InputError(f"terms is {self.terms}; give at least 1")

    def __call__(
        self, product: Product, target: PyTree, exact: Callable[[PyTree], tuple[PyTree, Int[Array, ""]]]
    ) -> tuple[PyTree, Int[Array, ""]]:
        """See `Adjoint.__call__`."""
        del exact

        def add(held: tuple[PyTree, PyTree], _: None) -> tuple[tuple[PyTree, PyTree], None]:
            w, term = held
            term = product(term)
            return (jax.tree.map(jnp.add, w, term), term), None

        (w, _), _ = jax.lax.scan(add, (target, target), None, length=self.terms - 1)
        return w, jnp.asarray(self.terms - 1, jnp.int32)


class ConjugateGradient(Adjoint):
    """Conjugate gradients on the normal equations, since I − ∂Φ/∂y is not symmetric on a table.

    Source: Grazzi, Franceschi, Pontil and Salzo, ICML 2020, arXiv 2006.16218.

    Args:
        max_steps: iterations at most; each costs one product with ∂Φ/∂y and one with its transpose.
        tolerance: of the residual, relative to b.

    Raises:
        InputError: `max_steps` below 1.
    """

    max_steps: int = eqx.field(default=100, static=True)
    tolerance: float = eqx.field(default=1e-9, static=True)

    def __check_init__(self):
        if self.max_steps < 1 or not self.tolerance > 0:
            raise InputError(
                f"max_steps {self.max_steps}, tolerance {self.tolerance}; give at least 1, and more than 0"
            )

    def __call__(
        self, product: Product, target: PyTree, exact: Callable[[PyTree], tuple[PyTree, Int[Array, ""]]]
    ) -> tuple[PyTree, Int[Array, ""]]:
        """See `Adjoint.__call__`."""
        del exact
        apply = lambda v: jax.tree.map(jnp.subtract, v, product(v))  # noqa: E731
        operator = lx.FunctionLinearOperator(apply, jax.eval_shape(lambda: target))
        solver = lx.Normal(lx.CG(rtol=self.tolerance, atol=self.tolerance, max_steps=self.max_steps))
        solution = lx.linear_solve(operator, target, solver, throw=False)
        return solution.value, 2 * jnp.asarray(solution.stats["num_steps"], jnp.int32)
