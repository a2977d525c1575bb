"""Soft actor-critic for continuous actions, with the reward handed in anew at every call.

The follower of a bilevel problem must answer to the leader's *current* reward, so nothing here stores
one: `SAC.update` gets a reward function and applies it to each batch it draws.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from .._core import InputError
from .losses import actor_loss, critic_loss, soft_target, temperature_loss
from .networks import TanhGaussianPolicy, TwinCritic
from .replay import Replay, Transition, sample

RewardFn = Callable[[Transition], Float[Array, ""]]


class SACState(eqx.Module):
    """All that soft actor-critic carries from update to update."""

    policy: TanhGaussianPolicy
    critic: TwinCritic
    target_critic: TwinCritic
    log_temperature: Float[Array, ""]
    policy_optimiser: optax.OptState
    critic_optimiser: optax.OptState
    temperature_optimiser: optax.OptState

    @property
    def temperature(self) -> Float[Array, ""]:
        """τ, in units of reward per nat."""
        return jnp.exp(self.log_temperature)


class SACStats(eqx.Module):
    """What one call of `SAC.update` saw, averaged over its updates."""

    critic_loss: Float[Array, ""]
    actor_loss: Float[Array, ""]
    entropy: Float[Array, ""]
    q_mean: Float[Array, ""]
    temperature: Float[Array, ""]


class SAC(eqx.Module):
    """Soft actor-critic (Haarnoja et al., 2018) with twin critics and target networks.

    Args:
        hidden: widths of the hidden layers of policy and critics.
        discount: γ in [0, 1).
        learning_rate: Adam's, for policy, critics and temperature.
        batch_size: transitions per update.
        polyak: step of the target networks towards the critics at each update.
        temperature: a fixed τ > 0, or None to tune τ until the policy's entropy is `target_entropy`.
        target_entropy: nats; None means −(number of action dimensions).
    """

    hidden: tuple[int, ...] = eqx.field(static=True, default=(256, 256))
    discount: float = eqx.field(static=True, default=0.99)
    learning_rate: float = eqx.field(static=True, default=3e-4)
    batch_size: int = eqx.field(static=True, default=256)
    polyak: float = eqx.field(static=True, default=0.005)
    temperature: float | None = eqx.field(static=True, default=None)
    target_entropy: float | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if not 0.0 <= self.discount < 1.0:
            raise InputError(f"discount is {self.discount}; give 0 <= discount < 1, such as 0.99")
        if self.temperature is not None and not self.temperature > 0.0:
            raise InputError(f"temperature is {self.temperature}; give a positive number, or None to tune it")
        if self.batch_size < 1 or self.learning_rate <= 0.0 or not 0.0 < self.polyak <= 1.0:
            raise InputError("batch_size must be at least 1, learning_rate positive and polyak in (0, 1]")

    def init(self, observation_size: int, action_size: int, *, key: PRNGKeyArray) -> SACState:
        """Fresh networks and optimisers; τ starts at 1 when it is tuned."""
        policy_key, critic_key = jax.random.split(key)
        policy = TanhGaussianPolicy(observation_size, action_size, self.hidden, key=policy_key)
        critic = TwinCritic(observation_size, action_size, self.hidden, key=critic_key)
        log_temperature = jnp.log(jnp.asarray(self.temperature or 1.0, jnp.float32))
        adam = self._optimiser()
        return SACState(
            policy=policy,
            critic=critic,
            # A copy: the caller may donate the state, and a buffer can be donated once only.
            target_critic=jax.tree.map(jnp.copy, critic),
            log_temperature=log_temperature,
            policy_optimiser=adam.init(eqx.filter(policy, eqx.is_array)),
            critic_optimiser=adam.init(eqx.filter(critic, eqx.is_array)),
            temperature_optimiser=adam.init(log_temperature),
        )

    def update(
        self, state: SACState, replay: Replay, reward_fn: RewardFn, num_updates: int, key: PRNGKeyArray
    ) -> tuple[SACState, SACStats]:
        """`num_updates` gradient updates in one compiled call, each on a fresh batch of `replay`.

        `reward_fn` maps one transition to its reward. It is constant during the call, so the rewards of
        all the batches are computed together before the first update.
        """
        batch_key, noise_key = jax.random.split(key)
        shape = (num_updates, self.batch_size)
        batches = sample(replay, batch_key, shape)
        rewards = jax.vmap(jax.vmap(reward_fn))(batches)
        # Two actions per transition: one at s for the policy's loss, one at s' for the target.
        noise = jax.random.normal(noise_key, (*shape, 2, batches.action.shape[-1]))

        def body(carry: SACState, inputs):
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
        """
        adam = self._optimiser()

        def policy_objective(policy: TanhGaussianPolicy, critic: TwinCritic, temperature: Float[Array, ""]):
            action, log_prob = jax.vmap(policy.sample_from_noise)(batch.observation, noise[:, 0])
            q_values = jax.vmap(critic)(batch.observation, action)
            return jnp.mean(jax.vmap(actor_loss, (0, 0, None))(q_values, log_prob, temperature)), log_prob

        temperature = state.temperature
        next_action, next_log_prob = jax.vmap(state.policy.sample_from_noise)(
            batch.next_observation, noise[:, 1]
        )
        next_q_values = jax.vmap(state.target_critic)(batch.next_observation, next_action)
        target = jax.vmap(soft_target, (0, 0, 0, 0, None, None))(
            reward, batch.terminated, next_q_values, next_log_prob, temperature, self.discount
        )

        def critic_objective(critic: TwinCritic):
            q_values = jax.vmap(critic)(batch.observation, batch.action)
            return jnp.mean(jax.vmap(critic_loss)(q_values, target)), jnp.mean(q_values)

        (critic_value, q_mean), critic_grad = jax.value_and_grad(critic_objective, has_aux=True)(state.critic)
        critic_step, critic_optimiser = adam.update(critic_grad, state.critic_optimiser)
        critic = eqx.apply_updates(state.critic, critic_step)

        (policy_value, log_prob), policy_grad = jax.value_and_grad(policy_objective, has_aux=True)(
            state.policy, critic, temperature
        )
        policy_step, policy_optimiser = adam.update(policy_grad, state.policy_optimiser)

        log_temperature, temperature_optimiser = state.log_temperature, state.temperature_optimiser
        if self.temperature is None:
            entropy_target = -float(noise.shape[-1]) if self.target_entropy is None else self.target_entropy
            grad = jax.grad(
                lambda value: jnp.mean(
                    jax.vmap(temperature_loss, (None, 0, None))(value, log_prob, entropy_target)
                )
            )(log_temperature)
            step, temperature_optimiser = adam.update(grad, temperature_optimiser)
            log_temperature = eqx.apply_updates(log_temperature, step)

        new_state = SACState(
            policy=eqx.apply_updates(state.policy, policy_step),
            critic=critic,
            target_critic=jax.tree.map(self._average, critic, state.target_critic),
            log_temperature=log_temperature,
            policy_optimiser=policy_optimiser,
            critic_optimiser=critic_optimiser,
            temperature_optimiser=temperature_optimiser,
        )
        return new_state, SACStats(critic_value, policy_value, -jnp.mean(log_prob), q_mean, temperature)

    def bellman_residual(
        self, state: SACState, batch: Transition, reward: Float[Array, " b"], key: PRNGKeyArray
    ) -> Float[Array, ""]:
        """Root mean square over a batch of min Q(s, a) − (r + γ (1 − terminated) V(s')), in units of reward.

        V(s') = min Q(s', a') − τ log π(a'|s') with one fresh a': its noise is part of the number, and so is
        what the simulator leaves to chance. Critics of now, not the targets.
        """

        def gap(transition: Transition, reward: Float[Array, ""], key: PRNGKeyArray) -> Float[Array, ""]:
            noise = jax.random.normal(key, transition.action.shape)
            action, log_prob = state.policy.sample_from_noise(transition.next_observation, noise)
            target = soft_target(
                reward,
                transition.terminated,
                state.critic(transition.next_observation, action),
                log_prob,
                state.temperature,
                self.discount,
            )
            return jnp.min(state.critic(transition.observation, transition.action)) - target

        keys = jax.random.split(key, reward.shape[0])
        return jnp.sqrt(jnp.mean(jax.vmap(gap)(batch, reward, keys) ** 2))

    def _average(self, new: Array, old: Array) -> Array:
        return self.polyak * new + (1.0 - self.polyak) * old

    def _optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)


def act(
    policy: TanhGaussianPolicy, observation: Float[Array, "n o"], key: PRNGKeyArray
) -> Float[Array, "n a"]:
    """One sampled action for each observation."""
    return jax.vmap(policy.sample)(observation, jax.random.split(key, observation.shape[0]))


def act_greedily(policy: TanhGaussianPolicy, observation: Float[Array, "n o"]) -> Float[Array, "n a"]:
    """The mode of the policy at each observation."""
    return jax.vmap(policy.mode)(observation)
