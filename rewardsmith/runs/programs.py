"""What a run compiles, pure: acting, foreseeing answers, comparing policies, comparisons as clips."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from .._core import ImageSpec, stacked
from ..agents import Policy, SACState, act
from ..bilevel import LabelledClips
from ..bilevel.sampled import Branches
from ..preferences.models import Judgement, Mixture
from ..problem import AnyProblem, PreferenceLoss
from ..rewards import GroupEnsemble, LearnedReward, RewardEnsemble


def divergence(
    policy: Policy, other: Policy, states: Shaped[Array, "n *o"], key: PRNGKeyArray
) -> Float[Array, ""]:
    """KL(policy ‖ other) in nats, its mean over the states, by one action each."""

    def log_ratio(observation: Array, key: PRNGKeyArray) -> Float[Array, ""]:
        action: Any = policy.sample(observation, key)
        return policy.log_prob(observation, action) - other.log_prob(observation, action)

    return jnp.mean(jax.vmap(log_ratio)(states, jax.random.split(key, states.shape[0])))


def in_blocks(
    program: Callable[..., Any],
    pairs: Mapping[str, np.ndarray],
    count: int,
    together: int,
    horizon: int,
    stack: int,
) -> Any:
    """`program` on `count` pairs of clips, `together` at a time; its arrays put together on the host.

    Args:
        program: takes observations and actions (together, 2, H, ...), then what else `pairs` holds.
        pairs: "observations", of pictures as frames, "actions" and others, (count or more, ...).
        count: at least 1.
        together: so that one size alone is ever compiled.
        horizon: H, steps that are compared.
        stack: frames of one observation.
    """
    others, parts = [name for name in pairs if name not in ("observations", "actions")], []
    for begin in range(0, count, together):
        rows = np.minimum(np.arange(begin, begin + together), count - 1)
        observations = stacked(pairs["observations"][rows], stack)[:, :, :horizon]
        actions = pairs["actions"][rows][:, :, :horizon]
        found = program(observations, actions, *(pairs[name][rows] for name in others))
        parts.append(jax.device_get(found))
    return jax.tree.map(lambda *blocks: np.concatenate(blocks)[:count], *parts)


def labelled(comparisons: dict[str, Array], image: ImageSpec | None = None) -> LabelledClips:
    """The arrays of a queue as clips; of pictures, the frames as observations.

    With what `beside` found, "offset" or "groups", where the preference model wants it.
    """
    stack = 1 if image is None else image.stack
    branches = None
    if "branch_step" in comparisons:
        branches = Branches(
            comparisons["branch_step"],
            stacked(comparisons["branch_observations"], stack),
            comparisons["branch_actions"],
            comparisons["branch_valid"],
        )
    label: Any = comparisons["label"]
    if "offset" in comparisons or "groups" in comparisons:
        label = Judgement(label, comparisons.get("offset"), comparisons.get("groups"))
    return LabelledClips(
        stacked(comparisons["observations"], stack),
        comparisons["actions"],
        comparisons["valid"],
        label,
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


def foresee(
    problem: AnyProblem,
    x: LearnedReward,
    observations: Shaped[Array, "n 2 H *o"],
    actions: Shaped[Array, "n 2 H *a"],
    offset: Float[Array, "n 2"] | None = None,
) -> Float[Array, "n M"]:
    """P(first preferred) of each pair, as each member of x has it."""
    loss = problem.upper_loss
    assert isinstance(loss, PreferenceLoss)

    def one(observations: Array, actions: Array, offset: Array | None) -> Float[Array, " M"]:
        pair = loss.predictions(x, partial(problem.reward_at, x), observations, actions, offset)
        return loss.model.probability(*pair)

    return jax.vmap(one)(observations, actions, offset)


def value_offsets(
    x: RewardEnsemble,
    follower: SACState,
    discount: float,
    observations: Shaped[Array, "n 2 H *o"],
    actions: Shaped[Array, "n 2 H *a"],
    key: PRNGKeyArray,
) -> Float[Array, "n 2"]:
    """Σ_h (γ V̂(s_{h+1}) − V̂(s_h)) of each clip, by the follower's critics, in units of the members' rewards.

    Behind the last step γ V̂ is Q̂ − r_x, so that nothing is needed there. V̂ is one sample, which has no
    variance where the policy is what its critics ask for.
    """

    def value(observation: Array, key: PRNGKeyArray) -> Float[Array, ""]:
        noise = jax.random.normal(key, (follower.policy.noise_size,))
        policy: Any = follower.policy
        return policy.soft_value(follower.critic, observation, noise, follower.temperature)[0]

    def one(observations: Array, actions: Array, key: PRNGKeyArray) -> Float[Array, ""]:
        values = jax.vmap(value)(observations, jax.random.split(key, observations.shape[0]))
        critic: Any = follower.critic
        last = jnp.min(critic(observations[-1], actions[-1])) - x(observations[-1], actions[-1])
        return discount * jnp.sum(values[1:]) - jnp.sum(values) + last

    keys = jax.random.split(key, observations.shape[:2])
    return x.unit * jax.vmap(jax.vmap(one))(observations, actions, keys)


def explain(
    problem: AnyProblem,
    x: GroupEnsemble,
    observations: Shaped[Array, "n 2 H *o"],
    actions: Shaped[Array, "n 2 H *a"],
    label: Float[Array, " n"],
) -> tuple[Float[Array, "n K"], Float[Array, "n K"]]:
    """Of each pair the answer's log-probability in each group, and the group's mean reward of a step."""
    loss = problem.upper_loss
    assert isinstance(loss, PreferenceLoss)
    model = loss.model
    assert isinstance(model, Mixture)

    def one(observations: Array, actions: Array, label: Array) -> tuple[Array, Array]:
        first, second = loss.predictions(x, partial(problem.reward_at, x), observations, actions)
        totals = jnp.mean(first.total + second.total, axis=0)
        return model.log_likelihoods(first, second, label), totals / (2 * first.steps)

    return jax.vmap(one)(observations, actions, label)
