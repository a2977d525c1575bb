"""Preference models with one score for a pair: partial return, Thurstone, regret, general."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._core import InputError
from .base import Prediction, ScoreModel, reward_difference
from .noise import Noise
from .normal import log_normal_cdf


class PartialReturn(ScoreModel):
    """Bradley and Terry: P = σ(D), D = Σ_h r(s_h¹, a_h¹) − Σ_h r(s_h², a_h²), not discounted.

    Source: Bradley and Terry, *Biometrika* 39, 1952; for clips Christiano et al., NeurIPS 2017.

    Args:
        noise: what is done about wrong answers.
    """

    noise: Noise = Noise()

    def score(self, first: Prediction, second: Prediction) -> Float[Array, "M *k"]:
        """See `ScoreModel.score`."""
        return reward_difference(first, second)

    def log_link(self, score: Float[Array, "*m"]) -> Float[Array, "*m"]:
        """See `ScoreModel.log_link`."""
        return jax.nn.log_sigmoid(score)


class Thurstone(ScoreModel):
    """P = Φ(D/(√2 s)), D as in `PartialReturn`: each clip is seen with normal noise of deviation s.

    The tails are thinner than a logistic's, so that one answer far off pulls by more, in proportion to D.

    Source: Thurstone, *Psychological Review* 34, 1927 (case V).

    Args:
        deviation: s, in units of reward; only the unit of reward depends on it.
        noise: what is done about wrong answers.

    Raises:
        InputError: a deviation that is not positive.
    """

    deviation: float = eqx.field(default=1.0, static=True)
    noise: Noise = Noise()

    def __check_init__(self) -> None:
        if not 0.0 < self.deviation < float("inf"):
            raise InputError(f"deviation is {self.deviation}; give a positive number, such as 1")

    def score(self, first: Prediction, second: Prediction) -> Float[Array, "M *k"]:
        """See `ScoreModel.score`."""
        return reward_difference(first, second)

    def log_link(self, score: Float[Array, "*m"]) -> Float[Array, "*m"]:
        """See `ScoreModel.log_link`."""
        return log_normal_cdf(score / (2.0**0.5 * self.deviation))


class Regret(ScoreModel):
    """P = σ(D), D = Σ_h A_x(s_h¹, a_h¹) − Σ_h A_x(s_h², a_h²): clips are judged by how well was decided.

    A_x = Q_x − V_x is the advantage under r_x's own soft-optimal policy, τ log π*(a|s). No reward that is
    shaped by a potential is told from r_x, as none changes what is optimal; a clip that earns little because
    it began badly is not blamed for it.

    On a table, predictions are made of A_x itself (`table_advantage`) and gradients are exact. With a deep
    follower they are made of r_x, and what values add comes as an offset of each clip, held still:

        Σ_h A ≈ Σ_h r_x(s_h, a_h) + Σ_h (γ V̂(s_{h+1}) − V̂(s_h))

    Exact in a deterministic world where V̂ = V_x; in a random one the value of where the clip happened to go
    stands for its mean. The gradient leaves out Σ_h (γ∇V − ∇V), as that of temporal differences does. If
    answers do follow some A*, the reward that explains them best is r* shaped by V* − V̂, whatever V̂ is: it
    has the right policy, and V̂ for its own value. If they follow returns instead, no A_x explains them, and
    the reward drifts from session to session: see the documentation.

    Source: Knox et al., *Models of human preference for learning reward functions*, TMLR 2024, arXiv
    2206.02231; with entropy Hejna et al., *Contrastive preference learning*, ICLR 2024.

    Args:
        noise: what is done about wrong answers.
    """

    noise: Noise = Noise()

    def score(self, first: Prediction, second: Prediction) -> Float[Array, "M *k"]:
        """See `ScoreModel.score`."""
        return reward_difference(first, second)

    def log_link(self, score: Float[Array, "*m"]) -> Float[Array, "*m"]:
        """See `ScoreModel.log_link`."""
        return jax.nn.log_sigmoid(score)


class General(ScoreModel):
    """P = σ(⟨R v¹, v²⟩/H), v = Σ_h v_x(s_h, a_h) ∈ R^{2k}, R a quarter turn in each of k planes.

    Expresses any preferences that are skew-symmetric, cycles too: rock, paper, scissors are three directions
    of one plane. Bradley–Terry is the case k = 1 with one constant coordinate.

    Source: Zhang et al., *General preference modeling with preference representations*, arXiv 2410.02197.
    Departures: the form is divided by H, so that a constant coordinate makes it Bradley–Terry on sums of
    rewards; the scales of the planes are in v, which is not normalised.

    Args:
        noise: what is done about wrong answers.
    """

    noise: Noise = Noise()

    def score(self, first: Prediction, second: Prediction) -> Float[Array, "M *k"]:
        """See `ScoreModel.score`."""
        return skew_product(first.total, second.total) / first.steps

    def log_link(self, score: Float[Array, "*m"]) -> Float[Array, "*m"]:
        """See `ScoreModel.log_link`."""
        return jax.nn.log_sigmoid(score)


def skew_product(first: Float[Array, "*m n"], second: Float[Array, "*m n"]) -> Float[Array, "*m"]:
    """⟨R u, v⟩ = Σ_j (u_{2j} v_{2j+1} − u_{2j+1} v_{2j}): changes its sign when u and v are swapped.

    Args:
        first, second: u and v, (*m, n) with n even.
    """
    u, v = (vector.reshape(*vector.shape[:-1], -1, 2) for vector in (first, second))
    return jnp.sum(u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0], axis=-1)
