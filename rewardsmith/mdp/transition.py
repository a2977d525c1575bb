"""Transition probabilities that need no table (S, A, S): few successors, or kernels that actions share."""

import abc
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.lax import Precision
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from .._core import InputError, as_floats, as_indices, as_numbers, as_whole

# GPUs multiply float32 matrices at TF32 by default: three digits, on which the residual never settles.
_EXACT = Precision.HIGHEST


class Transition(eqx.Module):
    """P in a form of its own. A plain array (S, A, S) is the dense form and needs no class.

    Abstract: a subclass gives sizes, expectations, and single probabilities.
    """

    @property
    @abc.abstractmethod
    def num_states(self) -> int:
        """S."""

    @property
    @abc.abstractmethod
    def num_actions(self) -> int:
        """A."""

    @property
    @abc.abstractmethod
    def probabilities(self) -> Float[Array, "S B K"]:
        """What is to be checked: [s, b] holds the probabilities of one distribution, or zeros."""

    @abc.abstractmethod
    def expect(self, values: Float[Array, " S"]) -> Float[Array, "S A"]:
        """Σ_t P[s,a,t] v(t).

        Args:
            values: v, (S,).
        """

    @abc.abstractmethod
    def under(self, policy: Float[Array, "S A"]) -> Float[Array, "S S"]:
        """P^π[s,t] = Σ_a π(a|s) P[s,a,t], as a table.

        Args:
            policy: π, (S, A), rows sum to 1.
        """

    @abc.abstractmethod
    def probability(
        self, states: Int[Array, "*n"], actions: Int[Array, "*n"], successors: Int[Array, "*n"]
    ) -> Float[Array, "*n"]:
        """P[s, a, t], entry by entry.

        Args:
            states: s, n indices.
            actions: a, n indices.
            successors: t, n indices.
        """


class SparseTransition(Transition):
    """At most K successors for each state and action: worlds of a million states.

    P[s, a, successors[s,a,k]] = weights[s,a,k], summed where a successor stands twice. Rows with fewer than
    K are filled up with weight 0 and any state.

    Args:
        successors: (S, A, K) state indices.
        weights: (S, A, K) probabilities; all zero for terminal states.

    Raises:
        InputError: shapes disagree or an index is no state.
    """

    successors: Int[Array, "S A K"]
    weights: Float[Array, "S A K"]

    def __init__(self, successors: ArrayLike, weights: ArrayLike):
        self.successors, self.weights = as_indices("successors", successors), as_floats("weights", weights)
        if self.weights.ndim != 3 or self.weights.size == 0 or self.successors.shape != self.weights.shape:
            raise InputError(
                f"successors {self.successors.shape} and weights {self.weights.shape}: "
                "give both as (states, actions, successors)"
            )
        if not isinstance(self.successors, Tracer):
            low, high = int(self.successors.min()), int(self.successors.max())
            if low < 0 or high >= self.num_states:
                wrong = low if low < 0 else high
                raise InputError(f"successors holds {wrong}; give state indices 0 to {self.num_states - 1}")

    @classmethod
    def from_triplets(
        cls,
        rows: ArrayLike | Sequence[object],
        successors: ArrayLike | Sequence[object],
        weights: ArrayLike | Sequence[object],
        *,
        num_states: int,
        num_actions: int,
    ) -> "SparseTransition":
        """From a list of entries: P[row // A, row % A, successor] += weight, in any order.

        Args:
            rows: (N,) s·A + a.
            successors: (N,) t.
            weights: (N,) probabilities.
            num_states: S.
            num_actions: A.

        Raises:
            InputError: lengths disagree, or an index is out of range.
        """
        num_states, num_actions = as_whole("num_states", num_states), as_whole("num_actions", num_actions)
        as_whole("num_states times num_actions", num_states * num_actions)
        row, to = (
            np.asarray(as_indices(name, given), np.int64)
            for name, given in (("rows", rows), ("successors", successors))
        )
        as_numbers("weights", weights)
        weight = np.asarray(weights, np.float64)
        if row.ndim != 1 or not row.shape == to.shape == weight.shape:
            raise InputError(
                f"rows {row.shape}, successors {to.shape}, weights {weight.shape}: give equal lengths"
            )
        for name, index, end in (("rows", row, num_states * num_actions), ("successors", to, num_states)):
            if index.size and not 0 <= index.min() <= index.max() < end:
                raise InputError(f"{name} holds {index.min()} to {index.max()}; give indices 0 to {end - 1}")
        order = np.argsort(row, kind="stable")
        row, to, weight = row[order], to[order], weight[order]
        count = np.bincount(row, minlength=num_states * num_actions)
        width = max(1, int(count.max(initial=0)))
        place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        shape = (num_states * num_actions, width)
        filled_to, filled_weight = np.zeros(shape, np.int32), np.zeros(shape)
        filled_to[row, place], filled_weight[row, place] = to, weight
        table = (num_states, num_actions, width)
        return cls(filled_to.reshape(table), filled_weight.reshape(table))

    @classmethod
    def from_scipy(cls, matrix: Any, num_actions: int) -> "SparseTransition":
        """From a scipy sparse matrix or array of shape (S·A, S), row s·A + a.

        Args:
            matrix: (S·A, S), of probabilities.
            num_actions: A.

        Raises:
            InputError: the shape is not (S·A, S).
        """
        num_actions = as_whole("num_actions", num_actions)
        if not hasattr(matrix, "tocoo") or len(matrix.shape) != 2:
            raise InputError(f"matrix is a {type(matrix).__name__}; give a sparse matrix of scipy")
        rows, columns = matrix.shape
        if rows != columns * num_actions:
            raise InputError(f"matrix has shape {matrix.shape}; give (states·actions, states), row s·A + a")
        entries = matrix.tocoo()
        return cls.from_triplets(
            entries.row, entries.col, entries.data, num_states=columns, num_actions=num_actions
        )

    @property
    def num_states(self) -> int:
        """S."""
        return self.weights.shape[-3]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.weights.shape[-2]

    @property
    def probabilities(self) -> Float[Array, "S A K"]:
        """The weights."""
        return self.weights

    def expect(self, values: Float[Array, " S"]) -> Float[Array, "S A"]:
        """See `Transition.expect`."""
        return jnp.sum(self.weights * values[self.successors], axis=-1)

    def under(self, policy: Float[Array, "S A"]) -> Float[Array, "S S"]:
        """See `Transition.under`."""
        dtype = jnp.result_type(policy, self.weights)
        table = jnp.zeros((self.num_states, self.num_states), dtype)
        states = jnp.arange(self.num_states)[:, None, None]
        return table.at[states, self.successors].add(policy[..., None] * self.weights)

    def probability(
        self, states: Int[Array, "*n"], actions: Int[Array, "*n"], successors: Int[Array, "*n"]
    ) -> Float[Array, "*n"]:
        """See `Transition.probability`."""
        hits = self.successors[states, actions] == successors[..., None]
        return jnp.sum(jnp.where(hits, self.weights[states, actions], 0.0), axis=-1)


