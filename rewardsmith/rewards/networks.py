"""What learned rewards are made of: networks that look at one step, and an ensemble of them."""

import abc
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped, UInt8

from .._core import MLP, REWARD, ConvEncoder, Encoder, ImageSpec, InputError, Layer, Norm, make_encoder

_LEAK = 0.01


class RewardNetwork(eqx.Module):
    """What one member says of a step (s, a): its reward, or a vector of `width` numbers.

    Of pictures a convolutional encoder makes a vector. A continuous action stands beside that vector in front
    of the head; discrete ones have an output, or `width` of them, each.
    """

    encoder: Encoder
    head: MLP
    # Of pictures: what each number of the encoder's vector is multiplied with, 1, or with dropout 0 or 2.
    kept: UInt8[Array, " f"] | None
    discrete: bool = eqx.field(static=True)
    width: int | None = eqx.field(default=None, static=True)

    def __call__(self, observation: Shaped[Array, "*o"], action: Shaped[Array, "*a"]) -> Float[Array, "*w"]:
        """Of one step."""
        vector = self.encoded(observation)
        if self.discrete:
            said = self.head(vector)
            return (said if self.width is None else said.reshape(-1, self.width))[action]
        said = self.head(jnp.concatenate([vector, action]))
        return said[0] if self.width is None else said

    def encoded(self, observation: Shaped[Array, "*o"]) -> Float[Array, " f"]:
        """What the head is given of an observation."""
        vector = self.encoder(observation)
        return vector if self.kept is None else vector * self.kept

    @property
    def count(self) -> int:
        """M, of networks that are stacked."""
        return self.head.biases[-1].shape[0]

    def measured(self, observation: Shaped[Array, "n *o"]) -> "RewardNetwork":
        """The same with the encoder's "batch" norms as these observations have them."""
        if not isinstance(self.encoder, ConvEncoder):
            return self
        return eqx.tree_at(lambda n: n.encoder, self, self.encoder.measured(observation))


def make_networks(
    observation: int | ImageSpec,
    action_size: int,
    hidden: Sequence[int] = (128, 128),
    num_members: int = 3,
    *,
    discrete: bool = False,
    layers: Sequence[Layer] = REWARD,
    norm: Norm = "none",
    width: int | None = None,
    key: PRNGKeyArray,
) -> RewardNetwork:
    """`num_members` networks stacked.

    Args:
        width: numbers that each says of a step; None: one, its reward.
        key: of the first weights.

    The other arguments are those of `RewardEnsemble`.
    """
    slope = _LEAK if isinstance(observation, ImageSpec) else 0.0

    def member(key: PRNGKeyArray) -> RewardNetwork:
        encoder, rest = make_encoder(observation, layers, norm=norm, slope=slope, key=key)
        inputs, outputs = (encoder.size, action_size) if discrete else (encoder.size + action_size, 1)
        head = MLP([inputs, *hidden, outputs * (width or 1)], slope=slope, key=rest)
        kept = jnp.ones(encoder.size, jnp.uint8) if isinstance(encoder, ConvEncoder) else None
        return RewardNetwork(encoder, head, kept, discrete, width)

    return eqx.filter_vmap(member)(jax.random.split(key, num_members))


class LearnedReward(eqx.Module):
    """A reward learned from comparisons: M networks, and what the follower is given of what they say.

    Abstract: a subclass says what that is.

    Attributes:
        networks: every leaf with leading axis M.
        visible: 1 where a picture is shown to the reward, 0 where not; None: all of it.
    """

    networks: eqx.AbstractVar[RewardNetwork]
    visible: eqx.AbstractVar[UInt8[Array, "h w 1"] | None]

    @abc.abstractmethod
    def __call__(self, observation: Shaped[Array, "*o"], action: Shaped[Array, "*a"]) -> Float[Array, ""]:
        """The reward the follower maximises, one step.

        Args:
            observation: of one step.
            action: of the same step.
        """

    @abc.abstractmethod
    def normalise(
        self,
        observation: Shaped[Array, "n *o"],
        action: Shaped[Array, "n *a"],
        least_deviation: float = 1e-3,
    ) -> "LearnedReward":
        """The same weights, with what is measured on the n given steps: constants until the next call.

        Args:
            observation: of n steps.
            action: of the same steps.
            least_deviation: σ is at least this, in units of what the networks say.
        """

    def members(self, observation: Shaped[Array, "*o"], action: Shaped[Array, "*a"]) -> Float[Array, "m *w"]:
        """What each member itself says of one step, neither normalised nor cut.

        Args:
            observation: of one step.
            action: of the same step.
        """
        seen = self._seen(observation)
        return eqx.filter_vmap(lambda network: network(seen, action))(self.networks)

    def encoded(self, observation: Shaped[Array, "*o"]) -> Float[Array, "m f"]:
        """What each member's head is given of an observation."""
        seen = self._seen(observation)
        return eqx.filter_vmap(lambda network: network.encoded(seen))(self.networks)

    def measured(self, observation: Shaped[Array, "n *o"]) -> "LearnedReward":
        """The same with the moments of "batch" norms as these observations have them.

        Args:
            observation: of n steps.
        """
        seen = self._seen(observation)
        networks = eqx.filter_vmap(lambda network: network.measured(seen))(self.networks)
        return eqx.tree_at(lambda r: r.networks, self, networks)

    def thinned(self, key: PRNGKeyArray) -> "LearnedReward":
        """For pictures, with dropout: half of the numbers in front of the head left out, the others doubled.

        One draw for all that is computed with it, so that it is a function of one step as well.
        Source: Srivastava et al., JMLR 15, 2014.

        Args:
            key: of what is left out.
        """
        assert self.networks.kept is not None
        kept = 2 * jax.random.bernoulli(key, 0.5, self.networks.kept.shape).astype(jnp.uint8)
        return eqx.tree_at(lambda r: r.networks.kept, self, kept)

    def whole(self) -> "LearnedReward":
        """Without dropout."""
        assert self.networks.kept is not None
        return eqx.tree_at(lambda r: r.networks.kept, self, jnp.ones_like(self.networks.kept))

    def _seen(self, observation: Shaped[Array, "*o"]) -> Shaped[Array, "*o"]:
        encoder = self.networks.encoder
        if isinstance(encoder, ConvEncoder):
            encoder.image.check(observation.shape[-3:])
        return observation if self.visible is None else observation * self.visible


def moments(
    rewards: Float[Array, "n *k"], least_deviation: float
) -> tuple[Float[Array, "*k"], Float[Array, "*k"]]:
    """Mean and standard deviation over n steps, the latter at least `least_deviation`."""
    return jnp.mean(rewards, axis=0), jnp.maximum(jnp.std(rewards, axis=0), least_deviation)


def visible_pixels(observation: int | ImageSpec, visible: np.ndarray | None) -> UInt8[Array, "h w 1"] | None:
    """1 where a picture is shown to the reward, 0 where not; None: all of it.

    Args:
        observation: the size of a vector, or what pictures are like.
        visible: (height, width) bool; None: all of it.

    Raises:
        InputError: a mask for vectors, or of another size than the picture.
    """
    if visible is None:
        return None
    if not isinstance(observation, ImageSpec):
        raise InputError("visible is for pictures: leave it out where observations are vectors")
    if np.shape(visible) != observation.shape[:2]:
        raise InputError(
            f"visible has shape {np.shape(visible)}: give height × width {observation.shape[:2]}"
        )
    return jnp.asarray(np.asarray(visible, bool)[:, :, None], jnp.uint8)
