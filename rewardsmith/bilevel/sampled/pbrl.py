"""PBRL: x and a policy move together, a penalty holds the policy near the follower's best."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ..._core import InputError
from ...problem import AnyProblem
from ._blocks import over_tuples
from .baselines import Baseline, LinearBaseline
from .data import Evidence, Needs, Visits
from .estimator import Features, action_features, minus_expected
from .features import state_vector
from .leader import Leader, LeaderState, LeaderStats, check_mixture, descend, mixed, start
from .terms import centred_losses, first_term


class Credit(eqx.Module):
    """c(s, a) = u·f(s, a) − m·ψ(s) − m_0: what an action of y does to the upper loss."""

    action: Float[Array, " f"]
    state: Float[Array, " p"]
    constant: Float[Array, ""]


class CreditMean(eqx.Module):
    """What SampledPBRL remembers: running means of c and of E c² over y's actions, and of how many steps."""

    credit: Credit
    square: Float[Array, ""]
    steps: Int[Array, ""]


class SampledPBRL(Leader):
    """Penalty-based bilevel RL: min over x and policies y of f(x, y) + λ (V^{π*(x)} − V^y), value penalty.

        ∇ = ∂_x f(x, y) + λ (∇_x V^π̂ − ∇_x V^y),      ∇_x V^π = E_π[Σ_k γ^k ∇r(s_k, a_k)]

    Two policies act: y, whose clips are compared, and π̂ ≈ π*(x), who follows r_x. y minimises f − λ V^y and
    is a follower too, with reward

        r_x − c/λ,      c(s, a) = u·(f(s, a) − E_{a'~y} f(s, a'))

    c stands for the effect of an action on the upper loss. By the policy gradient theorem y's reward has the
    right slope if d(s) c(s, a) is that effect, summed over the clips, d the discounted occupancy of y: with z
    = f − E f, u is the solution of E_d[z zᵀ] u = E[Σ_i Σ_h w_h z_h], w = l − b. So a loss of a whole clip
    becomes a reward per step, wherever clips start, and c is the best in the span of z; one-hot features of a
    table miss nothing. u is fitted at each step; y follows the running mean. E_{a'~y} f is
    regressed on features ψ of the state, so that c costs no more than two inner products.

    Bias: O(1/λ), and a y and π̂ that lag behind: λ multiplies the difference of two occupancies that are each
    known from samples, so that the noise goes as λ too. No γ^T is cut off. On a table y is solved for the
    last step's c.

    Source: Shen, Yang and Chen, JMLR 26(114), arXiv 2402.06886. Departures: y follows a linearised f by its
    own SAC, entropy included, where the paper takes one gradient step of f + λp.

    Args:
        optimiser: turns the gradient into a step of x.
        baseline: b_h(s_h) of w.
        penalty: λ > 0, in units of f per unit of reward.
        features: f, of one observation and action; the action itself unless given.
        state_features: ψ; the observation unless given. One-hot on a table.
        ridge: of both regressions, relative to the second moment of each feature.
        num_actions: fresh actions a' for each expectation, at least 2.
        rate: share of the newest c in its running mean, 0 to 1. Less is less noise, and holds y from jumping
            to and fro where λτ is small beside the effect on f.
        clip: |c| is cut at so many times its root mean square over y's own actions; None: never. Features
            that are not one-hot extrapolate: of a y that is nearly deterministic c is known in a narrow range
            only, and y's reward is also taken at actions of the replay far outside.
        visited: steps of each policy for its occupancy, a leader step.
        weight, bound: of the penalty's gradient, as of the second term in `SoBiRL`. y answers to λ as it is.

    Raises:
        InputError: a penalty, ridge, rate, clip or number out of range.
    """

    optimiser: optax.GradientTransformation = eqx.field(static=True)
    baseline: Baseline = LinearBaseline()
    penalty: float = eqx.field(default=100.0, static=True)
    features: Features = eqx.field(default=action_features, static=True)
    state_features: Callable[[Any], Float[Array, " p"]] = eqx.field(default=state_vector, static=True)
    ridge: float = eqx.field(default=1e-2, static=True)
    num_actions: int = eqx.field(default=4, static=True)
    rate: float = eqx.field(default=0.1, static=True)
    clip: float | None = eqx.field(default=None, static=True)
    visited: int = eqx.field(default=2048, static=True)
    weight: float = eqx.field(default=1.0, static=True)
    bound: float | None = eqx.field(default=None, static=True)

    def __check_init__(self) -> None:
        check_mixture(self.weight, self.bound)
        if not 0.0 < self.penalty < jnp.inf:
            raise InputError(f"penalty is {self.penalty}; give a positive number, such as 100")
        if not 0.0 < self.ridge < jnp.inf:
            raise InputError(f"ridge is {self.ridge}; give a positive number, such as 0.01")
        if not 0.0 < self.rate <= 1.0:
            raise InputError(f"rate is {self.rate}; give more than 0 and at most 1")
        if self.clip is not None and not 0.0 < self.clip < jnp.inf:
            raise InputError(f"clip is {self.clip}; give a positive number, such as 3, or None")
        if self.num_actions < 2:
            raise InputError(f"num_actions is {self.num_actions}; give at least 2, to see them differ")
        if self.visited < 1:
            raise InputError(f"visited is {self.visited}; give at least 1, some thousands for less noise")

    @property
    def needs(self) -> Needs:
        """See `Leader.needs`: y and π̂, and steps of each."""
        return Needs(policies=2, visited=self.visited)

    def init(self, x: PyTree, observation: Any, action: Any, key: PRNGKeyArray) -> LeaderState:
        """See `Leader.init`; c = 0, so y = π*(x)."""
        dtype = jnp.result_type(float, *jax.tree.leaves(eqx.filter(x, eqx.is_inexact_array)))
        sizes = jax.eval_shape(
            lambda o, a: (self.features(o, a), self.state_features(o)), observation, action
        )
        u, m = (jnp.zeros(leaf.shape, dtype) for leaf in sizes)
        zero = Credit(u, m, jnp.zeros((), dtype))
        return start(self.optimiser, x, CreditMean(zero, jnp.zeros((), dtype), jnp.zeros((), jnp.int32)))

    def rewards(
        self, problem: AnyProblem, state: LeaderState, observation: Any, action: Any
    ) -> Float[Array, " policies"]:
        """See `Leader.rewards`: y's, then π̂'s."""
        reward, held = problem.reward_at(state.x, observation, action), state.memory.credit
        by_action = jnp.vdot(held.action, self.features(observation, action))
        credit = by_action - jnp.vdot(held.state, self.state_features(observation)) - held.constant
        if self.clip is not None:
            largest = self.clip * jnp.sqrt(state.memory.square)
            credit = jnp.clip(credit, -largest, largest)
        return jnp.stack([reward - (credit / self.penalty).astype(reward.dtype), reward])

    def step(
        self, problem: AnyProblem, state: LeaderState, evidence: Evidence, key: PRNGKeyArray
    ) -> tuple[LeaderState, LeaderStats]:
        """See `Leader.step`."""
        assert evidence.visited is not None, "Needs.visited"
        loss, first = first_term(problem, state.x, evidence.clips)
        second = self._penalty_gradient(problem, state.x, evidence.visited)
        gradient, stats = mixed(loss, first, second, self.weight, self.bound)
        moved = descend(self.optimiser, state, gradient)
        steps = state.memory.steps + 1
        # The first 1/rate steps count alike: c starts at 0, of which nothing should be left.
        share = jnp.maximum(self.rate, 1.0 / steps)
        credit, square = jax.tree.map(
            lambda old, new: old + (share * (new - old)).astype(old.dtype),
            (state.memory.credit, state.memory.square),
            self._credit(problem, state.x, evidence, key),
        )
        return eqx.tree_at(lambda s: s.memory, moved, CreditMean(credit, square, steps)), stats

    def _penalty_gradient(self, problem: AnyProblem, x: PyTree, visited: PyTree[Visits]) -> PyTree:
        """λ (∇_x V^π̂ − ∇_x V^y)."""
        signs = jnp.array([-self.penalty, self.penalty], visited.weights.dtype)
        coefficients = signs[:, None] * visited.weights

        def objective(x: PyTree) -> Float[Array, ""]:
            def reward(observation: Array, action: Array) -> Array:
                return problem.reward_at(x, observation, action)

            rewards = jax.vmap(partial(over_tuples, reward))(visited.observations, visited.actions)
            return jnp.sum(coefficients * rewards)

        return eqx.filter_grad(objective)(x)

    def _credit(
        self, problem: AnyProblem, x: PyTree, evidence: Evidence, key: PRNGKeyArray
    ) -> tuple[Credit, Float[Array, ""]]:
        """c for y as it is now, and E c² over y's actions."""
        clip_key, visit_key = jax.random.split(key)
        policy, clips = evidence.follower.policy, evidence.recent
        losses = centred_losses(problem, x, clips, self.baseline)
        horizon = losses.shape[2]
        centred = minus_expected(
            self.features,
            clips.observations[:, :, :horizon],
            clips.actions[:, :, :horizon],
            policy,
            self.num_actions,
            clip_key,
        ).astype(losses.dtype)
        target = jnp.einsum("bih,bihf->f", losses, centred) / len(losses)

        own = jax.tree.map(lambda leaf: leaf[0], evidence.visited)

        def at_state(observation: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
            fresh = jax.vmap(lambda k: policy.sample(observation, k))(jax.random.split(key, self.num_actions))
            values = jax.vmap(lambda action: self.features(observation, action))(fresh)
            return values, self.state_features(observation)

        values, states = jax.tree.map(
            lambda leaf: leaf.astype(losses.dtype),
            jax.vmap(at_state)(own.observations, jax.random.split(visit_key, len(own.weights))),
        )
        expected = jnp.mean(values, axis=1)
        away = values - expected[:, None]
        # Without bias for any number of fresh actions: their mean took one degree of freedom.
        weights = own.weights / (self.num_actions - 1)
        covariance = jnp.einsum("n,naf,nag->fg", weights, away, away)
        # An action that next to nobody takes has been seen too seldom to be credited with anything.
        once = jnp.max(weights) * jnp.max(jnp.sum(away**2, axis=1), axis=0)
        u = _solve(covariance + jnp.diag(once), target, self.ridge)

        share = own.weights / jnp.sum(own.weights)
        state_mean, mean = share @ states, share @ (expected @ u)
        spread = states - state_mean
        gram = jnp.einsum("n,np,nq->pq", share, spread, spread)
        m = _solve(gram, jnp.einsum("n,np,n->p", share, spread, expected @ u - mean), self.ridge)
        square = u @ covariance @ u / jnp.sum(own.weights)
        return Credit(u, m, mean - jnp.vdot(m, state_mean)), square


def _solve(gram: Float[Array, "f f"], moment: Float[Array, " f"], ridge: float) -> Float[Array, " f"]:
    """(gram + ridge · its diagonal)⁻¹ moment; 0 for a feature that never moves."""
    diagonal = jnp.diag(gram)
    moves = diagonal > 1e-12 * jnp.max(diagonal)
    penalty = jnp.where(moves, ridge * diagonal, jnp.maximum(jnp.max(diagonal), 1.0))
    solved = jax.scipy.linalg.solve(gram + jnp.diag(penalty), moment, assume_a="pos")
    return jnp.where(moves, solved, 0.0)
