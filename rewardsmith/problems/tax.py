"""Tax design: choose an income tax and three value-added taxes for consumers who work, buy and save.

A consumer's state is its assets, a real number in [−100, 100]; it chooses hours h to work and how much c_i
to buy of each of three goods. With x ∈ R⁴, income tax θ = 2σ(x_0), taxes on goods v_i = 2σ(x_i), wage and
prices 1:

    r_x = assets − 0.1 h² + Π_i (c_i / (1 + v_i))^{p_i}
    assets' = truncated normal of deviation 5 about clip(assets + (1 − θ) h − Σ_i c_i), inside the range
    r_L = 3 mean_i(c_i / (1 + v_i)) + 5 log(1 + Σ_i v_i c_i / (1 + v_i) + θ h)

γ = 0.9 for both; two kinds of consumer, p = (.6, .3, .1) and (.1, .7, .2), each with probability ½. The
leader moves the reward and, by the income tax, the transition probabilities. φ = −(mean discounted r_L).

A unit of assets kept is worth some γ/(1 − γ) = 9 to a consumer, a unit bought at most 1: consumers buy next
to nothing until their assets near the top of the range.

Source: HPGD, Thoma et al., NeurIPS 2024 (arXiv 2406.01575), temperatures 0.1, 0.2 and 0.3. Departures: assets
lie on a grid of points, and a row of P holds the truncated normal's mass on the cells around them, so that
all is exact; no time limit (the source's 200 steps leave γ²⁰⁰ ≈ 10⁻⁹). Both kinds of consumer live in one
world, a copy of the grid each; they differ in reward alone and share one kernel, (points, hours and sum
spent, points), of 42 MB in float64 at full size.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..mdp import MDP, SharedTransition, Transition, state_occupancy
from ..problem import BilevelProblem
from ..upper_losses import LeaderReturn
from ._checks import check_not_negative, check_sizes
from ._copies import Copies
from .task import Task

PREFERENCES = np.array([[0.6, 0.3, 0.1], [0.1, 0.7, 0.2]])
_RANGE, _DEVIATION = 100.0, 5.0
_HOUR, _UNIT = 0.89, 1.25
_FIRST_RATE = 0.3


def build(
    *,
    points: int = 201,
    hours: int = 10,
    levels: int = 5,
    temperature: float = 0.2,
    scale: float = 0.1,
) -> Task:
    """Tax design.

    Args:
        points: of the grid of assets.
        hours: choices of working time, 0 to hours − 1 times 0.89.
        levels: choices of consumption of a good, 0 to levels − 1 times 1.25.
        temperature: τ.
        scale: standard deviation of x0 about the rates' first value, 0.3; the source has 0.
    """
    check_sizes(2, points=points, hours=hours, levels=levels)
    check_not_negative(scale=scale)
    assets = np.linspace(-_RANGE, _RANGE, points)
    edges = np.concatenate([[-_RANGE], (assets[1:] + assets[:-1]) / 2, [_RANGE]])
    choices = np.array(list(itertools.product(range(hours), *[range(levels)] * 3)))
    worked, bought = jnp.asarray(_HOUR * choices[:, 0], float), jnp.asarray(_UNIT * choices[:, 1:], float)
    sums = 3 * (levels - 1) + 1
    group = choices[:, 0] * sums + choices[:, 1:].sum(axis=1)
    kinds = len(PREFERENCES)

    def transition(x: Array) -> Transition:
        earned = (1 - rates(x)[0]) * _HOUR * jnp.arange(hours)
        saved = (earned[:, None] - _UNIT * jnp.arange(sums)).reshape(-1)
        return Copies(SharedTransition(_next_assets(jnp.asarray(assets, float), edges, saved), group), kinds)

    # A normal of variance 2 has distribution function (1 + erf(x/2)) / 2.
    first = np.diff(np.asarray(jax.lax.erf(jnp.asarray(edges / 2, float))))
    initial = np.tile(first / first.sum() / kinds, kinds)
    world = MDP(transition(jnp.zeros(4)), initial, 0.9, contexts=len(PREFERENCES))
    # Π_i c_i^{p_i}, apart from the taxes: 0^p has no gradient to be asked for.
    taste = jnp.prod(bought ** jnp.asarray(PREFERENCES, float)[:, None, :], axis=-1)
    own = jnp.asarray(assets, float)[:, None] - 0.1 * worked**2

    def reward(x: Array) -> Array:
        dearness = jnp.prod((1 + rates(x)[1:]) ** -jnp.asarray(PREFERENCES, float), axis=-1)
        joy = taste * dearness[:, None]
        return (own + joy[:, None, :]).reshape(kinds * points, -1)

    def leader_reward(x: Array) -> Array:
        income, goods = rates(x)[0], rates(x)[1:]
        real = bought / (1 + goods)
        revenue = real @ goods + income * worked
        per_action = 3 * real.mean(axis=-1) + 5 * jnp.log1p(revenue)
        return jnp.broadcast_to(per_action, (kinds * points, len(choices)))

    loss = LeaderReturn(world, leader_reward, transition=transition)

    def outcomes(x: Array, policy: Array) -> dict[str, Array]:
        occupancy = state_occupancy(loss.leader_world(x), policy)
        share = occupancy @ policy / jnp.sum(occupancy)
        taxes = dict(zip(("income tax", "VAT 1", "VAT 2", "VAT 3"), rates(x), strict=True))
        return {
            "leader return": -loss(x, policy),
            **taxes,
            "hours": share @ worked,
            "consumption": share @ bought.sum(axis=1),
        }

    logit = float(np.log(_FIRST_RATE / (2 - _FIRST_RATE)))
    return Task(
        name="tax",
        title="tax income and goods of consumers who work, buy and save",
        problem=BilevelProblem(world, reward, loss, temperature, transition=transition),
        start=lambda key: logit + scale * jax.random.normal(key, (4,)),
        step_size=0.1,
        steps=80,
        outcomes=outcomes,
    )


def rates(x: Float[Array, " 4"]) -> Float[Array, " 4"]:
    """Income tax and the taxes on the three goods, each between 0 and 2."""
    return 2 * jax.nn.sigmoid(x)


def _next_assets(
    assets: Float[Array, " S"], edges: np.ndarray, saved: Float[Array, " G"]
) -> Float[Array, "S G S"]:
    """Mass of the truncated normal on each cell of the grid, for each state and change of assets."""
    mean = jnp.clip(assets[:, None] + saved, -_RANGE, _RANGE)[..., None]
    # Twice the normal distribution function, less 1: differences of it are what counts.
    below = jax.lax.erf((jnp.asarray(edges, mean.dtype) - mean) / (_DEVIATION * np.sqrt(2.0)))
    mass = jnp.diff(below, axis=-1)
    # Rounding may leave a difference of equal numbers below zero.
    mass = jnp.maximum(mass, 0.0)
    return mass / jnp.sum(mass, axis=-1, keepdims=True)
