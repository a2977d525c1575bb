"""Soft actor-critic for continuous and discrete actions, with the reward handed in anew at every call.

The follower of a bilevel problem must answer to the leader's *current* reward, so nothing here stores
one: `SAC.update` gets a reward function and applies it to each batch it draws.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from .._core import ImageSpec, InputError, adam
from .losses import actor_loss, critic_loss, soft_target, temperature_loss
from .networks import CategoricalPolicy, Critic, DiscreteTwinCritic, Policy, TanhGaussianPolicy, TwinCritic
from .replay import Replay, Transition, sample

# Of log A, the entropy of acting at random; published runs on Atari took it.
_SHARE_OF_UNIFORM = 0.89

RewardFn = Callable[[Transition], Float[Array, ""]]
"""r of one step. It is asked anew at every update, so that a reward that changes pays old steps too."""


class SACState(eqx.Module):
    """All that soft actor-critic carries from update to update.

    Attributes:
        policy: π.
        critic: Q, twice.
        target_critic: what the targets of Q are made with; follows `critic`.
        log_temperature: log τ.
        policy_optimiser, critic_optimiser, temperature_optimiser: Adam's moments.
        updates: done so far.
    """

    policy: Policy
    critic: Critic
    target_critic: Critic
    log_temperature: Float[Array, ""]
    policy_optimiser: optax.OptState
    critic_optimiser: optax.OptState
    temperature_optimiser: optax.OptState
    updates: Int[Array, ""]

    @property
    def temperature(self) -> Float[Array, ""]:
        """τ, in units of reward per nat."""
        return jnp.exp(self.log_temperature)


class SACStats(eqx.Module):
    """What one call of `SAC.update` saw, averaged over its updates.

    Attributes:
        critic_loss: ½ Σ (Q − y)² over both critics, in units of reward squared.
        actor_loss: E[τ log π − min Q], in units of reward.
        entropy: of the policy, in nats.
        q_mean: of both critics on the batch, in units of reward.
        temperature: τ, in units of reward per nat.
    """

    critic_loss: Float[Array, ""]
    actor_loss: Float[Array, ""]
    entropy: Float[Array, ""]
    q_mean: Float[Array, ""]
    temperature: Float[Array, ""]


class SAC(eqx.Module):
    """Soft actor-critic (Haarnoja et al., 2018) with twin critics and target networks.

    With discrete actions (Christodoulou, arXiv 1910.07207) expectations over actions are sums, not samples:
    in the target, the policy's loss and the temperature's.

    Args:
        hidden: widths of the hidden layers of policy and critics; of pictures, behind the convolutions.
        discount: γ in [0, 1).
        learning_rate: Adam's, for policy, critics and temperature.
        batch_size: transitions per update.
        polyak: step of the target networks towards the critics at each update.
        temperature: a fixed τ > 0 in units of reward, or None to tune τ until the policy's entropy is
            `target_entropy`.
        target_entropy: nats; None means −(number of action dimensions), or with discrete actions 0.89 log A.
        target_every: updates between two copies of the critics into the targets, in place of `polyak`.
        adam_epsilon: Adam's ε.
        decay_updates: updates over which the learning rate falls to 0 along a line; None: it stays.
        skip_not_finite: whether a gradient that is not finite moves nothing.

    Raises:
        InputError: a size, rate or temperature that is out of range.
    """

    hidden: tuple[int, ...] = eqx.field(static=True, default=(256, 256))
    discount: float = eqx.field(static=True, default=0.99)
    learning_rate: float = eqx.field(static=True, default=3e-4)
    batch_size: int = eqx.field(static=True, default=256)
    polyak: float = eqx.field(static=True, default=0.005)
    temperature: float | None = eqx.field(static=True, default=None)
    target_entropy: float | None = eqx.field(static=True, default=None)
    target_every: int | None = eqx.field(static=True, default=None)
    adam_epsilon: float = eqx.field(static=True, default=1e-8)
    decay_updates: int | None = eqx.field(static=True, default=None)
    skip_not_finite: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if not 0.0 <= self.discount < 1.0:
            raise InputError(f"discount is {self.discount}; give 0 <= discount < 1, such as 0.99")
        if self.temperature is not None and not self.temperature > 0.0:
            raise InputError(f"temperature is {self.temperature}; give a positive number, or None to tune it")
        if self.batch_size < 1 or self.learning_rate <= 0.0 or not 0.0 < self.polyak <= 1.0:
            raise InputError("batch_size must be at least 1, learning_rate positive and polyak in (0, 1]")
        counts = [count for count in (self.target_every, self.decay_updates) if count is not None]
        if min(counts, default=1) < 1 or not self.adam_epsilon > 0.0:
            raise InputError("target_every and decay_updates must be at least 1, adam_epsilon positive")

    def init(
        self,
        observation: int | ImageSpec,
        action_size: int,
        *,
        discrete: bool = False,
        key: PRNGKeyArray,
    ) -> SACState:
        """Fresh networks and optimisers; τ starts at 1 when it is tuned.

        Args:
            observation: size of a vector, or the look of a picture.
            action_size: length of an action; if `discrete`, how many there are.
            discrete: whether actions are indices.
            key: all randomness.
        """
        policy_key, critic_key = jax.random.split(key)
        make_policy = CategoricalPolicy if discrete else TanhGaussianPolicy
        make_critic = DiscreteTwinCritic if discrete else TwinCritic
        policy = make_policy(observation, action_size, self.hidden, key=policy_key)
        critic = make_critic(observation, action_size, self.hidden, key=critic_key)
        log_temperature = jnp.log(jnp.asarray(self.temperature or 1.0, jnp.float32))
        optimiser = self._optimiser()
        return SACState(
            policy=policy,
            critic=critic,
            # A copy: the caller may donate the state, and a buffer can be donated once only.
            target_critic=jax.tree.map(jnp.copy, critic),
            log_temperature=log_temperature,
            policy_optimiser=optimiser.init(eqx.filter(policy, eqx.is_array)),
            critic_optimiser=optimiser.init(eqx.filter(critic, eqx.is_array)),
            temperature_optimiser=optimiser.init(log_temperature),
            updates=jnp.zeros((), jnp.int32),
        )

    def update(
        self, state: SACState, replay: Replay, reward_fn: RewardFn, num_updates: int, key: PRNGKeyArray
    ) -> tuple[SACState, SACStats]:
        """`num_updates` gradient updates in one compiled call, each on a fresh batch of `replay`.

        `reward_fn` maps one transition to its reward; it is constant during the call.

        Args:
            state: before the first update.
            replay: where batches are drawn from.
            reward_fn: r of one transition.
            num_updates: at least 1.
            key: of batches and fresh actions.
        """
        batch_key, noise_key = jax.random.split(key)
        batches = sample(replay, batch_key, (num_updates, self.batch_size))
        return self.update_on_batches(state, batches, reward_fn, noise_key)

    def update_on_batches(
        self, state: SACState, batches: Transition, reward_fn: RewardFn, key: PRNGKeyArray
    ) -> tuple[SACState, SACStats]:
        """One gradient update on each of the batches, (updates, batch size) transitions.

        The rewards of all are computed together before the first update.

        Args:
            state: before the first update.
            batches: one batch for each update.
            reward_fn: r of one transition.
            key: of fresh actions.
        """
        rewards = jax.vmap(jax.vmap(reward_fn))(batches)
        # Two actions per transition: one at s for the policy's loss, one at s' for the target.
        noise = jax.random.normal(key, (*rewards.shape, 2, state.policy.noise_size))

        def body(carry: SACState, inputs: tuple[Transition, Array, Array]) -> tuple[SACState, SACStats]:
            return self.update_on_batch(carry, *inputs)

        state, stats = jax.lax.scan(body, state, (batches, rewards, noise))
        return state, jax.tree.map(jnp.mean, stats)

    def update_on_batch(
        self,
        state: SACState,
        batch: Transition,
        reward: Float[Array, " b"],
        noise: Float[Array, "b 2 a"],
    ) -> tuple[SACState, SACStats]:
        """One update of critics, policy, temperature and targets on one batch, in that order.

        The policy answers to the new critics; all the rest is of before the update.

        Args:
            state: before the update.
            batch: transitions, (b,).
            reward: r of each, (b,).
            noise: (b, 2, a), standard normal: of an action at s and of one at s'.
        """
        optimiser = self._optimiser()
        temperature = state.temperature

        def soft_values(
            policy: Policy, critic: Critic, observation: Array, noise: Array
        ) -> tuple[Array, Array]:
            one = lambda o, n: policy.soft_value(critic, o, n, temperature)  # noqa: E731  # pyright: ignore[reportArgumentType]
            return jax.vmap(one)(observation, noise)

        def policy_objective(policy: Policy, critic: Critic) -> tuple[Array, Array]:
            value, entropy = soft_values(policy, critic, batch.observation, noise[:, 0])
            return jnp.mean(jax.vmap(actor_loss)(value)), entropy

        next_value, _ = soft_values(state.policy, state.target_critic, batch.next_observation, noise[:, 1])
        target = jax.vmap(soft_target, (0, 0, 0, None))(reward, batch.terminated, next_value, self.discount)

        def critic_objective(critic: Critic) -> tuple[Array, Array]:
            q_values = jax.vmap(critic)(batch.observation, batch.action)
            return jnp.mean(jax.vmap(critic_loss)(q_values, target)), jnp.mean(q_values)

        (critic_value, q_mean), critic_grad = jax.value_and_grad(critic_objective, has_aux=True)(state.critic)
        critic_step, critic_optimiser = optimiser.update(critic_grad, state.critic_optimiser)
        critic = eqx.apply_updates(state.critic, critic_step)

        (policy_value, entropy), policy_grad = jax.value_and_grad(policy_objective, has_aux=True)(
            state.policy, critic
        )
        policy_step, policy_optimiser = optimiser.update(policy_grad, state.policy_optimiser)

        log_temperature, temperature_optimiser = state.log_temperature, state.temperature_optimiser
        if self.temperature is None:
            wanted = self._target_entropy(state)
            grad = jax.grad(
                lambda value: jnp.mean(jax.vmap(temperature_loss, (None, 0, None))(value, entropy, wanted))
            )(log_temperature)
            step, temperature_optimiser = optimiser.update(grad, temperature_optimiser)
            log_temperature = eqx.apply_updates(log_temperature, step)

        updates = state.updates + 1
        new_state = SACState(
            policy=eqx.apply_updates(state.policy, policy_step),
            critic=critic,
            target_critic=self._targets(critic, state.target_critic, updates),
            log_temperature=log_temperature,
            policy_optimiser=policy_optimiser,
            critic_optimiser=critic_optimiser,
            temperature_optimiser=temperature_optimiser,
            updates=updates,
        )
        return new_state, SACStats(critic_value, policy_value, jnp.mean(entropy), q_mean, temperature)

    def bellman_residual(
        self, state: SACState, batch: Transition, reward: Float[Array, " b"], key: PRNGKeyArray
    ) -> Float[Array, ""]:
        """Root mean square over a batch of min Q(s, a) − (r + γ (1 − terminated) V(s')), in units of reward.

        V(s') = min Q(s', a') − τ log π(a'|s') with one fresh a': its noise is part of the number, and so is
        what the simulator leaves to chance. Critics of now, not the targets.

        Args:
            state: networks and τ of now.
            batch: transitions, (b,).
            reward: r of each, (b,).
            key: of a'.
        """

        def gap(transition: Transition, reward: Float[Array, ""], key: PRNGKeyArray) -> Float[Array, ""]:
            noise = jax.random.normal(key, (state.policy.noise_size,))
            policy: Any = state.policy
            value, _ = policy.soft_value(state.critic, transition.next_observation, noise, state.temperature)
            target = soft_target(reward, transition.terminated, value, self.discount)
            return jnp.min(state.critic(transition.observation, transition.action)) - target

        keys = jax.random.split(key, reward.shape[0])
        return jnp.sqrt(jnp.mean(jax.vmap(gap)(batch, reward, keys) ** 2))

    def _targets(self, critic: Critic, old: Critic, updates: Int[Array, ""]) -> Critic:
        if self.target_every is None:
            return jax.tree.map(lambda new, old: self.polyak * new + (1.0 - self.polyak) * old, critic, old)
        due = updates % self.target_every == 0
        return jax.tree.map(lambda new, old: jnp.where(due, new, old), critic, old)

    def _target_entropy(self, state: SACState) -> float:
        if self.target_entropy is not None:
            return self.target_entropy
        size = state.policy.trunk.biases[-1].shape[0]
        if isinstance(state.policy, CategoricalPolicy):
            return _SHARE_OF_UNIFORM * math.log(size)
        return -float(state.policy.noise_size)

    def _optimiser(self) -> optax.GradientTransformation:
        rate: Any = self.learning_rate
        if self.decay_updates is not None:
            rate = optax.linear_schedule(rate, 0.0, self.decay_updates)
        return adam(rate, self.adam_epsilon, skip_not_finite=self.skip_not_finite)


def act(policy: Policy, observation: Shaped[Array, "n *o"], key: PRNGKeyArray) -> Shaped[Array, "n *a"]:
    """One sampled action for each observation.

    Args:
        policy: π.
        observation: (n, *o).
        key: split into one for each.
    """
    return jax.vmap(policy.sample)(observation, jax.random.split(key, observation.shape[0]))


def act_greedily(policy: Policy, observation: Shaped[Array, "n *o"]) -> Shaped[Array, "n *a"]:
    """The mode of the policy at each observation.

    Args:
        policy: π.
        observation: (n, *o).
    """
    return jax.vmap(policy.mode)(observation)
