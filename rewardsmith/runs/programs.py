"""Pure functions that a run compiles: acting, judging, comparing policies, comparisons as clips."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from .._core import ImageSpec, stacked
from ..agents import Policy, act
from ..bilevel import LabelledClips
from ..bilevel.sampled import Branches
from ..preferences import agreement
from ..rewards import RewardEnsemble


def divergence(
    policy: Policy, other: Policy, states: Shaped[Array, "n *o"], key: PRNGKeyArray
) -> Float[Array, ""]:
    """KL(policy ‖ other) in nats, its mean over the states, by one action each."""

    def log_ratio(observation: Array, key: PRNGKeyArray) -> Float[Array, ""]:
        action: Any = policy.sample(observation, key)
        return policy.log_prob(observation, action) - other.log_prob(observation, action)

    return jnp.mean(jax.vmap(log_ratio)(states, jax.random.split(key, states.shape[0])))


def labelled(comparisons: dict[str, Array], image: ImageSpec | None = None) -> LabelledClips:
    """The arrays of a queue as clips; of pictures, the frames as observations."""
    stack = 1 if image is None else image.stack
    branches = None
    if "branch_step" in comparisons:
        branches = Branches(
            comparisons["branch_step"],
            stacked(comparisons["branch_observations"], stack),
            comparisons["branch_actions"],
            comparisons["branch_valid"],
        )
    return LabelledClips(
        stacked(comparisons["observations"], stack),
        comparisons["actions"],
        comparisons["valid"],
        comparisons["label"],
        comparisons.get("log_prob"),
        branches,
    )


def act_each(
    with_log_prob: bool,
    policies: tuple[Policy, ...],
    observation: Shaped[Array, "n *o"],
    key: PRNGKeyArray,
    step: Int[Array, ""],
) -> tuple[Shaped[Array, "n *a"], Float[Array, " n"] | None]:
    """Actions of all environments, the same number for each policy, and their log-probabilities if wanted."""
    actions, log_probs = [], []
    for which, (policy, own) in enumerate(zip(policies, jnp.split(observation, len(policies)), strict=True)):
        own_key = jax.random.fold_in(key, step)
        action = act(policy, own, own_key if which == 0 else jax.random.fold_in(own_key, which))
        actions.append(action)
        if with_log_prob:
            log_probs.append(jax.vmap(policy.log_prob)(own, action))
    return jnp.concatenate(actions), jnp.concatenate(log_probs) if with_log_prob else None


def act_in_streams(
    policy: Policy,
    observation: Shaped[Array, "n *o"],
    key: PRNGKeyArray,
    streams: Int[Array, " n"],
    step: Int[Array, ""],
) -> Shaped[Array, "n *a"]:
    """One action each; rows of the same stream share their noise."""

    def one(observation: Array, stream: Array) -> Array:
        return policy.sample(observation, jax.random.fold_in(jax.random.fold_in(key, stream), step))

    return jax.vmap(one)(observation, streams)


def judge(
    x: RewardEnsemble,
    observations: Shaped[Array, "n 2 H *o"],
    actions: Shaped[Array, "n 2 H *a"],
    label: Float[Array, " n"],
) -> Float[Array, ""]:
    """How many of the comparisons have an answer that x predicts, ties left out."""
    sums = jax.vmap(jax.vmap(jax.vmap(x)))(observations, actions).sum(axis=-1)
    return jnp.sum(jax.vmap(agreement)(sums[:, 0], sums[:, 1], label)[0])
