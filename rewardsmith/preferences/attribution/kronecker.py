"""EK-FAC: the curvature of a reward network as Kronecker products, with eigenvalues of its own."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..._core import MLP
from .curvature import Solved, checked_damping, count_of, summed


class ScoredNetwork(eqx.Module):
    """How a loss sees a network: it looks at T steps of an example, and the loss at scores D made of that.

    Attributes:
        inputs: example -> (T, in).
        scores: (outputs (T, out), example) -> D (k,), such as [Σ r¹ − Σ r²].
        loss: (D, example) -> l, nats.
        weights: (D, example) -> w (k,) ≥ 0, of Gauss–Newton or Fisher: see `gauss_newton`.
    """

    inputs: Callable[[Any], Float[Array, "T in"]] = eqx.field(static=True)
    scores: Callable[[Float[Array, "T out"], Any], Float[Array, " k"]] = eqx.field(static=True)
    loss: Callable[[Float[Array, " k"], Any], Float[Array, ""]] = eqx.field(static=True)
    weights: Callable[[Float[Array, " k"], Any], Float[Array, " k"]] = eqx.field(static=True)

    def scores_of(self, network: MLP, example: Any) -> Float[Array, " k"]:
        """D of one example.

        Args:
            network: with the parameters to judge.
            example: one comparison.
        """
        return self.scores(jax.vmap(network)(self.inputs(example)), example)

    def loss_of(self, network: MLP, example: Any) -> Float[Array, ""]:
        """l of one example: what `influence` takes.

        Args:
            network: with the parameters to judge.
            example: one comparison.
        """
        return self.loss(self.scores_of(network, example), example)


class KroneckerCurvature(eqx.Module):
    """G ≈ Q diag(Λ) Qᵀ, layer by layer, Q = Q_S ⊗ Q_A; calling it gives (G + λI)⁻¹ v.

    Attributes:
        left: Q_S of each layer, (out, out): eigenvectors of the gradients' second moments over outputs.
        right: Q_A of each layer, (in + 1, in + 1): the same over inputs, the bias among them.
        eigenvalues: Λ of each layer, (out, in + 1).
        damping: λ, in units of curvature: loss per squared unit of a parameter.
    """

    left: list[Float[Array, "_ _"]]
    right: list[Float[Array, "_ _"]]
    eigenvalues: list[Float[Array, "_ _"]]
    damping: Float[Array, ""]

    @property
    def mean_eigenvalue(self) -> Float[Array, ""]:
        """trace(G) / number of parameters: what to choose λ by."""
        return sum(map(jnp.sum, self.eigenvalues), jnp.zeros(())) / sum(v.size for v in self.eigenvalues)

    def damped(self, damping: float | Float[Array, ""]) -> "KroneckerCurvature":
        """The same with another λ > 0.

        Args:
            damping: λ > 0.
        """
        return eqx.tree_at(lambda k: k.damping, self, checked_damping(damping, self.damping))

    def inverse(self, vector: PyTree) -> PyTree:
        """(G + λI)⁻¹ v, for v like the network's floating-point arrays.

        Args:
            vector: v.
        """
        weights, biases = [], []
        layers = zip(vector.weights, vector.biases, self.left, self.right, self.eigenvalues, strict=True)
        for weight, bias, left, right, eigenvalues in layers:
            turned = left.T @ jnp.concatenate([weight, bias[:, None]], axis=1) @ right
            back = left @ (turned / (eigenvalues + self.damping)) @ right.T
            weights.append(back[:, :-1])
            biases.append(back[:, -1])
        return eqx.tree_at(lambda v: (v.weights, v.biases), vector, (weights, biases))

    def __call__(self, vector: PyTree) -> Solved:
        """See `Solve`; exact for this curvature, so it always converges."""
        value = self.inverse(vector)
        return Solved(value, jnp.asarray(True), jnp.zeros((), jnp.int32), jnp.zeros(()))


def kronecker_curvature(
    network: MLP,
    examples: PyTree,
    seen: ScoredNetwork,
    *,
    damping: float | None = None,
    together: int = 64,
) -> KroneckerCurvature:
    """The Gauss–Newton or Fisher matrix of the mean loss over examples, approximated layer by layer.

        G_ik = √w_ik ∂D_ik/∂W̄ = √w_ik Σ_t δ_ikt ā_itᵀ
        A = E_i[Σ_k G_ikᵀ G_ik],     S = E_i[Σ_k G_ik G_ikᵀ],     Λ = E_i[Σ_k (Q_Sᵀ G_ik Q_A)²]

    ā = (a, 1) is what a layer is given at step t of an example, δ = ∂D/∂z the gradient in what it makes of
    it; Q_A and Q_S are the eigenvectors of A and S. The steps of both clips are summed before anything is
    squared, as a comparison judges the sum. (K-FAC takes A from ā āᵀ and S from δ δᵀ of single steps; on
    clips of correlated steps that was a little worse.) No label is sampled: w is the exact expectation. Left
    out: what layers have to do with one another, and what is not diagonal in Q. So it is the cheap way:
    docs/influence.md says how near it comes.

    Two passes over the examples; memory for `together` gradients; each layer is decomposed once, so that
    every further solve costs two small products a layer.

    Source: Martens and Grosse, ICML 2015, arXiv 1503.05671 (K-FAC); George et al., NeurIPS 2018, arXiv
    1806.03884 (eigenvalues); Grosse et al., 2023, arXiv 2308.03296 (influence); A and S of whole gradients:
    Gupta, Koren and Singer, ICML 2018, arXiv 1802.09568.

    Args:
        network: whose curvature.
        examples: stacked, n rows.
        seen: how the loss sees it.
        damping: λ > 0; None: a tenth of the mean eigenvalue, as Grosse et al. have it.
        together: examples looked at at once.
    """
    count = count_of(examples)

    def moments(block: PyTree) -> list[tuple[Array, Array]]:
        of_each = jax.vmap(lambda example: _gradients(network, seen, example))(block)
        return [
            (jnp.einsum("bkoi,bkoj->ij", g, g) / count, jnp.einsum("bkoi,bkpi->op", g, g) / count)
            for g in of_each
        ]

    both = summed(moments, examples, together)
    right, left = ([jnp.linalg.eigh(pair[side])[1] for pair in both] for side in range(2))

    def squares(block: PyTree) -> list[Array]:
        of_each = jax.vmap(lambda example: _gradients(network, seen, example))(block)
        return [
            jnp.sum((own.T @ g @ other) ** 2, axis=(0, 1)) / count
            for g, own, other in zip(of_each, left, right, strict=True)
        ]

    found = KroneckerCurvature(left, right, summed(squares, examples, together), jnp.zeros(()))
    return found.damped(0.1 * found.mean_eigenvalue if damping is None else damping)


def _gradients(network: MLP, seen: ScoredNetwork, example: Any) -> list[Float[Array, "k _ _"]]:
    """√w ∂D/∂W̄ of every layer, (k, out, in + 1)."""
    moving, still = eqx.partition(network, eqx.is_inexact_array)

    def scores(at: PyTree) -> tuple[Array, Array]:
        found = seen.scores_of(eqx.combine(at, still), example)
        return found, found

    slope, scored = jax.jacrev(scores, has_aux=True)(moving)
    root = jnp.sqrt(seen.weights(scored, example))[:, None, None]
    layers = zip(slope.weights, slope.biases, strict=True)
    return [root * jnp.concatenate([weight, bias[..., None]], axis=2) for weight, bias in layers]
