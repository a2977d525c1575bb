"""A reward learned from comparisons: an ensemble of small networks, prepared for the follower."""

from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped, UInt8

from .._core import MLP, REWARD, ConvEncoder, Encoder, ImageSpec, InputError, Layer, Norm, make_encoder

Output = Literal["normalise", "clamp", "raw"]
_LEAK = 0.01


class RewardNetwork(eqx.Module):
    """r(s, a) of one member. Of pictures a convolutional encoder makes a vector.

    A continuous action stands beside that vector in front of the head; discrete ones have an output each.
    """

    encoder: Encoder
    head: MLP
    # Of pictures: what each number of the encoder's vector is multiplied with, 1, or with dropout 0 or 2.
    kept: UInt8[Array, " f"] | None
    discrete: bool = eqx.field(static=True)

    def __call__(self, observation: Shaped[Array, "*o"], action: Shaped[Array, "*a"]) -> Float[Array, ""]:
        """r(s, a)."""
        vector = self.encoder(observation)
        if self.kept is not None:
            vector = vector * self.kept
        if self.discrete:
            return self.head(vector)[action]
        return self.head(jnp.concatenate([vector, action]))[0]

    def measured(self, observation: Shaped[Array, "n *o"]) -> "RewardNetwork":
        """The same with the encoder's "batch" norms as these observations have them."""
        if not isinstance(self.encoder, ConvEncoder):
            return self
        return eqx.tree_at(lambda n: n.encoder, self, self.encoder.measured(observation))


class RewardEnsemble(eqx.Module):
    """r_x(s, a) = (mean over members of r_m(s, a) − μ) / σ, or that mean cut to [−1, 1], or as it is.

    Comparisons tell nothing of a reward's offset, so by default the follower gets it centred and with unit
    deviation on the states it visits. μ and σ are constants between two calls of `normalise`: no gradient
    flows into them, and ∇r_x is (mean ∇r_m)/σ. Where "clamp" cuts, ∇r_x is 0.

    Args:
        observation: size of a vector, or the look of a picture.
        action_size: length of an action; if `discrete`, how many there are.
        hidden: widths of the hidden layers; for pictures, behind the convolutions.
        num_members: M.
        discrete: whether actions are indices.
        output: "normalise", "clamp" or "raw".
        layers: convolutions, for pictures.
        norm: behind each convolution: "none", "group", or "batch", whose moments `normalise` measures.
        visible: (height, width), false where a picture is hidden from the reward; None: nowhere.
    """

    networks: RewardNetwork
    mean: Float[Array, ""]
    deviation: Float[Array, ""]
    visible: UInt8[Array, "h w 1"] | None
    output: Output = eqx.field(static=True)

    def __init__(
        self,
        observation: int | ImageSpec,
        action_size: int,
        hidden: Sequence[int] = (128, 128),
        num_members: int = 3,
        *,
        discrete: bool = False,
        output: Output = "normalise",
        layers: Sequence[Layer] = REWARD,
        norm: Norm = "none",
        visible: np.ndarray | None = None,
        key: PRNGKeyArray,
    ):
        if output not in ("normalise", "clamp", "raw"):
            raise InputError(f'output is "{output}"; give "normalise", "clamp" or "raw"')
        slope = _LEAK if isinstance(observation, ImageSpec) else 0.0

        def member(key: PRNGKeyArray) -> RewardNetwork:
            encoder, rest = make_encoder(observation, layers, norm=norm, slope=slope, key=key)
            inputs, outputs = (encoder.size, action_size) if discrete else (encoder.size + action_size, 1)
            head = MLP([inputs, *hidden, outputs], slope=slope, key=rest)
            kept = jnp.ones(encoder.size, jnp.uint8) if isinstance(encoder, ConvEncoder) else None
            return RewardNetwork(encoder, head, kept, discrete)

        self.networks = eqx.filter_vmap(member)(jax.random.split(key, num_members))
        self.mean, self.deviation = jnp.zeros(()), jnp.ones(())
        self.visible = _mask(observation, visible)
        self.output = output

    def members(self, observation: Shaped[Array, "*o"], action: Shaped[Array, "*a"]) -> Float[Array, " m"]:
        """Each member's own reward, neither normalised nor cut."""
        seen = self._seen(observation)
        return eqx.filter_vmap(lambda network: network(seen, action))(self.networks)

    def __call__(self, observation: Shaped[Array, "*o"], action: Shaped[Array, "*a"]) -> Float[Array, ""]:
        """The reward the follower maximises, one step."""
        reward = jnp.mean(self.members(observation, action))
        if self.output == "normalise":
            mean, deviation = jax.lax.stop_gradient((self.mean, self.deviation))
            return (reward - mean) / deviation
        return jnp.clip(reward, -1.0, 1.0) if self.output == "clamp" else reward

    def normalise(
        self,
        observation: Shaped[Array, "n *o"],
        action: Shaped[Array, "n *a"],
        least_deviation: float = 1e-3,
    ) -> "RewardEnsemble":
        """The same weights with μ and σ, and the moments of "batch" norms, measured on the n given steps."""
        seen = self._seen(observation)
        networks = eqx.filter_vmap(lambda network: network.measured(seen))(self.networks)
        x = eqx.tree_at(lambda r: r.networks, self, networks)
        rewards = jax.vmap(lambda o, a: jnp.mean(x.members(o, a)))(observation, action)
        moments = jnp.mean(rewards), jnp.maximum(jnp.std(rewards), least_deviation)
        return eqx.tree_at(lambda r: (r.mean, r.deviation), x, moments)

    def thinned(self, key: PRNGKeyArray) -> "RewardEnsemble":
        """For pictures, with dropout: half of the numbers in front of the head left out, the others doubled.

        One draw for all that is computed with it, so that it is a function of one step as well.
        Source: Srivastava et al., JMLR 15, 2014.
        """
        assert self.networks.kept is not None
        kept = 2 * jax.random.bernoulli(key, 0.5, self.networks.kept.shape).astype(jnp.uint8)
        return eqx.tree_at(lambda r: r.networks.kept, self, kept)

    def whole(self) -> "RewardEnsemble":
        """Without dropout."""
        assert self.networks.kept is not None
        return eqx.tree_at(lambda r: r.networks.kept, self, jnp.ones_like(self.networks.kept))

    def _seen(self, observation: Shaped[Array, "*o"]) -> Shaped[Array, "*o"]:
        encoder = self.networks.encoder
        if isinstance(encoder, ConvEncoder):
            encoder.image.check(observation.shape[-3:])
        return observation if self.visible is None else observation * self.visible


def _mask(observation: int | ImageSpec, visible: np.ndarray | None) -> UInt8[Array, "h w 1"] | None:
    if visible is None:
        return None
    if not isinstance(observation, ImageSpec):
        raise InputError("visible is for pictures: leave it out where observations are vectors")
    if np.shape(visible) != observation.shape[:2]:
        raise InputError(
            f"visible has shape {np.shape(visible)}: give height × width {observation.shape[:2]}"
        )
    return jnp.asarray(np.asarray(visible, bool)[:, :, None], jnp.uint8)
