"""What every sampled leader is: `init` and `step`; and the compiled loop that runs many steps of one."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ..._core import InputError
from ...problem import AnyProblem
from .data import Evidence, Follower, LabelledClips, Needs, Visits


class LeaderState(eqx.Module):
    """What a leader carries from step to step.

    Attributes:
        x: the parameters of the reward.
        optimiser: what the optax optimiser keeps.
        memory: what else the method remembers; None: nothing.
    """

    x: PyTree
    optimiser: optax.OptState
    memory: PyTree = None


class LeaderStats(eqx.Module):
    """One leader step.

    Attributes:
        loss: mean l of the batch.
        first_norm, second_norm: of the two terms of the hyper-gradient, before any bound.
        cosine: between them.
        effective_share: of the batch of the second term that counts after importance weights; 1 without.
    """

    loss: Float[Array, ""]
    first_norm: Float[Array, ""]
    second_norm: Float[Array, ""]
    cosine: Float[Array, ""]
    effective_share: Float[Array, ""]


class Leader(eqx.Module):
    """A method that improves x from labelled clips and a follower."""

    @property
    @abc.abstractmethod
    def needs(self) -> Needs:
        """What must be collected for it."""

    @abc.abstractmethod
    def init(self, x: PyTree, observation: Any, action: Any, key: PRNGKeyArray) -> LeaderState:
        """The state before the first step.

        Args:
            x: where to start.
            observation, action: of one step; only their shapes and types matter.
            key: all randomness.
        """

    def meet(self, state: LeaderState, follower: Follower) -> LeaderState:
        """The state with room for what the method remembers of a follower; as it is where that is nothing.

        For whoever needs all states of a run to be alike; to meet again changes nothing.
        """
        del follower
        return state

    @abc.abstractmethod
    def step(
        self, problem: AnyProblem, state: LeaderState, evidence: Evidence, key: PRNGKeyArray
    ) -> tuple[LeaderState, LeaderStats]:
        """One step.

        Args:
            problem: gives l and r_x.
            state: of the step before.
            evidence: batches of clips, the follower, and what `needs` asks for.
            key: all randomness.
        """

    def rewards(
        self, problem: AnyProblem, state: LeaderState, observation: Any, action: Any
    ) -> Float[Array, " policies"]:
        """The reward of one step that each of the `needs.policies` policies maximises: r_x."""
        return problem.reward_at(state.x, observation, action)[None]


SampleVisits = Callable[[PRNGKeyArray], tuple[Visits | None, PyTree[Visits] | None]]


def no_visits(key: PRNGKeyArray) -> tuple[None, None]:
    """For leaders that need none."""
    del key
    return None, None


def lead(
    leader: Leader,
    problem: AnyProblem,
    state: LeaderState,
    comparisons: LabelledClips,
    total: Int[Array, ""],
    follower: Follower,
    key: PRNGKeyArray,
    *,
    num_steps: int,
    batch_size: int,
    recent_batch_size: int,
    recent: int | Int[Array, ""],
    sample_visits: SampleVisits = no_visits,
) -> tuple[LeaderState, LeaderStats]:
    """`num_steps` leader steps on minibatches of a queue of comparisons, in one compiled call.

    Args:
        leader: the method.
        problem: whose upper loss is a `ClipLoss`.
        state: where to begin.
        comparisons: the whole ring, its slots as `ComparisonQueue` fills them.
        total: comparisons ever stored; at least 1.
        follower: π and τ, as they are now.
        key: all randomness.
        num_steps: gradient steps of the leader.
        batch_size: pairs a step for the first term, drawn with replacement.
        recent_batch_size: pairs a step for the second term, drawn without, as far as there are enough: a
            pair must not take part in its own baseline.
        recent: how many of the newest comparisons the second term draws from.
        sample_visits: key -> (`Evidence.visits`, `Evidence.visited`), for leaders that need them.

    Returns:
        The last state, and stats averaged over the steps.
    """
    capacity = comparisons.valid.shape[0]
    held = jnp.minimum(total, capacity)
    newest = jnp.clip(recent, 1, held)

    def body(state: LeaderState, step_key: PRNGKeyArray) -> tuple[LeaderState, LeaderStats]:
        all_key, recent_key, visits_key, method_key = jax.random.split(step_key, 4)
        slots = jax.random.randint(all_key, (batch_size,), 0, held)
        ages = _distinct(recent_key, recent_batch_size, newest, capacity)
        visits, visited = sample_visits(visits_key)
        evidence = Evidence(
            clips=comparisons.take(slots),
            recent=comparisons.take((total - 1 - ages) % capacity),
            follower=follower,
            visits=visits,
            visited=visited,
        )
        return leader.step(problem, state, evidence, method_key)

    state = leader.meet(state, follower)
    state, stats = jax.lax.scan(body, state, jax.random.split(key, num_steps))
    return state, jax.tree.map(jnp.mean, stats)


def _distinct(key: PRNGKeyArray, count: int, below: Int[Array, ""], capacity: int) -> Int[Array, " count"]:
    """`count` different numbers below `below`; where there are too few they come around again."""
    order = jnp.argsort(jax.random.uniform(key, (capacity,)) + (jnp.arange(capacity) >= below))
    return order[jnp.arange(count) % below]


def start(optimiser: optax.GradientTransformation, x: PyTree, memory: PyTree = None) -> LeaderState:
    """x before the first step; only its floating-point arrays are ever moved."""
    return LeaderState(x, optimiser.init(eqx.filter(x, eqx.is_inexact_array)), memory)


def descend(optimiser: optax.GradientTransformation, state: LeaderState, gradient: PyTree) -> LeaderState:
    """x moved by one step of the optimiser; the memory as it was."""
    moving = eqx.filter(state.x, eqx.is_inexact_array)
    updates, optimiser_state = optimiser.update(gradient, state.optimiser, moving)
    return LeaderState(eqx.apply_updates(state.x, updates), optimiser_state, state.memory)


def check_mixture(weight: float, bound: float | None) -> None:
    """Raise InputError unless `mixed` can use them."""
    if bound is not None and not 0.0 < bound < jnp.inf:
        raise InputError(f"bound of the second term is {bound}; give a positive number, or None")
    if not 0.0 <= weight < jnp.inf:
        raise InputError(f"weight of the second term is {weight}; give a number ≥ 0 (1 by default)")


def mixed(
    loss: Float[Array, ""],
    first: PyTree,
    second: PyTree,
    weight: float = 1.0,
    bound: float | None = None,
    effective_share: Float[Array, ""] | float = 1.0,
) -> tuple[PyTree, LeaderStats]:
    """first + weight · second, after ‖second‖ was cut to bound · ‖first‖ at most; and stats."""
    first_norm, second_norm = optax.tree.norm(first), optax.tree.norm(second)
    inner = jnp.asarray(optax.tree.vdot(first, second))
    # Both norms can be zero: a reward that is constant, a loss that is.
    cosine = inner / jnp.maximum(first_norm * second_norm, 1e-30)
    shrink = 1.0
    if bound is not None:
        shrink = jnp.minimum(1.0, bound * first_norm / jnp.maximum(second_norm, 1e-30))
    gradient = jax.tree.map(lambda a, b: a + weight * shrink * b, first, second)
    share = jnp.asarray(effective_share, loss.dtype)
    return gradient, LeaderStats(loss, first_norm, second_norm, cosine, share)
