"""Contract design: a principal who sees outcomes pays for them; an agent whose effort it cannot see acts.

A plant's condition is a level. More effort makes it likelier to rise than to fall, and costs the agent. The
principal sees only the outcome, which class of levels comes next, and offers pay(outcome) = softplus(x) >= 0:

    r_x(s,a) = Σ_t P(t|s,a) pay(outcome of t) − cost(a)
    r_L(s,a) = Σ_t P(t|s,a) (yield(t) − pay(outcome of t))

Pay on the outcome of a step enters both as its mean over successors, which is what matters to agents that
maximise expected return. φ = −(the principal's discounted return).

Sources: Wu et al. 2024 (arXiv 2407.01458); Ivanov et al. 2024 (arXiv 2407.18074). Departures: the agent's
answer is soft-optimal, hence smooth in x; one kind of agent; it cannot refuse, but doing nothing is free.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._core import InputError
from ..mdp import MDP, state_action_occupancy
from ..problem import BilevelProblem
from ..upper_losses import LeaderReturn
from ._checks import check_not_negative, check_sizes
from .task import Task


def build(
    *,
    levels: int = 10,
    efforts: int = 5,
    outcome_classes: int = 5,
    per_state: bool = False,
    hardest: float = 0.5,
    temperature: float = 0.05,
    discount: float = 0.9,
    scale: float = 0.1,
) -> Task:
    """Contract design.

    Args:
        levels: S; level s yields s / (S − 1) a step.
        efforts: A; effort e = a / (A − 1) costs hardest · e², raises the level with probability 0.1 + 0.6 e
            and lowers it with 0.5 − 0.4 e.
        outcome_classes: K, what the principal can tell apart: levels in K equal groups.
        per_state: pay by the level before, too: x (S, K) instead of (K,).
        hardest: cost of the greatest effort, in units of yield.
        temperature: τ.
        discount: γ of both.
        scale: standard deviation of x0 about −2, where pay is 0.13.
    """
    check_sizes(2, levels=levels, efforts=efforts)
    check_sizes(outcome_classes=outcome_classes)
    check_not_negative(hardest=hardest, scale=scale)
    if outcome_classes > levels:
        raise InputError(f"outcome_classes is {outcome_classes}; give at most one a level: {levels}")
    effort = np.linspace(0, 1, efforts)
    up, down = 0.1 + 0.6 * effort, 0.5 - 0.4 * effort
    table = np.zeros((levels, efforts, levels))
    here = np.arange(levels)
    for step, chance in ((1, up), (-1, down), (0, 1 - up - down)):
        to = np.clip(here + step, 0, levels - 1)
        np.add.at(table, (here[:, None], np.arange(efforts), to[:, None]), chance)
    world = MDP(table, np.full(levels, 1 / levels), discount)
    P = jnp.asarray(table, float)
    seen = np.arange(levels) * outcome_classes // levels
    # Mass on each outcome, (S, A, K).
    chances = jnp.asarray(table @ np.eye(outcome_classes)[seen], float)
    cost = jnp.asarray(hardest * effort**2, float)
    gained = P @ jnp.linspace(0.0, 1.0, levels)

    def expected_pay(x: Array) -> Array:
        pay = jnp.broadcast_to(jax.nn.softplus(x), (levels, outcome_classes))
        return jnp.sum(chances * pay[:, None, :], axis=-1)

    loss = LeaderReturn(world, lambda x: gained - expected_pay(x))

    def outcomes(x: Array, policy: Array) -> dict[str, Array]:
        visits = state_action_occupancy(world, policy)
        return {
            "principal's return": -loss(x, policy),
            "pay": jnp.sum(visits * expected_pay(x)),
            "effort": jnp.sum(visits * jnp.asarray(effort, float)) / jnp.sum(visits),
        }

    shape = (levels, outcome_classes) if per_state else (outcome_classes,)
    return Task(
        name="contract",
        title="pay for outcomes so that an agent whose effort is not seen makes one",
        problem=BilevelProblem(world, lambda x: expected_pay(x) - cost, loss, temperature),
        start=lambda key: -2 + scale * jax.random.normal(key, shape),
        step_size=0.1,
        steps=300,
        outcomes=outcomes,
    )
