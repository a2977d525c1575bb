"""Networks of a deep follower: policies and twin action values, for vectors and pictures.

A policy says of itself what soft actor-critic needs of it, `soft_value`; so there is one soft actor-critic.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from .._core import MLP, NATURE, Encoder, ImageSpec, make_encoder
from .losses import expected_soft_value, sampled_soft_value

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
# tanh of a float32 rounds to 1 from u = 9 on.
_INSIDE = 1.0 - 1e-6


class TanhGaussianPolicy(eqx.Module):
    """π(·|s): a diagonal Gaussian u ~ N(μ(s), σ(s)²) squashed to a = tanh(u), so a ∈ (−1, 1)ⁿ.

    Source: Haarnoja et al., *Soft Actor-Critic Algorithms and Applications*, 2018, appendix C.

    Args:
        observation: size of a vector, or the look of a picture.
        action_size: n.
        hidden: widths of the hidden layers.
        key: of the first weights.
    """

    encoder: Encoder
    trunk: MLP

    def __init__(
        self,
        observation: int | ImageSpec,
        action_size: int,
        hidden: Sequence[int],
        *,
        key: PRNGKeyArray,
    ):
        self.encoder, key = make_encoder(observation, NATURE, key=key)
        self.trunk = MLP([self.encoder.size, *hidden, 2 * action_size], key=key)

    @property
    def noise_size(self) -> int:
        """Standard normal numbers that `soft_value` takes."""
        return self.trunk.biases[-1].shape[0] // 2

    def soft_value(
        self,
        critic: "TwinCritic",
        observation: Shaped[Array, "*o"],
        noise: Float[Array, " a"],
        temperature: Float[Array, ""],
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """One sample of V(s) and of the entropy (nats), by the action that `noise` gives.

        Args:
            critic: its smaller estimate is taken.
            observation: s.
            noise: (n,), standard normal.
            temperature: τ, in units of reward.
        """
        action, log_prob = self.sample_from_noise(observation, noise)
        return sampled_soft_value(critic(observation, action), log_prob, temperature), -log_prob

    def moments(self, observation: Shaped[Array, "*o"]) -> tuple[Float[Array, " a"], Float[Array, " a"]]:
        """Mean and log standard deviation of u, before the squashing."""
        mean, log_std = jnp.split(self.trunk(self.encoder(observation)), 2)
        return mean, jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX)

    def sample_from_noise(
        self, observation: Shaped[Array, "*o"], noise: Float[Array, " a"]
    ) -> tuple[Float[Array, " a"], Float[Array, ""]]:
        """The action that standard normal `noise` gives, and its log-density (nats)."""
        mean, log_std = self.moments(observation)
        u = mean + jnp.exp(log_std) * noise
        return jnp.tanh(u), tanh_gaussian_log_prob(u, noise, log_std)

    def sample(self, observation: Shaped[Array, "*o"], key: PRNGKeyArray) -> Float[Array, " a"]:
        """One action a ~ π(·|s)."""
        mean, log_std = self.moments(observation)
        return jnp.tanh(mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape))

    def log_prob(self, observation: Shaped[Array, "*o"], action: Float[Array, " a"]) -> Float[Array, ""]:
        """log π(action|observation), nats; an action on the border counts as one just inside."""
        mean, log_std = self.moments(observation)
        u = jnp.arctanh(jnp.clip(action, -_INSIDE, _INSIDE))
        return tanh_gaussian_log_prob(u, (u - mean) * jnp.exp(-log_std), log_std)

    def mode(self, observation: Shaped[Array, "*o"]) -> Float[Array, " a"]:
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


class CategoricalPolicy(eqx.Module):
    """π(·|s) over A actions, by their logits. Actions are indices 0 … A − 1.

    Args:
        observation: size of a vector, or the look of a picture.
        num_actions: A.
        hidden: widths of the hidden layers.
        key: of the first weights.
    """

    encoder: Encoder
    trunk: MLP

    def __init__(
        self,
        observation: int | ImageSpec,
        num_actions: int,
        hidden: Sequence[int],
        *,
        key: PRNGKeyArray,
    ):
        self.encoder, key = make_encoder(observation, NATURE, key=key)
        self.trunk = MLP([self.encoder.size, *hidden, num_actions], key=key)

    @property
    def noise_size(self) -> int:
        """None is needed: `soft_value` sums over all actions."""
        return 0

    def soft_value(
        self,
        critic: "DiscreteTwinCritic",
        observation: Shaped[Array, "*o"],
        noise: Float[Array, "0"],
        temperature: Float[Array, ""],
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """V(s) and the entropy (nats), exactly.

        Args:
            critic: its smaller estimate is taken.
            observation: s.
            noise: (0,): nothing is drawn.
            temperature: τ, in units of reward.
        """
        del noise
        log_probs = self.log_probs(observation)
        value = expected_soft_value(critic.action_values(observation), log_probs, temperature)
        return value, -jnp.exp(log_probs) @ log_probs

    def log_probs(self, observation: Shaped[Array, "*o"]) -> Float[Array, " A"]:
        """log π(a|observation) of every action, nats."""
        return jax.nn.log_softmax(self.trunk(self.encoder(observation)))

    def probabilities(self, observation: Shaped[Array, "*o"]) -> Float[Array, " A"]:
        """π(a|observation) of every action."""
        return jnp.exp(self.log_probs(observation))

    def sample(self, observation: Shaped[Array, "*o"], key: PRNGKeyArray) -> Int[Array, ""]:
        """One action a ~ π(·|s)."""
        return jax.random.categorical(key, self.log_probs(observation)).astype(jnp.int32)

    def log_prob(self, observation: Shaped[Array, "*o"], action: Int[Array, ""]) -> Float[Array, ""]:
        """log π(action|observation), nats."""
        return self.log_probs(observation)[action]

    def mode(self, observation: Shaped[Array, "*o"]) -> Int[Array, ""]:
        """The likeliest action."""
        return jnp.argmax(self.log_probs(observation)).astype(jnp.int32)


Policy = TanhGaussianPolicy | CategoricalPolicy
"""A deep follower's policy: of actions in [−1, 1]ᵃ, or of indices."""


