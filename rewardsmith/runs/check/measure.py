"""Bias, deviation, error and cosine of each estimator at each number of tuples."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from ...bilevel.sampled import Follower
from ...bilevel.sampled.baselines import Baseline
from ...bilevel.sampled.data import Evidence, Needs
from ...bilevel.sampled.estimator import Estimator
from ...bilevel.sampled.table import draw_evidence
from ...bilevel.sampled.terms import first_term, second_term
from ...mdp import MDP
from ...problem import BilevelProblem
from ..statistics import mean_interval
from .config import LEAST_PAIRS
from .worlds import CheckedWorld, build_estimator, compiled, environment_steps, union

Row = dict[str, Any]
Flat = Float[np.ndarray, "R n"]


def measure(
    world: CheckedWorld, names: Sequence[str], count: int, repeats: int, key: PRNGKeyArray
) -> list[Row]:
    """One row for each estimator, all from the same `repeats` draws of `count` tuples.

    A row holds what `summary` says, and `problem`, `estimator`, `pairs`, `repeats`, `steps` of the world that
    an estimate takes, and `seconds` that its second term takes, drawing left out.

    Args:
        world: where.
        names: of estimators.
        count: tuples, a multiple of 64.
        repeats: R.
        key: all randomness.

    Raises:
        InputError: the world is too large for so many tuples.
    """
    estimators = {name: build_estimator(name, world, count) for name in names}
    drawn = union([estimator.needs for estimator in estimators.values()])
    keys = jax.random.split(key, (repeats, 2))
    draw = _drawing(world, drawn, count)
    evidence = draw(keys[0, 0])
    first, second = _programs(world, estimators, evidence, keys[0, 1])
    firsts, seconds = [], dict.fromkeys(names, 0.0)
    seen: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for draw_key, own_key in keys:
        evidence = jax.block_until_ready(draw(draw_key))
        firsts.append(np.asarray(first(evidence)))
        for name, estimate in second.items():
            began = time.perf_counter()
            seen[name].append(np.asarray(estimate(evidence, own_key)))
            seconds[name] += (time.perf_counter() - began) / repeats
    rows = []
    for name in names:
        row: Row = {"problem": world.name, "estimator": name, "pairs": count, "repeats": repeats}
        row["steps"] = environment_steps(estimators[name].needs, world, count)
        row["seconds"] = seconds[name]
        rows.append(row | summary(np.stack(firsts), np.stack(seen[name]), world.first, world.second))
    return rows


def summary(
    first: Flat, second: Flat, true_first: Float[np.ndarray, " n"], true_second: Float[np.ndarray, " n"]
) -> dict[str, float]:
    """What R estimates of both terms say of ∇φ; all but cosines in units of ‖∇φ‖.

    `bias`, the norm of the mean error, is `bias_error` even where there is none: its standard error, the root
    of the summed variance over R. `deviation`, `error` (root of the mean squared error) and its 95 %
    interval are of one estimate; `cosine` is the mean over estimates of that to ∇φ, with its interval, and
    `second_cosine` that of the second terms. NaN where a vector is zero.
    """
    truth, total = true_first + true_second, first + second
    size, repeats = np.linalg.norm(truth), len(total)
    deviation = np.sqrt(np.sum(np.var(total, axis=0, ddof=1))) / size
    squares = np.sum((total - truth) ** 2, axis=1) / size**2
    cosines = _cosines(total, truth)
    mean, low, high = mean_interval(np.stack([squares, cosines], axis=1))
    assert low is not None and high is not None
    return {
        "gradient_norm": float(size),
        "second_share": float(np.linalg.norm(true_second) / size),
        "bias": float(np.linalg.norm(np.mean(total, axis=0) - truth) / size),
        "bias_error": float(deviation / np.sqrt(repeats)),
        "deviation": float(deviation),
        "error": float(np.sqrt(mean[0])),
        "error_low": float(np.sqrt(low[0])),
        "error_high": float(np.sqrt(high[0])),
        "cosine": float(mean[1]),
        "cosine_low": float(low[1]),
        "cosine_high": float(high[1]),
        "second_cosine": float(np.mean(_cosines(second, true_second))),
    }


def _cosines(estimates: Flat, truth: Float[np.ndarray, " n"]) -> Float[np.ndarray, " R"]:
    norms = np.linalg.norm(estimates, axis=1) * np.linalg.norm(truth)
    return np.where(norms > 0, estimates @ truth / np.where(norms > 0, norms, 1.0), np.nan)


def _drawing(world: CheckedWorld, needs: Needs, count: int) -> Callable[[PRNGKeyArray], Evidence]:
    """Draws of `count` tuples, from as many smaller ones as it takes: one program serves all counts."""
    parts = count // LEAST_PAIRS
    few = replace(needs, visits=needs.visits // parts)

    def draw(problem: BilevelProblem[MDP], follower: Follower, key: PRNGKeyArray) -> Evidence:
        return draw_evidence(few, problem, [follower], key, LEAST_PAIRS)

    program = world.program(("draw", few), draw, world.problem, world.follower, jax.random.key(0))

    def joined(key: PRNGKeyArray) -> Evidence:
        evidence = [program(world.problem, world.follower, own) for own in jax.random.split(key, parts)]
        clips, visits = jax.tree.map(
            lambda *leaves: jnp.concatenate(leaves), *[(one.clips, one.visits) for one in evidence]
        )
        if visits is not None:
            visits = eqx.tree_at(lambda v: v.weights, visits, visits.weights / parts)
        return Evidence(clips, clips, world.follower, visits)

    return joined


def _programs(
    world: CheckedWorld, estimators: dict[str, Estimator], like: Evidence, key: PRNGKeyArray
) -> tuple[Callable[[Evidence], Array], dict[str, Callable[[Evidence, PRNGKeyArray], Array]]]:
    """What estimates the first term, and the second by each estimator, from evidence `like` that."""
    first, *seconds = compiled(
        (_first, world.problem, world.x, like),
        *(
            (partial(_second, estimator, world.baseline), world.problem, world.x, like, key)
            for estimator in estimators.values()
        ),
    )
    bound = (world.problem, world.x)
    return partial(first, *bound), {
        name: partial(program, *bound) for name, program in zip(estimators, seconds, strict=True)
    }


def _first(problem: BilevelProblem[MDP], x: Any, evidence: Evidence) -> Array:
    return ravel_pytree(first_term(problem, x, evidence.clips)[1])[0]


def _second(
    estimator: Estimator,
    baseline: Baseline,
    problem: BilevelProblem[MDP],
    x: Any,
    evidence: Evidence,
    key: PRNGKeyArray,
) -> Array:
    term = second_term(
        problem,
        x,
        evidence.recent,
        evidence.follower,
        estimator,
        baseline,
        key,
        visits=evidence.visits,
    )
    return ravel_pytree(term)[0]
