"""A table as a world to sample from: followers solved exactly, all that a leader sees drawn from them.

Here a sampled leader can be held against the exact hyper-gradient. Everything is pure and compiled; a
table wrapped as an environment (`envs.TabularEnv`) draws from the same laws step by step on the host.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ..._core import InputError
from ...follower import solve_follower
from ...mdp import MDP, Shannon, Trajectories, roll_out, roll_out_from
from ...problem import BilevelProblem, ClipLoss
from ...upper_losses import LeaderReturn, NetReturn, ReturnLoss
from ._closing import close_ends, ends
from .data import Branches, Evidence, Follower, LabelledClips, Needs, Visits
from .leader import Leader, LeaderState, LeaderStats


class TablePolicy(eqx.Module):
    """π(a|s) = softmax of a row of logits; observations are states, actions indices.

    Args:
        logits: (S, A).
    """

    logits: Float[Array, "S A"]

    def sample(self, observation: Any, key: PRNGKeyArray) -> Int[Array, ""]:
        """One action."""
        return jax.random.categorical(key, self.logits[observation]).astype(jnp.int32)

    def log_prob(self, observation: Any, action: Any) -> Float[Array, ""]:
        """log π(action|observation)."""
        return jax.nn.log_softmax(self.logits[observation])[action]

    @property
    def table(self) -> Float[Array, "S A"]:
        """π."""
        return jax.nn.softmax(self.logits, axis=1)


def on_clips(problem: BilevelProblem[MDP], horizon: int | None = None) -> BilevelProblem[MDP]:
    """The same problem with an upper loss that is an expectation over clips, as a sampled leader needs it.

    A `ClipLoss` stays; a `LeaderReturn` or `NetReturn` becomes a `ReturnLoss` on one clip of `horizon` steps,
    in a world that `close_ends` has given one more state if it ends.

    Args:
        problem: on an `MDP`.
        horizon: None: the steps after which γ_L^H is 1e-3.

    Raises:
        InputError: any other upper loss, clips that start elsewhere than the world or cross its end, a world
            that the leader moves, a follower whose policy is no softmax.
    """
    loss = problem.upper_loss
    if problem.transition is not None:
        raise InputError("the leader moves the world; sampled leaders are for rewards: leave transition out")
    if not isinstance(problem.regulariser, Shannon):
        raise InputError("a policy drawn from logits is a softmax; leave the regulariser at Shannon()")
    if isinstance(loss, ClipLoss):
        if ends(problem.world):
            raise InputError(
                "clips cannot cross an end: let terminal states lead to themselves with reward 0"
            )
        return problem
    if not isinstance(loss, LeaderReturn | NetReturn):
        raise InputError(
            "this upper loss is no expectation over clips; give a ClipLoss, a LeaderReturn or a NetReturn"
        )
    problem = close_ends(problem)
    loss, world = problem.upper_loss, problem.world
    cost = loss.cost if isinstance(loss, NetReturn) else None
    earned = loss.earned if isinstance(loss, NetReturn) else loss
    assert isinstance(earned, LeaderReturn)
    if not isinstance(earned.world.initial, Tracer) and not np.array_equal(
        earned.world.initial, world.initial
    ):
        raise InputError("the leader counts from another start than the follower; give both the same initial")
    steps = steps_until(1e-3, earned.discount) if horizon is None else horizon

    def leader_reward(x: PyTree, state: Any, action: Any) -> Float[Array, ""]:
        return earned.reward(x)[state, action]

    return BilevelProblem(
        world,
        problem.reward,
        ReturnLoss(steps, leader_reward, earned.discount, cost),
        problem.tau,
        regulariser=problem.regulariser,
    )


def steps_until(share: float, discount: Any) -> int:
    """The least T >= 1 with γ^T <= about `share`: after so many steps no more of a sum than that is left."""
    gamma = float(discount)
    return 1 if gamma == 0 else max(1, round(np.log(share) / np.log(gamma)))


def exact_followers(leader: Leader, problem: BilevelProblem[MDP], state: LeaderState) -> list[Follower]:
    """The soft-optimal answer to each reward that the leader sets: π*(x) first, or what stands for it.

    Args:
        leader: any; `needs.policies` says how many rewards it sets.
        problem: as `on_clips` gives it.
        state: the leader's.
    """
    world = problem.world
    states, actions = jnp.meshgrid(jnp.arange(world.num_states), jnp.arange(world.num_actions), indexing="ij")
    rewards = jax.vmap(jax.vmap(lambda s, a: leader.rewards(problem, state, s, a)))(states, actions)
    return [
        exact_follower(problem, jax.lax.stop_gradient(rewards[..., which]))
        for which in range(leader.needs.policies)
    ]


def exact_follower(problem: BilevelProblem[MDP], reward: Float[Array, "S A"]) -> Follower:
    """The soft-optimal policy for a reward table.

    Args:
        problem: gives world, τ and regulariser.
        reward: r, (S, A).
    """
    answer = solve_follower(
        problem.world, reward, problem.tau, regulariser=problem.regulariser, tolerance=1e-10
    )
    logits = (answer.q_values - answer.values[:, None]) / problem.tau
    return Follower(TablePolicy(logits), problem.tau)


def draw_clips(
    problem: BilevelProblem[MDP], follower: Follower, needs: Needs, key: PRNGKeyArray, count: int
) -> LabelledClips:
    """`count` tuples of independent clips that start at ρ, with what `needs` asks for; no labels."""
    loss = problem.upper_loss
    assert isinstance(loss, ClipLoss) and isinstance(follower.policy, TablePolicy)
    walk_key, branch_key = jax.random.split(key)
    shape = (count, loss.num_clips)
    walks = roll_out(
        problem.world,
        follower.policy.table,
        walk_key,
        count * loss.num_clips,
        loss.horizon + needs.further,
    )
    states, actions, valid = (leaf.reshape(*shape, -1) for leaf in (walks.states, walks.actions, walks.alive))
    log_prob = branches = None
    if needs.log_prob:
        log_prob = jax.vmap(jax.vmap(jax.vmap(follower.policy.log_prob)))(states, actions)[
            :, :, : loss.horizon
        ]
    if needs.branches:
        branches = _branch(problem, follower.policy, needs, states, actions, branch_key)
    return LabelledClips(states, actions, valid, None, log_prob, branches)


def _branch(
    problem: BilevelProblem[MDP],
    policy: TablePolicy,
    needs: Needs,
    states: Int[Array, "B I L"],
    actions: Int[Array, "B I L"],
    key: PRNGKeyArray,
) -> Branches:
    assert isinstance(problem.upper_loss, ClipLoss)
    step_key, action_key, walk_key = jax.random.split(key, 3)
    shape = (*states.shape[:2], needs.branches)
    steps = jax.random.randint(step_key, shape, 0, problem.upper_loss.horizon)
    here = jnp.take_along_axis(states, steps, axis=2)
    taken = jnp.take_along_axis(actions, steps, axis=2)
    fresh = jax.vmap(policy.sample)(here.ravel(), jax.random.split(action_key, here.size)).reshape(shape)

    def pair(state: Array, taken: Array, fresh: Array, key: PRNGKeyArray) -> Trajectories:
        # One key for both: common random numbers.
        return jax.vmap(
            lambda action: roll_out_from(problem.world, policy.table, key, state, action, needs.branch_length)
        )(jnp.stack([taken, fresh]))

    keys = jax.random.split(walk_key, here.size)
    walks = jax.vmap(pair)(here.ravel(), taken.ravel(), fresh.ravel(), keys)
    observations, actions, valid = (
        leaf.reshape(*shape, 2, needs.branch_length) for leaf in (walks.states, walks.actions, walks.alive)
    )
    return Branches(steps, observations, actions, valid)


def draw_visits(
    problem: BilevelProblem[MDP], follower: Follower, key: PRNGKeyArray, count: int, length: int = 100
) -> Visits:
    """About `count` transitions of the follower from ρ, weighted like its discounted occupancy.

    In trajectories of `length` steps; the share γ^length that is cut off is put on the rest.
    """
    assert isinstance(follower.policy, TablePolicy)
    discount = problem.world.discount
    walks = roll_out(problem.world, follower.policy.table, key, max(1, round(count / length)), length + 1)
    powers = jnp.cumprod(jnp.full(length, discount).at[0].set(1.0))
    weights = jnp.where(walks.alive[:, :-1], powers, 0.0)
    weights = weights / (jnp.sum(weights) * (1.0 - discount))
    return Visits(
        walks.states[:, :-1].ravel(),
        walks.actions[:, :-1].ravel(),
        walks.states[:, 1:].ravel(),
        ~walks.alive[:, 1:].ravel(),
        weights.ravel(),
    )


def draw_evidence(
    leader_needs: Needs,
    problem: BilevelProblem[MDP],
    followers: list[Follower],
    key: PRNGKeyArray,
    count: int,
) -> Evidence:
    """Fresh evidence for one leader step: `count` tuples of clips, the same for both terms.

    Args:
        leader_needs: what is collected beside the clips.
        problem: as `on_clips` gives it.
        followers: as `exact_followers` gives them.
        key: all randomness.
        count: B.
    """
    clip_key, visit_key, *own_keys = jax.random.split(key, 2 + len(followers))
    clips = draw_clips(problem, followers[0], leader_needs, clip_key, count)
    visits = visited = None
    if leader_needs.visits:
        visits = draw_visits(problem, followers[0], visit_key, leader_needs.visits)
        visits = eqx.tree_at(lambda v: v.weights, visits, visits.weights / jnp.sum(visits.weights))
    if leader_needs.visited:
        own = [
            draw_visits(problem, follower, own_key, leader_needs.visited)
            for follower, own_key in zip(followers, own_keys, strict=True)
        ]
        visited = jax.tree.map(lambda *leaves: jnp.stack(leaves), *own)
    return Evidence(clips, clips, followers[0], visits, visited)


def step_on_table(
    leader: Leader, problem: BilevelProblem[MDP], state: LeaderState, key: PRNGKeyArray, count: int
) -> tuple[LeaderState, LeaderStats]:
    """Solve the follower for x, draw `count` fresh tuples of its clips, and take one leader step.

    Args:
        leader: any.
        problem: as `on_clips` gives it.
        state: of the step before.
        key: all randomness.
        count: B.
    """
    draw_key, step_key = jax.random.split(key)
    followers = exact_followers(leader, problem, state)
    evidence = draw_evidence(leader.needs, problem, followers, draw_key, count)
    return leader.step(problem, state, evidence, step_key)
