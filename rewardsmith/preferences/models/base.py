"""What every preference model is: how likely an answer is, given what is predicted of the two clips."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .noise import Noise


class Judgement(eqx.Module):
    """An answer, and what else is known of it; stands where a label does, alone or B together.

    Attributes:
        label: y in [0, 1], the probability that the first clip is preferred; a tie is ½.
        offset: of each clip, added to what is predicted of it; see `Regret`.
        groups: how likely whoever answered belongs to each of K groups; see `Mixture`.
    """

    label: Float[Array, "*B"]
    offset: Float[Array, "*B 2"] | None = None
    groups: Float[Array, "*B K"] | None = None


class Prediction(eqx.Module):
    """What M reward models say of one clip.

    Attributes:
        total: the sum over its steps of what they say of a step: a reward, (M,), or a vector, (M, o).
        steps: H.
        offset: what is added to all rewards of the clip; None: nothing.
    """

    total: Float[Array, "M *o"]
    steps: int = eqx.field(static=True)
    offset: Float[Array, ""] | None = None


class PreferenceModel(eqx.Module):
    """How likely an answer is, given what is predicted of two clips. Abstract.

    Swapped clips have swapped probabilities: P(first ≻ second) + P(second ≻ first) = 1.
    """

    @abc.abstractmethod
    def loss(
        self,
        first: Prediction,
        second: Prediction,
        label: Float[Array, ""],
        groups: Float[Array, " K"] | None = None,
    ) -> Float[Array, ""]:
        """The cross-entropy of a label (nats), its mean over members, each with its own prediction.

        Args:
            first, second: of one pair of clips.
            label: y in [0, 1], the probability that the first is preferred.
            groups: how likely the labeller belongs to each group; for models that know groups.
        """

    @abc.abstractmethod
    def probability(
        self, first: Prediction, second: Prediction, groups: Float[Array, " K"] | None = None
    ) -> Float[Array, " M"]:
        """P(answer: first), as each member has it.

        Args:
            first: of one pair of clips.
            second: of one pair of clips.
            groups: how likely the labeller belongs to each group, (K,); for models that know groups.
        """


class ScoreModel(PreferenceModel):
    """P = F(D): a score D that changes its sign when the clips are swapped, and F with F(D) + F(−D) = 1.

    Abstract: a subclass gives D and log F, and has a `Noise`.

    Attributes:
        noise: what an answer has beside the score.
    """

    noise: eqx.AbstractVar[Noise]

    @abc.abstractmethod
    def score(self, first: Prediction, second: Prediction) -> Float[Array, "M *k"]:
        """D, of each member: the larger, the more the first is preferred.

        Args:
            first: of one pair of clips.
            second: of one pair of clips.
        """

    @abc.abstractmethod
    def log_link(self, score: Float[Array, "*m"]) -> Float[Array, "*m"]:
        """log F(D), nats, finite for any finite D.

        Args:
            score: D, any shape.
        """

    def losses(self, first: Prediction, second: Prediction, label: Float[Array, ""]) -> Float[Array, "M *k"]:
        """−y log P(first) − (1 − y) log P(second) of each member.

        Args:
            first: of one pair of clips.
            second: of one pair of clips.
            label: y in [0, 1].
        """
        return self.losses_at(self.noise.shifted(self.score(first, second)), label)

    def losses_at(self, score: Float[Array, "*m"], label: Float[Array, ""]) -> Float[Array, "*m"]:
        """The same of scores that have their margin already.

        Args:
            score: D, any shape.
            label: y in [0, 1].
        """
        y = self.noise.softened(label)
        return -(y * self._log_probability(score)) - (1.0 - y) * self._log_probability(-score)

    def information(self, score: Float[Array, "*m"]) -> Float[Array, "*m"]:
        """Fisher's information of an answer about D, Σ_y P(y) (∂ log P(y)/∂D)²; P (1 − P) if logistic.

        Args:
            score: D, any shape.
        """

        def of(side: Float[Array, "*m"]) -> Float[Array, "*m"]:
            log_chance, slope = jax.jvp(self._log_probability, (side,), (jnp.ones_like(side),))
            return jnp.exp(log_chance) * slope**2

        return of(score) + of(-score)

    def loss(
        self,
        first: Prediction,
        second: Prediction,
        label: Float[Array, ""],
        groups: Float[Array, " K"] | None = None,
    ) -> Float[Array, ""]:
        """See `PreferenceModel.loss`."""
        del groups
        return jnp.mean(self.losses(first, second, label))

    def probabilities(self, first: Prediction, second: Prediction) -> Float[Array, "M *k"]:
        """P(answer: first) of each member; without a margin, which is for learning.

        Args:
            first: of one pair of clips.
            second: of one pair of clips.
        """
        return jnp.exp(self._log_probability(self.score(first, second)))

    def probability(
        self, first: Prediction, second: Prediction, groups: Float[Array, " K"] | None = None
    ) -> Float[Array, " M"]:
        """See `PreferenceModel.probability`."""
        del groups
        return self.probabilities(first, second)

    def _log_probability(self, score: Float[Array, "*m"]) -> Float[Array, "*m"]:
        return self.noise.mixed(self.log_link(score))


def reward_difference(first: Prediction, second: Prediction) -> Float[Array, "M *k"]:
    """Σ r of the first less Σ r of the second, with their offsets."""
    difference = first.total - second.total
    if first.offset is None or second.offset is None:
        return difference
    return difference + (first.offset - second.offset)
