"""BC-HG with a deep follower: a learned critic of the leader, centred, times the rest of the trajectory."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from ..._core import MLP, InputError
from ...problem import AnyProblem
from ._credits import credited_term
from .baselines import ConstantBaseline
from .data import Evidence, LabelledClips, Needs, Policy
from .estimator import Features, minus_expected
from .features import Pairs
from .leader import Leader, LeaderState, LeaderStats, check_mixture, descend, mixed, start
from .terms import centred_losses, first_term


def _sizes(hidden: Sequence[int]) -> tuple[int, ...]:
    return tuple(hidden)


class LeaderCritic(eqx.Module):
    """Q_L and the state of the optimiser that fits it."""

    network: MLP
    optimiser: optax.OptState


class SampledBCHG(Leader):
    """Boltzmann covariance hyper-gradient: one centred factor is enough, and it is the leader's.

        ∇φ = E[∇_x l] + (1/τ) E[ Σ_i Σ_h A_L(s_h, a_h) Σ_{k>=h} γ^{k−h} ∇r(s_k, a_k) ]
        A_L(s, a) = Q_L(s, a) − E_{a'~π} Q_L(s, a'),      Q_L ≈ E[l | s_h, a_h]

    The rest of the one trajectory is a sample of ∇Q_F, never centred and never averaged: no second visit of
    a state. Q_L is a network of (s, a) and h/H, kept from step to step, fitted by mean squares to the loss
    to go, less its mean at step h, which A_L does not see. The mean of Q_L is one over fresh actions.

    A critic that had seen the clips it weighs would bring back the covariance of their losses and later
    rewards, so each step first weighs with the critic of the step before and then fits it. It starts at 0:
    the first step has no second term. Where steps share clips, as those of one session on a queue do, an
    earlier fit has seen some of them, and a little of that covariance stays.

    Unbiased for the right Q_L but for γ^T. A critic that lags or misses something of E[l | s, a] biases
    the term by E[(error of A_L) ∇Q_F].

    Source: Kudo, Tanabe, Wachi and Akimoto, ICAPS 2026, arXiv 2603.14867. Departures: a network for the
    table; losses to go for the targets of SARSA, which is SARSA(1), no bootstrap; h as an input, since a
    clip is finite; the newest comparisons for fresh clips.

    Args:
        optimiser: turns the gradient into a step of x.
        hidden: widths of the critic's layers; () makes it linear.
        critic_learning_rate: of its Adam.
        critic_steps: its steps on all newest clips, each leader step.
        further: T, steps behind the clip.
        num_actions: fresh actions a' for the mean of Q_L.
        features: what the critic sees of one observation and action; both, flat, unless given.
        weight, bound: of the second term, as in `SoBiRL`.

    Raises:
        InputError: a size or rate below what it can be.
    """

    optimiser: optax.GradientTransformation = eqx.field(static=True)
    hidden: Sequence[int] = eqx.field(default=(64, 64), static=True, converter=_sizes)
    critic_learning_rate: float = eqx.field(default=1e-3, static=True)
    critic_steps: int = eqx.field(default=4, static=True)
    further: int = eqx.field(default=100, static=True)
    num_actions: int = eqx.field(default=4, static=True)
    features: Features = eqx.field(default=Pairs(), static=True)
    weight: float = eqx.field(default=1.0, static=True)
    bound: float | None = eqx.field(default=None, static=True)

    def __check_init__(self) -> None:
        if self.num_actions < 1 or self.further < 0 or self.critic_steps < 1:
            raise InputError("num_actions and critic_steps must be at least 1 and further at least 0")
        if min(self.hidden, default=1) < 1:
            raise InputError(f"hidden is {self.hidden}; give widths of at least 1, or () for a linear critic")
        if not 0.0 < self.critic_learning_rate < jnp.inf:
            raise InputError(
                f"critic_learning_rate is {self.critic_learning_rate}; give a positive number, such as 0.001"
            )
        check_mixture(self.weight, self.bound)

    @property
    def needs(self) -> Needs:
        """See `Leader.needs`: T steps behind each clip."""
        return Needs(further=self.further)

    def init(self, x: PyTree, observation: Any, action: Any, key: PRNGKeyArray) -> LeaderState:
        """See `Leader.init`; the critic starts at 0."""
        size = jax.eval_shape(self.features, observation, action).shape[0]
        network = MLP([size + 1, *self.hidden, 1], key=key)
        network = eqx.tree_at(
            lambda n: (n.weights[-1], n.biases[-1]), network, replace_fn=lambda leaf: jnp.zeros_like(leaf)
        )
        return start(self.optimiser, x, LeaderCritic(network, self._adam.init(network)))

    def step(
        self, problem: AnyProblem, state: LeaderState, evidence: Evidence, key: PRNGKeyArray
    ) -> tuple[LeaderState, LeaderStats]:
        """See `Leader.step`."""
        clips = evidence.recent
        loss, first = first_term(problem, state.x, evidence.clips)
        losses = centred_losses(problem, state.x, clips, ConstantBaseline())
        advantages = self.advantages(
            state.memory.network, clips, losses.shape[2], evidence.follower.policy, key
        )
        second = credited_term(problem, state.x, clips, evidence.follower, advantages)
        gradient, stats = mixed(loss, first, second, self.weight, self.bound)
        moved = descend(self.optimiser, state, gradient)
        critic = self._fit(state.memory, clips, losses)
        return LeaderState(moved.x, moved.optimiser, critic), stats

    def advantages(
        self, network: MLP, clips: LabelledClips, horizon: int, policy: Policy, key: PRNGKeyArray
    ) -> Float[Array, "B I H"]:
        """A_L at the H steps of every clip, constants.

        Args:
            network: the leader's critic.
            clips: B tuples.
            horizon: H, steps of a clip that are compared.
            policy: π.
            key: of fresh actions.
        """

        def at_step(
            observations: Shaped[Array, "B I ..."],
            actions: Shaped[Array, "B I ..."],
            position: Float[Array, ""],
            key: PRNGKeyArray,
        ) -> Float[Array, "B I"]:
            return minus_expected(
                lambda observation, action: self._value(network, observation, action, position),
                observations[:, :, None],
                actions[:, :, None],
                policy,
                self.num_actions,
                key,
            )[:, :, 0]

        keys = jax.random.split(key, horizon)
        values = jax.vmap(at_step, (2, 2, 0, 0), 2)(
            clips.observations[:, :, :horizon], clips.actions[:, :, :horizon], _positions(horizon), keys
        )
        return jax.lax.stop_gradient(values)

    @property
    def _adam(self) -> optax.GradientTransformation:
        return optax.adam(self.critic_learning_rate)

    def _value(
        self, network: MLP, observation: Any, action: Any, position: Float[Array, ""]
    ) -> Float[Array, ""]:
        seen = jnp.append(self.features(observation, action), position)
        return network(seen.astype(network.biases[0].dtype))[0]

    def _fit(self, critic: LeaderCritic, clips: LabelledClips, losses: Float[Array, "B I H"]) -> LeaderCritic:
        horizon = losses.shape[2]
        observations, actions = clips.observations[:, :, :horizon], clips.actions[:, :, :horizon]

        def error(network: MLP) -> Float[Array, ""]:
            def predict(observation: Array, action: Array, position: Array) -> Array:
                return self._value(network, observation, action, position)

            by_clip = jax.vmap(jax.vmap(predict), (0, 0, None))
            fitted = jax.vmap(by_clip, (0, 0, None))(observations, actions, _positions(horizon))
            return jnp.mean((fitted - losses) ** 2)

        def improve(critic: LeaderCritic, _: None) -> tuple[LeaderCritic, None]:
            updates, optimiser = self._adam.update(jax.grad(error)(critic.network), critic.optimiser)
            return LeaderCritic(eqx.apply_updates(critic.network, updates), optimiser), None

        return jax.lax.scan(improve, critic, length=self.critic_steps)[0]


def _positions(horizon: int) -> Float[Array, " H"]:
    return jnp.arange(horizon) / horizon
