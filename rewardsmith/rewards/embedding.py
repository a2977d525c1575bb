"""A reward for preferences that no reward explains: how well a step does against what the policy has done."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped, UInt8

from .._core import InputError
from .ensemble import Output, check_output, prepared
from .networks import LearnedReward, RewardNetwork, moments

Compare = Callable[[Float[Array, " w"], Float[Array, " w"]], Float[Array, ""]]


class EmbeddingEnsemble(LearnedReward):
    """r_x(s, a) = mean over members of c(v_m(s, a), v̄_m), normalised or cut as by `RewardEnsemble`.

    Each network makes a vector v of a step, which a preference model compares by a form c that is linear in
    both. v̄ is the mean of v over the steps that the policies so far have visited, held still between two
    calls of `normalise`: so r_x sums up to how far a clip is preferred to those. To answer the mean of all
    one's past is fictitious play; where preferences are cyclic the policy of now would be chased in a circle.

    Source: of the play, Brown, 1951; Robinson, *Annals of Mathematics* 54, 1951.

    Args:
        networks: M of an even width, by `make_networks`.
        compare: c, antisymmetric, such as `preferences.models.skew_product`.
        output: "normalise", "clamp" or "raw".
        visible: see `visible_pixels`.
        key: for v̄ before anything is measured; 0 would make every step as good as any other.

    Raises:
        InputError: networks of an odd width or of none.
    """

    networks: RewardNetwork
    against: Float[Array, "m w"]
    mean: Float[Array, ""]
    deviation: Float[Array, ""]
    visible: UInt8[Array, "h w 1"] | None
    output: Output = eqx.field(static=True)
    compare: Compare = eqx.field(static=True)

    def __init__(
        self,
        networks: RewardNetwork,
        compare: Compare,
        *,
        output: Output = "normalise",
        visible: UInt8[Array, "h w 1"] | None = None,
        key: PRNGKeyArray,
    ):
        check_output(output)
        width = networks.width
        if width is None or width < 2 or width % 2:
            raise InputError(f"width of the embedding is {width}; give an even number of at least 2")
        self.networks, self.visible = networks, visible
        self.against = jax.random.normal(key, (networks.count, width))
        self.mean, self.deviation = jnp.zeros(()), jnp.ones(())
        self.output, self.compare = output, compare

    def __call__(self, observation: Shaped[Array, "*o"], action: Shaped[Array, "*a"]) -> Float[Array, ""]:
        """See `LearnedReward.__call__`."""
        reward = self._compared(self.members(observation, action))
        return prepared(reward, self.mean, self.deviation, self.output)

    def normalise(
        self, observation: Shaped[Array, "n *o"], action: Shaped[Array, "n *a"], least_deviation: float = 1e-3
    ) -> "EmbeddingEnsemble":
        """See `LearnedReward.normalise`: v̄, then μ and σ, and the moments of "batch" norms."""
        x = self.measured(observation)
        vectors = jax.vmap(x.members)(observation, action)
        x = eqx.tree_at(lambda r: r.against, x, jnp.mean(vectors, axis=0))
        rewards = jax.vmap(x._compared)(vectors)
        found = moments(rewards, least_deviation)
        return eqx.tree_at(lambda r: (r.mean, r.deviation), x, found)

    def _compared(self, vectors: Float[Array, "m w"]) -> Float[Array, ""]:
        return jnp.mean(jax.vmap(self.compare)(vectors, jax.lax.stop_gradient(self.against)))
