"""Networks of a deep follower: a tanh-Gaussian policy and twin action values."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._core import MLP

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
# tanh of a float32 rounds to 1 from u = 9 on.
_INSIDE = 1.0 - 1e-6


class TanhGaussianPolicy(eqx.Module):
    """π(·|s): a diagonal Gaussian u ~ N(μ(s), σ(s)²) squashed to a = tanh(u), so a ∈ (−1, 1)ⁿ.

    Source: Haarnoja et al., *Soft Actor-Critic Algorithms and Applications*, 2018, appendix C.
    """

    trunk: MLP

    def __init__(self, observation_size: int, action_size: int, hidden: Sequence[int], *, key: PRNGKeyArray):
        self.trunk = MLP([observation_size, *hidden, 2 * action_size], key=key)

    def moments(self, observation: Float[Array, " o"]) -> tuple[Float[Array, " a"], Float[Array, " a"]]:
        """Mean and log standard deviation of u, before the squashing."""
        mean, log_std = jnp.split(self.trunk(observation), 2)
        return mean, jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX)

    def sample_from_noise(
        self, observation: Float[Array, " o"], noise: Float[Array, " a"]
    ) -> tuple[Float[Array, " a"], Float[Array, ""]]:
        """The action that standard normal `noise` gives, and its log-density (nats)."""
        mean, log_std = self.moments(observation)
        u = mean + jnp.exp(log_std) * noise
        return jnp.tanh(u), tanh_gaussian_log_prob(u, noise, log_std)

    def sample(self, observation: Float[Array, " o"], key: PRNGKeyArray) -> Float[Array, " a"]:
        """One action a ~ π(·|s)."""
        mean, log_std = self.moments(observation)
        return jnp.tanh(mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape))

    def log_prob(self, observation: Float[Array, " o"], action: Float[Array, " a"]) -> Float[Array, ""]:
        """log π(action|observation), nats; an action on the border counts as one just inside."""
        mean, log_std = self.moments(observation)
        u = jnp.arctanh(jnp.clip(action, -_INSIDE, _INSIDE))
        return tanh_gaussian_log_prob(u, (u - mean) * jnp.exp(-log_std), log_std)

    def mode(self, observation: Float[Array, " o"]) -> Float[Array, " a"]:
        """tanh of the mean: the action of the deterministic policy that evaluations use."""
        return jnp.tanh(self.moments(observation)[0])


def tanh_gaussian_log_prob(
    u: Float[Array, " a"], noise: Float[Array, " a"], log_std: Float[Array, " a"]
) -> Float[Array, ""]:
    """log π(tanh u), with u = μ + σ·noise: Σᵢ log N(uᵢ) − log(1 − tanh² uᵢ).

    The second term is written 2(log 2 − u − softplus(−2u)), which does not overflow where tanh saturates.
    """
    gaussian = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
    squashing = 2.0 * (jnp.log(2.0) - u - jax.nn.softplus(-2.0 * u))
    return jnp.sum(gaussian - squashing)


class TwinCritic(eqx.Module):
    """Two independent estimates of Q(s, a); the smaller counters over-estimation (Fujimoto et al., 2018)."""

    first: MLP
    second: MLP

    def __init__(self, observation_size: int, action_size: int, hidden: Sequence[int], *, key: PRNGKeyArray):
        sizes = [observation_size + action_size, *hidden, 1]
        first_key, second_key = jax.random.split(key)
        self.first, self.second = MLP(sizes, key=first_key), MLP(sizes, key=second_key)

    def __call__(self, observation: Float[Array, " o"], action: Float[Array, " a"]) -> Float[Array, "2"]:
        """Both estimates."""
        inputs = jnp.concatenate([observation, action])
        return jnp.concatenate([self.first(inputs), self.second(inputs)])
