"""What a preference model wants to know beside each answer: values of the clips, groups of the labellers."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from ..agents import SACState
from ..bilevel import LeaderState
from ..preferences.models import Mixture, Regret, group_sizes, min_max_weights, responsibilities
from .collect import Collector
from .experiment import Experiment

# Beyond all steps of a session, which are folded into the same key.
_VALUES = 2**31


def beside(
    experiment: Experiment,
    leader: LeaderState,
    collector: Collector,
    follower: SACState,
    own: Any,
    key: PRNGKeyArray,
    *,
    first: bool,
) -> tuple[LeaderState, dict[str, np.ndarray]]:
    """What goes with the comparisons of the queue for the next leader steps, held still meanwhile.

    Regret: "offset" (capacity, 2), by the follower's values; 0 before the policy learns. A mixture: "groups"
    (capacity, K), the expectation step; and the groups' weights move, by what each has of the policy of now.

    Args:
        own: observations and actions (policies, count, ...) of each policy's own newest steps.
        first: whether the policy has not learned yet.

    Returns:
        The leader's state, and arrays by name. Other preference models need none.
    """
    model, queue = experiment.preference_model, collector.queue
    if not isinstance(model, Regret | Mixture):
        return leader, {}
    arrays, held = collector.compared(), len(queue)
    pairs = {name: arrays[name] for name in ("observations", "actions")}
    if isinstance(model, Regret):
        offset = np.zeros((queue.capacity, 2), np.float32)
        if not first:
            program = partial(experiment.offsets, leader.x, follower, key=jax.random.fold_in(key, _VALUES))
            offset[:held] = experiment.in_blocks(program, pairs, held)
        return leader, {"offset": offset}
    pairs["label"] = arrays["label"]
    likely, means = experiment.in_blocks(partial(experiment.explain, leader.x), pairs, held)
    groups = np.zeros((queue.capacity, model.groups), np.float32)
    groups[:held] = belonging(likely, arrays["labeller"][:held])
    if not first:
        observations, actions = own
        had = experiment.group_means(leader.x, observations[0], actions[0])
        gains = (had - means.mean(axis=0)) / leader.x.deviation
        weights = min_max_weights(leader.x.weights, jnp.asarray(gains))
        leader = eqx.tree_at(lambda state: state.x, leader, leader.x.weighed(weights))
    return leader, {"groups": groups}


def changes_leader(experiment: Experiment) -> bool:
    """Whether `beside` may change the leader's state."""
    return isinstance(experiment.preference_model, Mixture)


def belonging(log_likelihood: np.ndarray, labeller: np.ndarray) -> np.ndarray:
    """(n, K) how likely whoever gave each answer belongs to each group, by all answers of that person.

    Args:
        log_likelihood: (n, K), of each answer in each group.
        labeller: (n,) numbers of who answered.
    """
    people, which = np.unique(labeller, return_inverse=True)
    of_each = np.zeros((len(people), log_likelihood.shape[1]), np.float32)
    np.add.at(of_each, which, log_likelihood)
    evidence = jnp.asarray(of_each)
    return np.asarray(responsibilities(evidence, group_sizes(evidence)))[which]