class SharedTransition(Transition):
    """Actions that move the world alike share a kernel: P[s,a,t] = kernel[s, group[a], t].

    For large action sets of which most differ in reward alone: what to buy, when only the sum spent counts.

    Args:
        kernel: (S, G, S).
        group: (A,) indices 0 … G−1.

    Raises:
        InputError: shapes disagree or an index is no group.
    """

    kernel: Float[Array, "S G S"]
    group: Int[Array, " A"]

    def __init__(self, kernel: ArrayLike, group: ArrayLike | Sequence[object]):
        self.kernel, self.group = as_floats("kernel", kernel), as_indices("group", group)
        shape = self.kernel.shape
        if len(shape) != 3 or shape[0] != shape[2] or 0 in (*shape, self.group.size) or self.group.ndim != 1:
            raise InputError(
                f"kernel has shape {shape}, group {self.group.shape}: "
                "give (states, groups, states) and (actions,)"
            )
        if not isinstance(self.group, Tracer):
            low, high = int(self.group.min()), int(self.group.max())
            if low < 0 or high >= shape[1]:
                raise InputError(f"group holds {low} to {high}; give indices 0 to {shape[1] - 1}")

    @property
    def num_states(self) -> int:
        """S."""
        return self.kernel.shape[-1]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.group.shape[-1]

    @property
    def probabilities(self) -> Float[Array, "S G S"]:
        """The kernel."""
        return self.kernel

    def expect(self, values: Float[Array, " S"]) -> Float[Array, "S A"]:
        """See `Transition.expect`."""
        return jnp.einsum("sgt,t->sg", self.kernel, values, precision=_EXACT)[:, self.group]

    def under(self, policy: Float[Array, "S A"]) -> Float[Array, "S S"]:
        """See `Transition.under`."""
        zeros = jnp.zeros(self.kernel.shape[:2], policy.dtype)
        grouped = zeros.at[:, self.group].add(policy)
        return jnp.einsum("sg,sgt->st", grouped, self.kernel, precision=_EXACT)

    def probability(
        self, states: Int[Array, "*n"], actions: Int[Array, "*n"], successors: Int[Array, "*n"]
    ) -> Float[Array, "*n"]:
        """See `Transition.probability`."""
        return self.kernel[states, self.group[actions], successors]


def expect(transition: Array | Transition, values: Float[Array, " S"]) -> Float[Array, "S A"]:
    """Σ_t P[s,a,t] v(t), for P in any form.

    Args:
        transition: P, (S, A, S) or a `Transition`.
        values: v, (S,).
    """
    if isinstance(transition, Transition):
        return transition.expect(values)
    return jnp.einsum("sat,t->sa", transition, values, precision=_EXACT)


def under(transition: Array | Transition, policy: Float[Array, "S A"]) -> Float[Array, "S S"]:
    """P^π[s,t] = Σ_a π(a|s) P[s,a,t], for P in any form."""
    if isinstance(transition, Transition):
        return transition.under(policy)
    return jnp.einsum("sa,sat->st", policy, transition, precision=_EXACT)


def probability(
    transition: Array | Transition,
    states: Int[Array, "*n"],
    actions: Int[Array, "*n"],
    successors: Int[Array, "*n"],
) -> Float[Array, "*n"]:
    """P[s, a, t] entry by entry, for P in any form.

    Args:
        transition: P, (S, A, S) or a `Transition`.
        states, actions, successors: s, a and t, n indices each.
    """
    if isinstance(transition, Transition):
        return transition.probability(states, actions, successors)
    return transition[states, actions, successors]
