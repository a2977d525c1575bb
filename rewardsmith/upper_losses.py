"""Upper losses that leaders often have, as functions of (x, π) on a table; all to be minimised."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from ._core import InputError
from .mdp import MDP, roll_out, state_occupancy
from .problem import ClipLoss, Label, RewardAt, moved_world


class LeaderReturn(eqx.Module):
    """The leader's own discounted return, to be maximised: f = −Σ_{s,a} d(s) π(a|s) r_L(x)(s,a).

    d is the occupancy of π from ρ at the leader's discount. The leader may pay for what it gives: r_L is a
    function of x. (HPGD: Thoma et al., NeurIPS 2024, arXiv 2406.01575.)

    Args:
        world: the follower's.
        reward: x -> r_L, (S, A), per step.
        discount: γ_L, a number; None: the world's.
        transition: x -> P where the leader moves the world, the same as the problem's.
        tolerance: of the occupancy, relative to the largest entry of ρ, in worlds of more than 1,000 states.

    Raises:
        InputError: a discount outside [0, 1).
    """

    world: MDP
    reward: Callable[[Any], Array]
    discount: Float[Array, ""]
    transition: Callable[[Any], Any] | None
    tolerance: float = eqx.field(static=True)

    def __init__(
        self,
        world: MDP,
        reward: Callable[[Any], Array],
        discount: ArrayLike | None = None,
        transition: Callable[[Any], Any] | None = None,
        tolerance: float = 1e-10,
    ):
        self.world, self.reward, self.transition = world, reward, transition
        self.tolerance = tolerance
        self.discount = world.discount if discount is None else jnp.asarray(discount, world.initial.dtype)
        if not isinstance(self.discount, Tracer) and not 0 <= float(self.discount) < 1:
            raise InputError(f"discount is {float(self.discount)}; give 0 <= discount < 1, such as 0.99")

    def __call__(self, x: PyTree, policy: Float[Array, "S A"]) -> Float[Array, ""]:
        """−F(x, π).

        Args:
            x: the leader's parameters.
            policy: π, (S, A), rows sum to 1.
        """
        world = self.leader_world(x)
        visits = state_occupancy(world, policy, tolerance=self.tolerance)
        return -jnp.sum(visits[:, None] * policy * self.reward(x))

    def leader_world(self, x: PyTree) -> MDP:
        """The world at x as the leader counts it: with γ_L."""
        world = self.world if self.transition is None else moved_world(self.world, self.transition(x))
        return eqx.tree_at(lambda held: held.discount, world, self.discount)


class NetReturn(eqx.Module):
    """What a leader earns, less what its x costs it at once: f = f_return(x, π) + c(x).

    Args:
        earned: the return, minus its value; its own rewards may depend on x too.
        cost: c, x -> scalar.
    """

    earned: LeaderReturn
    cost: Callable[[Any], Array]

    def __call__(self, x: PyTree, policy: Float[Array, "S A"]) -> Float[Array, ""]:
        """−F(x, π) + c(x)."""
        return self.earned(x, policy) + self.cost(x)


class ReturnLoss(ClipLoss):
    """The leader's return as a loss on one clip: l = c(x) − Σ_h γ_L^h r_L(x, s_h, a_h), h from 0 to H − 1.

    A `LeaderReturn` or `NetReturn` cut off after H steps, to be sampled instead of summed.

    Args:
        horizon: H.
        reward: (x, observation, action) -> r_L of one step.
        discount: γ_L.
        cost: c, x -> scalar; None: 0.
    """

    num_clips: int = eqx.field(default=1, init=False, static=True)
    horizon: int = eqx.field(static=True)
    reward: Callable[[Any, Any, Any], Array]
    discount: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    cost: Callable[[Any], Array] | None = None

    def __check_init__(self):
        if self.horizon < 1:
            raise InputError(f"horizon is {self.horizon}; give a number of steps >= 1")

    def __call__(
        self,
        x: PyTree,
        reward_at: RewardAt,
        observations: Shaped[Array, "I H ..."],
        actions: Shaped[Array, "I H ..."],
        label: Label = None,
    ) -> Float[Array, ""]:
        """See `ClipLoss`; neither r_x nor a label has a part in it."""
        earned = self.to_go(x, reward_at, observations, actions, label)[0, 0]
        return earned if self.cost is None else earned + self.cost(x)

    def to_go(
        self,
        x: PyTree,
        reward_at: RewardAt,
        observations: Shaped[Array, "I H ..."],
        actions: Shaped[Array, "I H ..."],
        label: Label = None,
    ) -> Float[Array, "I H"]:
        """See `ClipLoss.to_go`: −Σ_{k>=h} γ_L^k r_L, what came before h being settled."""
        del reward_at, label
        earned = jax.vmap(lambda o, a: self.reward(x, o, a))(observations[0], actions[0])
        powers = jnp.cumprod(jnp.full(self.horizon, self.discount).at[0].set(1.0))
        return -jnp.cumsum((powers * earned)[::-1])[::-1][None]


class DemonstrationLoss(eqx.Module):
    """Cross-entropy of demonstrated actions: f = −Σ_{s,a} n(s,a) log π(a|s) / Σ n.

    With a linear reward its hyper-gradient is that of maximum-entropy inverse reinforcement learning.

    Args:
        counts: n, (S, A), how often each action was seen in each state.

    Raises:
        InputError: another shape, a negative count, or none above 0.
    """

    counts: Float[Array, "S A"]

    def __init__(self, counts: ArrayLike | Sequence[object]):
        self.counts = jnp.asarray(counts, float)
        if not isinstance(self.counts, Tracer):
            n = np.asarray(self.counts)
            if n.ndim != 2 or not np.all(n >= 0) or not 0 < n.sum() < np.inf:
                raise InputError(
                    "counts must be (states, actions), >= 0 and not all 0: what was demonstrated"
                )

    def __call__(self, x: PyTree, policy: Float[Array, "S A"]) -> Float[Array, ""]:
        """Mean of −log π over the demonstrations.

        Args:
            x: not looked at.
            policy: π, (S, A), rows sum to 1.
        """
        del x
        seen = self.counts > 0
        logs = jnp.where(seen, jnp.log(jnp.where(seen, policy, 1.0)), 0.0)
        return -jnp.sum(self.counts * logs) / jnp.sum(self.counts)


class PolicyDivergence(eqx.Module):
    """Divergence from a policy that is wanted: f = Σ_s w(s) Σ_a μ log(μ/π).

    Args:
        target: μ, (S, A), rows sum to 1.
        weights: w, (S,), >= 0; None: 1/S each.

    Raises:
        InputError: other shapes, or a row that is not a distribution.
    """

    target: Float[Array, "S A"]
    weights: Float[Array, " S"]

    def __init__(
        self, target: ArrayLike | Sequence[object], weights: ArrayLike | Sequence[object] | None = None
    ):
        self.target = jnp.asarray(target, float)
        if self.target.ndim != 2:
            raise InputError(f"target has shape {self.target.shape}; give (states, actions)")
        states = self.target.shape[0]
        self.weights = jnp.full(states, 1 / states) if weights is None else jnp.asarray(weights, float)
        if self.weights.shape != (states,):
            raise InputError(f"weights has shape {self.weights.shape}; give one a state: ({states},)")
        if not isinstance(self.target, Tracer):
            mu = np.asarray(self.target)
            if not (np.all(mu >= 0) and np.all(abs(mu.sum(axis=1) - 1) <= 1e-5)):
                raise InputError("target rows must be distributions; divide each row by its sum")

    def __call__(self, x: PyTree, policy: Float[Array, "S A"]) -> Float[Array, ""]:
        """Weighted KL(μ ‖ π).

        Args:
            x: not looked at.
            policy: π, (S, A), rows sum to 1.
        """
        del x
        wanted = self.target > 0
        ratio = jnp.where(wanted, self.target, 1.0) / jnp.where(wanted, policy, 1.0)
        return jnp.sum(self.weights[:, None] * jnp.where(wanted, self.target * jnp.log(ratio), 0.0))


class SampledClipLoss(eqx.Module):
    """A `ClipLoss` by drawing clips under π, where there are too many to enumerate.

        f ≈ (1/N) Σ_n l_n,    ∂f/∂π ≈ (1/N) Σ_n (l_n − b_n) Σ_i Σ_h ∇ log π(a_h^i | s_h^i)

    Both are unbiased; b_n is the mean of the other losses. The same random numbers are used at every call, so
    that f is a function of (x, π): make it anew with another key for another draw. Clips start at ρ.

    Args:
        loss: l, its number of clips and their horizon.
        world: must not end, as clips cannot cross an end, and not be moved by the leader.
        reward: x -> r_x, (S, A), the problem's.
        num_samples: N tuples of clips, >= 2.
        key: all randomness.

    Raises:
        InputError: fewer than 2 samples, or a world that ends.
    """

    loss: ClipLoss
    world: MDP
    reward: Callable[[Any], Array]
    num_samples: int = eqx.field(static=True)
    key: PRNGKeyArray

    def __check_init__(self):
        if self.num_samples < 2:
            raise InputError(f"num_samples is {self.num_samples}; give at least 2")
        if not isinstance(self.world.terminal, Tracer) and np.asarray(self.world.terminal).any():
            raise InputError(
                "clips cannot cross an end: let terminal states lead to themselves with reward 0"
            )

    def __call__(self, x: PyTree, policy: Float[Array, "S A"]) -> Float[Array, ""]:
        """The mean of l over the draw; its derivative in `policy` is the estimate above, not that mean's."""
        count, clips, horizon = self.num_samples, self.loss.num_clips, self.loss.horizon
        drawn = roll_out(self.world, jax.lax.stop_gradient(policy), self.key, count * clips, horizon)
        states = drawn.states.reshape(count, clips, horizon)
        actions = drawn.actions.reshape(count, clips, horizon)
        table = self.reward(x)

        def reward_at(state: Array, action: Array) -> Array:
            return table[state, action]

        losses = jax.vmap(lambda s, a: self.loss(x, reward_at, s, a))(states, actions)
        held = jax.lax.stop_gradient(losses)
        others = (jnp.sum(held) - held) / (count - 1)
        score = jnp.sum(jnp.log(policy[states, actions]), axis=(1, 2))
        # Worth nothing, but with the derivative that the draw itself does not have.
        drift = (held - others) * (score - jax.lax.stop_gradient(score))
        return jnp.mean(losses + drift)
