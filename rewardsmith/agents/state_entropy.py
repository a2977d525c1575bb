"""State entropy as a reward: to be where few of the visited states are."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def neighbour_distance(
    state: Float[Array, " o"], visited: Float[Array, "n o"], scale: Float[Array, " o"], neighbours: int
) -> Float[Array, ""]:
    """‖(s − s_k) / scale‖, s_k the k-th nearest of the visited states; a state is no neighbour of itself.

    Its logarithm is, up to constants, the particle estimate of −log of the density of visits at s.

    Args:
        state: s.
        visited: where from.
        scale: of each number of a state, > 0.
        neighbours: k, at most n.

    Source: Singh et al., *Am. J. Math. Manag. Sci.* 23, 2003; as a reward Liu and Abbeel, NeurIPS 2021, and
    Lee et al., ICML 2021, arXiv 2106.05091.
    """
    squares = jnp.sum(((visited - state) / scale) ** 2, axis=1)
    nearest, _ = jax.lax.top_k(-jnp.where(squares == 0.0, jnp.inf, squares), neighbours)
    return jnp.sqrt(jnp.minimum(-nearest[-1], jnp.finfo(jnp.float32).max))


def exploration_rewards(
    states: Float[Array, "b o"], visited: Float[Array, "n o"], neighbours: int
) -> Float[Array, " b"]:
    """`neighbour_distance` of each state, in units of each number's deviation, over its mean among them.

    So the rewards are about 1, whatever the states are measured in.

    Args:
        states: (b, o), those to be paid.
        visited: (n, o), where the policy has been.
        neighbours: k, at most n.
    """
    scale = jnp.std(visited, axis=0) + 1e-6
    distances = jax.vmap(lambda s: neighbour_distance(s, visited, scale, neighbours))(states)
    return distances / jnp.maximum(jnp.mean(distances), 1e-6)
