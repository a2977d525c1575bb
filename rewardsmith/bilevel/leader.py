"""What every sampled leader is: `init` and `step`; and the compiled loop that runs many steps of one."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ..problem import BilevelProblem
from .terms import Follower, LabelledClips


class LeaderState(eqx.Module):
    """x and its optimiser's state."""

    x: PyTree
    optimiser: optax.OptState


class LeaderStats(eqx.Module):
    """One leader step: mean loss, norms of the two terms of the hyper-gradient, cosine between them."""

    loss: Float[Array, ""]
    first_norm: Float[Array, ""]
    second_norm: Float[Array, ""]
    cosine: Float[Array, ""]


class Leader(eqx.Module):
    """A method that improves x from labelled clips and a follower."""

    @property
    @abc.abstractmethod
    def further(self) -> int:
        """T, steps of the trajectory it wants behind each clip."""

    @abc.abstractmethod
    def init(self, x: PyTree) -> LeaderState:
        """The state before the first step."""

    @abc.abstractmethod
    def step(
        self,
        problem: BilevelProblem,
        state: LeaderState,
        clips: LabelledClips,
        recent: LabelledClips,
        follower: Follower,
        key: PRNGKeyArray,
    ) -> tuple[LeaderState, LeaderStats]:
        """One step.

        Args:
            problem: gives l and r_x.
            state: of the step before.
            clips: a batch of all comparisons.
            recent: a batch of the newest, the nearest there are to clips drawn under π*(x).
            follower: its policy and temperature now.
            key: all randomness.
        """


def lead(
    leader: Leader,
    problem: BilevelProblem,
    state: LeaderState,
    comparisons: LabelledClips,
    total: Int[Array, ""],
    follower: Follower,
    key: PRNGKeyArray,
    *,
    num_steps: int,
    batch_size: int,
    recent_batch_size: int,
    recent: int,
) -> tuple[LeaderState, LeaderStats]:
    """`num_steps` leader steps on minibatches of a queue of comparisons, in one compiled call.

    Args:
        comparisons: the whole ring, its slots as `ComparisonQueue` fills them.
        total: comparisons ever stored; at least 1.
        batch_size: pairs a step for the first term.
        recent_batch_size: pairs a step for the second term.
        recent: how many of the newest comparisons the second term draws from.

    Returns:
        The last state, and stats averaged over the steps.
    """
    capacity = comparisons.label.shape[0]
    held = jnp.minimum(total, capacity)

    def body(state: LeaderState, step_key: PRNGKeyArray):
        all_key, recent_key, method_key = jax.random.split(step_key, 3)
        slots = jax.random.randint(all_key, (batch_size,), 0, held)
        ages = jax.random.randint(recent_key, (recent_batch_size,), 0, jnp.minimum(held, recent))
        return leader.step(
            problem,
            state,
            comparisons.take(slots),
            comparisons.take((total - 1 - ages) % capacity),
            follower,
            method_key,
        )

    state, stats = jax.lax.scan(body, state, jax.random.split(key, num_steps))
    return state, jax.tree.map(jnp.mean, stats)


def start(optimiser: optax.GradientTransformation, x: PyTree) -> LeaderState:
    """x before the first step; only its floating-point arrays are ever moved."""
    return LeaderState(x, optimiser.init(eqx.filter(x, eqx.is_inexact_array)))


def descend(optimiser: optax.GradientTransformation, state: LeaderState, gradient: PyTree) -> LeaderState:
    """x moved by one step of the optimiser."""
    moving = eqx.filter(state.x, eqx.is_inexact_array)
    updates, optimiser_state = optimiser.update(gradient, state.optimiser, moving)
    return LeaderState(eqx.apply_updates(state.x, updates), optimiser_state)
