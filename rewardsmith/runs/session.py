"""A session of the leader: its steps on the comparisons so far, for vectors and for pictures."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key, PRNGKeyArray

from ..agents import SACState
from ..bilevel import LeaderState, LeaderStats
from .beside import beside, changes_leader
from .collect import Collector
from .experiment import Experiment
from .memory import Memory

# Steps of each policy's own from which a session draws; of pictures, for they are copied.
_OWN_STEPS, _OWN_PICTURES = 4096, 512
# Replayed pictures from which a session draws.
_POOL = 1024


def run_session(
    experiment: Experiment,
    leader: Any,
    collectors: Sequence[Collector],
    follower: Any,
    memory: Memory,
    key: Key[Array, "*lanes"],
    rngs: Sequence[np.random.Generator],
    *,
    first: bool,
) -> tuple[Any, Any, int]:
    """Improve the reward; the new state of the leader, its statistics, and how many steps it took.

    Args:
        experiment: its programs; the leader, the follower, the key and what comes back are of all its lanes.
        leader: `LeaderState`.
        collectors: of each lane.
        follower: `SACState`.
        memory: what the follower learns from.
        key: randomness of the compiled steps.
        rngs: on the host, of each lane.
        first: by the first term alone, for as many steps as the settings want before the policy learns.
    """
    config, lanes = experiment.config, experiment.lanes
    repeats = max(1, round(config.leader_warmup_steps / config.leader_steps)) if first else 1
    pool = memory.pool(max(_POOL, experiment.needs.visits), rngs[0])
    newest = _OWN_STEPS if experiment.spec.image is None else _OWN_PICTURES
    own = [collector.draw_steps(newest, rng) for collector, rng in zip(collectors, rngs, strict=True)]
    steps = repeats * config.leader_steps
    if experiment.spec.image is not None:
        leader, stats = _on_pictures(
            experiment, leader, collectors[0], follower, pool, own[0], key, rngs[0], steps, first=first
        )
        return leader, stats, steps
    program, stats = experiment.warm_up if first else experiment.lead, None
    for repeat in range(repeats):
        known = [
            beside(experiment, *parts, first=first)
            for parts in zip(
                lanes.split(leader), collectors, lanes.split(follower), own, lanes.split(key), strict=True
            )
        ]
        leader, stats = program(
            lanes.stack([state for state, _ in known]) if changes_leader(experiment) else leader,
            lanes.stack([each.compared() | more for each, (_, more) in zip(collectors, known, strict=True)]),
            lanes.stack([np.int32(each.queue.total) for each in collectors]),
            lanes.stack([np.int32(each.recent()) for each in collectors]),
            follower,
            pool,
            lanes.stack(own),
            lanes.fold_in(key, repeat),
        )
    assert stats is not None
    return leader, stats, steps


def _on_pictures(
    experiment: Experiment,
    leader: LeaderState,
    collector: Collector,
    follower: SACState,
    pool: Any,
    own: Any,
    key: PRNGKeyArray,
    rng: np.random.Generator,
    steps: int,
    *,
    first: bool,
) -> tuple[LeaderState, LeaderStats]:
    """Each step on batches drawn on the host, so that no second copy of all clips is ever made."""
    config = experiment.config
    program = experiment.warm_up_once if first else experiment.lead_once
    seen, known = [], {}
    for step in range(steps):
        if step % config.leader_steps == 0:
            leader, known = beside(experiment, leader, collector, follower, own, key, first=first)
        compared = collector.compared() | known
        slots = rng.integers(len(collector.queue), size=config.leader_batch_size)
        newest = _newest(collector, config.recent_batch_size, rng)
        leader, stats = program(
            leader,
            {name: array[slots] for name, array in compared.items()},
            {name: array[newest] for name, array in compared.items()},
            follower,
            pool,
            own,
            jax.random.fold_in(key, step),
        )
        seen.append(stats)
    leader = experiment.normalise(leader, pool, jax.random.fold_in(key, steps))
    return leader, jax.tree.map(lambda *values: np.mean(np.asarray(values)), *seen)


def _newest(collector: Collector, count: int, rng: np.random.Generator) -> np.ndarray:
    """Slots drawn from the newest comparisons; each once, as far as there are enough."""
    queue = collector.queue
    ages = np.resize(rng.permutation(min(collector.recent(), len(queue))), count)
    return (queue.total - 1 - ages) % queue.capacity