class _ValueNetwork(eqx.Module):
    """Encoder and head; what else the head sees is put behind the encoder's vector."""

    encoder: Encoder
    head: MLP

    def __init__(
        self,
        observation: int | ImageSpec,
        more: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        key: PRNGKeyArray,
    ):
        self.encoder, key = make_encoder(observation, NATURE, key=key)
        self.head = MLP([self.encoder.size + more, *hidden, outputs], key=key)

    def __call__(self, observation: Shaped[Array, "*o"], *more: Float[Array, " a"]) -> Float[Array, " n"]:
        return self.head(jnp.concatenate([self.encoder(observation), *more]))


class TwinCritic(eqx.Module):
    """Two independent estimates of Q(s, a); the smaller counters over-estimation (Fujimoto et al., 2018).

    Args:
        observation: size of a vector, or the look of a picture.
        action_size: length of an action.
        hidden: widths of the hidden layers.
        key: of the first weights.
    """

    first: _ValueNetwork
    second: _ValueNetwork

    def __init__(
        self,
        observation: int | ImageSpec,
        action_size: int,
        hidden: Sequence[int],
        *,
        key: PRNGKeyArray,
    ):
        self.first, self.second = (
            _ValueNetwork(observation, action_size, hidden, 1, key=own) for own in jax.random.split(key)
        )

    def __call__(self, observation: Shaped[Array, "*o"], action: Float[Array, " a"]) -> Float[Array, "2"]:
        """Both estimates."""
        return jnp.concatenate([self.first(observation, action), self.second(observation, action)])


class DiscreteTwinCritic(eqx.Module):
    """`TwinCritic` for actions that can be counted: both estimates for all of them at once.

    Args:
        observation: size of a vector, or the look of a picture.
        num_actions: A.
        hidden: widths of the hidden layers.
        key: of the first weights.
    """

    first: _ValueNetwork
    second: _ValueNetwork

    def __init__(
        self,
        observation: int | ImageSpec,
        num_actions: int,
        hidden: Sequence[int],
        *,
        key: PRNGKeyArray,
    ):
        self.first, self.second = (
            _ValueNetwork(observation, 0, hidden, num_actions, key=own) for own in jax.random.split(key)
        )

    def action_values(self, observation: Shaped[Array, "*o"]) -> Float[Array, "2 A"]:
        """Both estimates of every action."""
        return jnp.stack([self.first(observation), self.second(observation)])

    def __call__(self, observation: Shaped[Array, "*o"], action: Int[Array, ""]) -> Float[Array, "2"]:
        """Both estimates of one action."""
        return self.action_values(observation)[:, action]


Critic = TwinCritic | DiscreteTwinCritic
"""Two estimates of Q: of a vector of actions, or of every discrete action at once."""
