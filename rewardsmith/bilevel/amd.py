"""AMD: the follower's values, their derivatives and the leader's values, swept side by side."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..mdp import MDP, expect
from ..problem import BilevelProblem
from ..upper_losses import LeaderReturn
from . import _trajectories as along
from .enumeration import exact_upper_loss
from .lower_level import TabularLevel, require_table
from .method import Method, MethodState, StepStats, advance, begin, step_stats


class Carried(NamedTuple):
    """What AMD carries beside x: V, ∇V, and the leader's Q and occupancy, 0 where it earns no return."""

    values: Float[Array, " S"]
    tangents: Float[Array, "n S"]
    leader_q: Float[Array, "S A"]
    occupancy: Float[Array, " S"]


class AMD(Method):
    """Adaptive model design: recursions of the model, in forward mode, no linear solve and no sample.

        V   ← τ log Σ_a exp(Q/τ),  Q = r + γPV          (or as the regulariser has it)
        ∇V  ← Σ_a π (∇r + γ ∇P V + γP ∇V)
        Q_L ← r_L + γ_L P Σ_a π Q_L,      d_L ← ρ + γ_L (P^π)ᵀ d_L

    each a few times a step from where it was, then x moves along ∂f/∂x + Σ g ∇π, with g = −d_L Q_L and
    ∇π = π(∇Q − ∇V)/τ. For an upper loss that is no `LeaderReturn`, g = ∂f/∂π is exact. The error of the
    gradient falls like max(γ, γ_L)^sweeps. ∇V has an entry for each state and each of the n numbers of x: for
    small x.

    Source: Chen et al., "Adaptive model design for Markov decision process", ICML 2022. Departures: d_L by
    its own recursion; other f; other regularisers.

    Args:
        step_size: β of x ← x + β · update, a number.
        optimiser: any of optax; the update.
        sweeps: of all recursions a step.
    """

    step_size: Array = eqx.field(converter=jnp.asarray)
    optimiser: optax.GradientTransformation = eqx.field(default=optax.sgd(1.0), static=True, kw_only=True)
    sweeps: int = eqx.field(default=10, static=True, kw_only=True)

    def __check_init__(self):
        along.check_sizes(sweeps=self.sweeps)

    def init(self, problem: Any, x: PyTree, key: PRNGKeyArray) -> MethodState:
        """See `Method.init`; all recursions start from 0."""
        require_table(problem)
        along.check_leader(problem)
        zeros = TabularLevel(problem).start()
        tangents = jnp.zeros((_size(x), zeros.size), zeros.dtype)
        leader_q = jnp.zeros((zeros.size, problem.world.num_actions), zeros.dtype)
        return begin(self, x, Carried(zeros, tangents, leader_q, zeros), key)

    def step(self, problem: Any, state: MethodState) -> tuple[MethodState, StepStats]:
        """See `Method.step`."""
        x, level = state.x, TabularLevel(problem)
        moving, _ = eqx.partition(x, eqx.is_inexact_array)
        flat, unravel = ravel_pytree(moving)

        def sweep(carried: Carried, _: None) -> tuple[Carried, None]:
            return self._sweep(problem, x, carried), None

        carried = jax.lax.scan(sweep, state.memory, None, length=self.sweeps)[0]
        policy = level.policy(x, carried.values)
        if isinstance(problem.upper_loss, LeaderReturn):
            loss = exact_upper_loss(problem, x, policy)
            g = -carried.occupancy[:, None] * carried.leader_q
            leader_values = jnp.sum(policy * carried.leader_q, axis=1)
            visits = carried.occupancy[:, None] * policy
            direct = jax.tree.map(
                jnp.negative, along.pull_leader(problem.upper_loss, x, leader_values, visits)
            )
        else:
            loss, direct, g = along.partial_derivatives(problem, x, policy)
        # Σ g ∇π = Σ_{s,a} weights ∇Q, and ∇Q = (∇r + γ ∇P V) + γP ∇V: the first by one product, so that a
        # table of n numbers for each state and action is never kept.
        weights = problem.regulariser.sensitivity(policy, g) / problem.tau
        near = along.pull_follower(problem, x, carried.values, weights)
        world = problem.world_at(x)
        _, pull = jax.vjp(lambda v: expect(world.transition, v), carried.values)
        far = world.discount * (carried.tangents @ pull(weights)[0])
        gradient = jax.tree.map(lambda *parts: sum(parts), direct, near, unravel(far.astype(flat.dtype)))
        leads = isinstance(problem.upper_loss, LeaderReturn)
        stats = step_stats(
            loss,
            gradient,
            residual=level.residual(x, carried.values),
            # In each sweep r_x and its n derivatives (and r_L); after them f with its own, and r_x's product.
            oracle_calls=self.sweeps * (1 + flat.size + leads) + 4,
            sweeps=self.sweeps * (1 + flat.size) + 1,
            linear_iterations=2 * self.sweeps * leads + 1,
        )
        return advance(self, state, gradient, carried), stats

    def _sweep(self, problem: BilevelProblem[MDP], x: PyTree, carried: Carried) -> Carried:
        moving, rest = eqx.partition(x, eqx.is_inexact_array)
        flat, unravel = ravel_pytree(moving)

        level = TabularLevel(problem)

        def soft(vector: Array, values: Array) -> Array:
            return level.sweep(eqx.combine(unravel(vector), rest), values)

        values, push = jax.linearize(soft, flat, carried.values)
        tangents = jax.vmap(push)(jnp.eye(flat.size, dtype=flat.dtype), carried.tangents)
        loss = problem.upper_loss
        if not isinstance(loss, LeaderReturn):
            return Carried(values, tangents, carried.leader_q, carried.occupancy)
        policy = level.policy(x, carried.values)
        world = loss.leader_world(x)
        leader_values = jnp.sum(policy * carried.leader_q, axis=1)
        leader_q = loss.reward(x) + world.discount * expect(world.transition, leader_values)
        occupancy = _occupancy_sweep(world, policy, carried.occupancy)
        return Carried(values, tangents, leader_q.astype(values.dtype), occupancy)


def _occupancy_sweep(
    world: MDP, policy: Float[Array, "S A"], occupancy: Float[Array, " S"]
) -> Float[Array, " S"]:
    """ρ + γ (P^π)ᵀ d, by the transpose of the expectation: P in any form."""
    _, pull = jax.vjp(lambda v: expect(world.transition, v), occupancy)
    return world.initial + world.discount * pull(policy * occupancy[:, None])[0]


def _size(x: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(x, eqx.is_inexact_array)))
