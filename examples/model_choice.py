"""Choose a model by hyper-gradient: what a planner should believe of the demand.

Idea. A shop orders every morning for the day; stock that is left costs, customers who leave cost more. It
plans in a model of the demand that is too small: Poisson, one rate for working days and one for the weekend,
where the true demand differs from day to day and has rushes that no Poisson has. Fitted by likelihood the
rates are the mean demands, and the plan is caught out by every rush. Other rates, wrong as means, make the
same planner order better. They are found by the gradient of what the plan would have earned on the recorded
days, through the plan.

Equation. p_x(D | day) is the model's demand, p̂ that of the records. Stock becomes max(y − D, 0), y being what
there is after the order; the world P and the reward r follow from the demand. The planner's answer π*(x) is
soft-optimal in the model, and is paid in the world:

    π*(x) soft-optimal for r(p_x) in P(p_x)
    min over x   φ(x) = −E Σ_t γ^t r(p̂),   expectation in P(p̂) under π*(x)

The leader moves the follower's world and is paid in another: a `transition` for the one, a `LeaderReturn` on
the other.

Claim. In the true world, which neither has seen, the hyper-gradient's model closes at least three quarters of
the gap between the plan of the likelihood's model and that of a planner who knows the truth; and it is a
worse model: its likelihood is lower.

Sources: Nikishin et al., AAAI 2022 (arXiv 2106.03273), the bilevel form; Joseph et al., ICRA 2013,
misspecified models; Grimm et al., NeurIPS 2020, value equivalence. Departure: the shop is ours.

    python examples/model_choice.py --out model.png
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax import Array
from matplotlib.figure import Figure
from scipy.stats import nbinom

import rewardsmith as rs

DAYS, CAPACITY, LARGEST_ORDER, LARGEST_DEMAND = 7, 24, 16, 40
# Mean demand of each day; the variance is DISPERSION times the mean, 1 in a Poisson.
MEANS, DISPERSION = np.array([2.0, 2.5, 3.0, 4.0, 6.0, 9.0, 5.0]), 4.0
WEEKEND = np.array([0, 0, 0, 0, 0, 1, 1])
PRICE, COST, KEEPING, LOST = 2.0, 1.0, 0.1, 3.0
DISCOUNT, TEMPERATURE = 0.95, 0.05
WEEKS = 60


class World(NamedTuple):
    """P (S, A, S) and r (S, A) that a demand makes; state day·(CAPACITY + 1) + stock."""

    transition: Array
    reward: Array


@dataclass(frozen=True)
class Plan:
    """A planner's return in the true world and on the records; its model's mean log-likelihood of a day and
    rates (2,), none where it is no Poisson; and how far it fills the shop, (DAYS,), from empty."""

    true_return: float
    recorded_return: float
    likelihood: float
    rates: np.ndarray
    filled: np.ndarray


@dataclass(frozen=True)
class Draw:
    """Plans on one draw of the records: in the likelihood's Poisson; in the hyper-gradient's; in the records'
    own distribution, which is no Poisson; and knowing the truth."""

    by_likelihood: Plan
    by_gradient: Plan
    by_records: Plan
    knowing: Plan

    @property
    def closed(self) -> float:
        """Share of the gap between the likelihood's plan and the knowing one's that the gradient closes."""
        low, high = self.by_likelihood.true_return, self.knowing.true_return
        return (self.by_gradient.true_return - low) / (high - low)


def main(seed: int = 0, steps: int = 200, draws: int = 5, out: Path | None = None) -> list[Draw]:
    """Choose the rates of a demand model by hyper-gradients.

    Args:
        seed: of the records.
        steps: of Adam, from the likelihood's rates.
        draws: of records, WEEKS weeks each.
        out: picture of what is ordered and of what is earned, such as model.png.
    """
    with jax.enable_x64(True):
        results = [_compare(draw_records(np.random.default_rng([seed, i])), steps) for i in range(draws)]
    _print(results)
    if out is not None:
        _draw(results, out)
    return results


def claims(draws: list[Draw]) -> dict[str, bool]:
    """What this example says, and whether it is so."""
    return {
        "the hyper-gradient's model closes three quarters of the gap": all(
            draw.closed > 0.75 for draw in draws
        ),
        "its likelihood is lower": all(
            draw.by_gradient.likelihood < draw.by_likelihood.likelihood for draw in draws
        ),
    }


def true_demand() -> np.ndarray:
    """Probabilities (DAYS, LARGEST_DEMAND + 1), negative binomial and cut off."""
    success = 1 / DISPERSION
    count = MEANS * success / (1 - success)
    table = nbinom.pmf(np.arange(LARGEST_DEMAND + 1), count[:, None], success)
    return table / table.sum(axis=1, keepdims=True)


def draw_records(rng: np.random.Generator) -> np.ndarray:
    """How often each demand was seen on each day, (DAYS, LARGEST_DEMAND + 1)."""
    return np.array([rng.multinomial(WEEKS, row) for row in true_demand()])


def model_demand(x: Array) -> Array:
    """p_x: Poisson of rate exp(x) for working days and weekend, x (2,), cut off."""
    demand = jnp.arange(LARGEST_DEMAND + 1.0)
    logs = demand * x[WEEKEND, None] - jax.scipy.special.gammaln(demand + 1)
    return jax.nn.softmax(logs, axis=1)


def shop(demand: Array) -> World:
    """What a demand (DAYS, D) makes of the world."""
    stock, order = np.arange(CAPACITY + 1), np.arange(LARGEST_ORDER + 1)
    filled = np.minimum(stock[:, None] + order, CAPACITY)
    left = np.maximum(stock[:, None] - np.arange(LARGEST_DEMAND + 1), 0)
    # Mass on what is left of each stock at the end of each day, (DAYS, stock, stock).
    ends = jnp.einsum("wd,sdt->wst", demand, jnp.eye(CAPACITY + 1)[left])
    sold = jnp.minimum(stock[:, None], np.arange(LARGEST_DEMAND + 1))
    day = demand @ (PRICE * sold - KEEPING * left - LOST * (np.arange(LARGEST_DEMAND + 1) - sold)).T
    reward = day[:, filled] - COST * (filled - stock[:, None])
    tomorrow = np.roll(np.eye(DAYS), 1, axis=1)
    moves = jnp.einsum("wsat,wv->wsavt", ends[:, filled], tomorrow)
    states = DAYS * (CAPACITY + 1)
    return World(moves.reshape(states, len(order), states), reward.reshape(states, len(order)))


def choice_problem(recorded: Array) -> rs.BilevelProblem[rs.MDP]:
    """The equations above; `recorded` is p̂ (DAYS, D), x (2,) log rates."""
    real = shop(recorded)
    world = rs.MDP(real.transition, jnp.ones(len(real.reward)) / len(real.reward), DISCOUNT)
    return rs.BilevelProblem(
        world,
        reward=lambda x: shop(model_demand(x)).reward,
        upper_loss=rs.LeaderReturn(world, lambda x: real.reward),
        temperature=TEMPERATURE,
        transition=lambda x: shop(model_demand(x)).transition,
    )


def likeliest(records: np.ndarray) -> np.ndarray:
    """The log rates (2,) of the greatest likelihood: mean demands."""
    totals = records @ np.arange(LARGEST_DEMAND + 1)
    return np.log([totals[group == WEEKEND].sum() / records[group == WEEKEND].sum() for group in (0, 1)])


def _compare(records: np.ndarray, steps: int) -> Draw:
    recorded = jnp.asarray(records / records.sum(axis=1, keepdims=True))
    x0 = jnp.asarray(likeliest(records))
    ends = _improve(recorded, x0, steps)
    believed = [model_demand(x0), model_demand(ends), recorded, jnp.asarray(true_demand())]
    rates = [np.exp(np.asarray(x)) for x in (x0, ends)] + [np.zeros(0)] * 2
    made = []
    for demand, rate in zip(believed, rates, strict=True):
        true, seen, filled = map(np.asarray, _earn(recorded, demand))
        likelihood = np.sum(records * np.log(np.maximum(demand, 1e-300))) / np.sum(records)
        made.append(Plan(float(true), float(seen), float(likelihood), rate, filled))
    return Draw(*made)


@eqx.filter_jit
def _improve(recorded: Array, x0: Array, steps: int) -> Array:
    method = rs.ImplicitGradient(0.02, optimiser=optax.adam(1.0))
    return rs.solve(choice_problem(recorded), method, x0, steps).value


@jax.jit
def _earn(recorded: Array, believed: Array) -> tuple[Array, Array, Array]:
    """Returns in the true and the recorded world of the plan made in a believed one; filling from empty."""
    imagined = shop(believed)
    start = jnp.ones(len(imagined.reward)) / len(imagined.reward)
    policy = rs.solve_follower(
        rs.MDP(imagined.transition, start, DISCOUNT), imagined.reward, TEMPERATURE
    ).policy
    returns = []
    for demand in (jnp.asarray(true_demand()), recorded):
        real = shop(demand)
        world = rs.MDP(real.transition, start, DISCOUNT)
        returns.append(-rs.LeaderReturn(world, lambda _, reward=real.reward: reward)(None, policy))
    empty = policy.reshape(DAYS, CAPACITY + 1, -1)[:, 0]
    return returns[0], returns[1], empty @ jnp.arange(LARGEST_ORDER + 1.0)


def _print(draws: list[Draw]) -> None:
    print(f"{'':6}{'return in the true world of the plan by':>50}{'likelihood of a day':>26}")
    print(
        f"{'draw':6}{'likelihood':>12}{'gradient':>12}{'records':>12}{'truth':>12}{'before':>14}{'after':>12}"
    )
    for i, draw in enumerate(draws):
        first, second = draw.by_likelihood, draw.by_gradient
        plans = (first, second, draw.by_records, draw.knowing)
        returns = "".join(f"{plan.true_return:12.2f}" for plan in plans)
        rates = f"rates {np.round(first.rates, 2)} → {np.round(second.rates, 2)}"
        print(f"{i:<6}{returns}{first.likelihood:14.3f}{second.likelihood:12.3f}   {rates}")
    closed = [draw.closed for draw in draws]
    print(f"of the gap closed: {min(closed):.0%} to {max(closed):.0%}")


def _draw(draws: list[Draw], out: Path) -> None:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    orders, earned = figure.subplots(1, 2)
    names = {"likelihood": "tab:grey", "hyper-gradient": "tab:orange", "knowing the truth": "tab:blue"}
    kinds = [[getattr(draw, kind) for draw in draws] for kind in ("by_likelihood", "by_gradient", "knowing")]
    for (name, colour), plans in zip(names.items(), kinds, strict=True):
        orders.plot(plans[0].filled, "o-", color=colour, label=name)
        earned.plot([plan.true_return for plan in plans], "o-", color=colour, label=name)
    orders.plot(MEANS, "k:", label="mean demand")
    orders.set_xticks(range(DAYS), list("MTWTFSS"))
    orders.set(xlabel="day", ylabel="mean order, shop empty", title="Draw 0: what the plan orders")
    orders.set_ylim(0, 22)
    orders.legend(fontsize=8, ncols=2, loc="upper left")
    earned.set_xticks(range(len(draws)))
    earned.set(xlabel="draw of the records", ylabel="return", title="What it earns in the true world")
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    found = tyro.cli(main)
    if failed := [claim for claim, holds in claims(found).items() if not holds]:
        sys.exit(f"not so at these settings: {failed[0]}")
