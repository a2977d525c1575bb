"""A reward learned from comparisons: an ensemble of small networks, prepared for the follower."""

from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped, UInt8

from .._core import REWARD, ImageSpec, InputError, Layer, Norm
from .networks import LearnedReward, RewardNetwork, make_networks, moments, visible_pixels

Output = Literal["normalise", "clamp", "raw"]


class RewardEnsemble(LearnedReward):
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
        key: of the first weights.
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
        check_output(output)
        self.networks = make_networks(
            observation,
            action_size,
            hidden,
            num_members,
            discrete=discrete,
            layers=layers,
            norm=norm,
            key=key,
        )
        self.mean, self.deviation = jnp.zeros(()), jnp.ones(())
        self.visible = visible_pixels(observation, visible)
        self.output = output

    @property
    def unit(self) -> Float[Array, ""]:
        """What 1 of the follower's reward is in the members' own rewards: σ, or 1."""
        return jax.lax.stop_gradient(self.deviation) if self.output == "normalise" else jnp.ones(())

    def __call__(self, observation: Shaped[Array, "*o"], action: Shaped[Array, "*a"]) -> Float[Array, ""]:
        """See `LearnedReward.__call__`."""
        reward = jnp.mean(self.members(observation, action))
        return prepared(reward, self.mean, self.deviation, self.output)

    def normalise(
        self, observation: Shaped[Array, "n *o"], action: Shaped[Array, "n *a"], least_deviation: float = 1e-3
    ) -> "RewardEnsemble":
        """See `LearnedReward.normalise`: μ and σ, and the moments of "batch" norms."""
        x = self.measured(observation)
        rewards = jax.vmap(lambda o, a: jnp.mean(x.members(o, a)))(observation, action)
        found = moments(rewards, least_deviation)
        return eqx.tree_at(lambda r: (r.mean, r.deviation), x, found)


def check_output(output: str) -> None:
    """Raise InputError unless `prepared` knows `output`."""
    if output not in ("normalise", "clamp", "raw"):
        raise InputError(f'output is "{output}"; give "normalise", "clamp" or "raw"')


def prepared(
    reward: Float[Array, "*k"], mean: Float[Array, "*k"], deviation: Float[Array, "*k"], output: Output
) -> Float[Array, "*k"]:
    """A reward as the follower gets it: (r − μ)/σ, r cut to [−1, 1], or r."""
    if output == "normalise":
        mean, deviation = jax.lax.stop_gradient((mean, deviation))
        return (reward - mean) / deviation
    return jnp.clip(reward, -1.0, 1.0) if output == "clamp" else reward
