"""Tax labour income: rates by bracket against one flat rate.

Idea. Households of three kinds of skill work, save and consume; now and then they lose their work. A planner
taxes labour income, at its own rate in each of four brackets, and hands the same transfer to everybody. It
cares for all alike, so that a meal counts for more with who has little, and for what is left of the revenue.
Flat rates with a transfer are the uniform taxes; the best of them is found by a grid.

Equation. A household has assets b, skill w and work or none; it chooses hours h and next assets b'. T_x(y) is
the tax on income y = w h, with rates σ(x_i) in the brackets, less the transfer, softplus(x_5):

    c = (1 + INTEREST) b + y − T_x(y) − b',      r_x = u(c) − LABOUR h²,      u = log, a line below FLOOR
    min over x   φ(x) = −mean over kinds of E_π*(x) Σ_t γ^t (r_x + REVENUE T_x(y))

Working or not is a Markov chain; b' is what is chosen, so that actions share their kernel.

Claim. The learned brackets beat the best flat rate with a transfer: everybody would have to consume at least
one and a half percent more for the flat rate to be as good. The poorest kind consumes more under them.

Sources: tax design as in Thoma et al., NeurIPS 2024 (arXiv 2406.01575), whose own economy is `problems/tax`;
Mirrlees, Review of Economic Studies, 1971; Aiyagari, Quarterly Journal of Economics, 1994, the households.
Departures: prices do not answer; the numbers are ours.

    python examples/tax.py --out tax.png
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax import Array
from matplotlib.figure import Figure

import rewardsmith as rs
from rewardsmith.mdp import state_action_occupancy

SKILLS, EDGES = np.array([0.5, 1.0, 2.0]), np.array([0.3, 0.6, 1.0])
# Work or none: losing it, finding it, and what is earned without.
LOSING, FINDING, IDLE = 0.1, 0.5, 0.1
HOURS, ASSETS = np.linspace(0, 1, 11), np.linspace(0, 3, 13)
INTEREST, LABOUR, REVENUE, FLOOR = 0.02, 0.8, 1.5, 0.05
DISCOUNT, TEMPERATURE = 0.95, 0.05
FLAT_RATES, TRANSFERS = np.linspace(0.2, 0.6, 21), np.linspace(0.1, 0.5, 21)
BINS = np.linspace(0, 2, 41)


@dataclass(frozen=True)
class Economy:
    """Under one tax: rates (4,) and transfer, the planner's return, mean consumption, hours and tax of each
    kind (3,), a step, and mass of consumption (3, bins)."""

    rates: np.ndarray
    transfer: float
    planner: float
    consumption: np.ndarray
    hours: np.ndarray
    tax: np.ndarray
    mass: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """No tax, the best flat rate with a transfer, and the learned brackets from each start."""

    none: Economy
    flat: Economy
    learned: list[Economy]

    def worth(self, economy: Economy) -> float:
        """By what share all consumption must rise under the flat rate for it to be as good: log utility gains
        log(1 + share) in each of 1/(1 − γ) steps."""
        return float(np.expm1((economy.planner - self.flat.planner) * (1 - DISCOUNT)))


def main(seed: int = 0, steps: int = 200, starts: int = 3, out: Path | None = None) -> Outcome:
    """Learn a tax by brackets; compare with the best flat rate.

    Args:
        seed: of the first taxes.
        steps: of Adam.
        starts: taxes to begin from.
        out: picture of the rates and of who consumes what, such as tax.png.
    """
    with jax.enable_x64(True):
        problem = tax_problem()
        method = rs.ImplicitGradient(0.05, optimiser=optax.adam(1.0))
        keys = jax.random.split(jax.random.key(seed), starts)
        learn = eqx.filter_jit(lambda x: rs.solve(problem, method, x, steps).value)
        ends = [learn(0.5 * jax.random.normal(key, (5,)) - 1) for key in keys]
        nothing = jnp.full(5, -30.0)
        learned = [_economy(problem, x) for x in ends]
        outcome = Outcome(_economy(problem, nothing), _economy(problem, _best_flat(problem)), learned)
    _print(outcome)
    if out is not None:
        _draw(outcome, out)
    return outcome


def claims(outcome: Outcome) -> dict[str, bool]:
    """What this example says, and whether it is so."""
    return {
        "learned brackets are worth one and a half percent of consumption over the best flat rate": all(
            outcome.worth(economy) > 0.015 for economy in outcome.learned
        ),
        "the poorest kind consumes more": all(
            economy.consumption[0] > outcome.flat.consumption[0] for economy in outcome.learned
        ),
    }


def household_world() -> rs.MDP:
    """States kind·(2·assets) + working·assets + b; actions hours·assets + b'."""
    count, kinds = len(ASSETS), len(SKILLS)
    works = np.array([[1 - FINDING, FINDING], [LOSING, 1 - LOSING]])
    # Working or not moves by itself, assets go where they are sent: [k, w, b, b', k, v, b'].
    kernel = np.einsum("kl,wv,bz,yx->kwbylvx", np.eye(kinds), works, np.ones((count, 1)), np.eye(count))
    states = kinds * 2 * count
    kernel = kernel.reshape(states, count, states)
    initial = np.zeros((kinds, 2, count))
    initial[:, 1, 0] = 1 / kinds
    actions = np.tile(np.arange(count), len(HOURS))
    return rs.MDP(rs.SharedTransition(kernel, actions), initial.ravel(), DISCOUNT, contexts=kinds)


def unpack(x: Array) -> tuple[Array, Array]:
    """Rates (4,) and the transfer."""
    return jax.nn.sigmoid(x[:4]), jax.nn.softplus(x[4])


def tax(x: Array, income: Array) -> Array:
    """T_x: what is paid on an income, less the transfer."""
    rates, transfer = unpack(x)
    bounds = jnp.asarray([0.0, *EDGES, np.inf])
    parts = jnp.clip(income[..., None] - bounds[:-1], 0.0, bounds[1:] - bounds[:-1])
    return parts @ rates - transfer


def consumption_and_tax(x: Array) -> tuple[Array, Array]:
    """c and T, (S, A)."""
    earned = np.stack([np.full((len(SKILLS), len(HOURS)), IDLE), np.outer(SKILLS, HOURS)], axis=1)
    shape = (len(SKILLS), 2, len(ASSETS), len(HOURS), len(ASSETS))
    income = jnp.broadcast_to(jnp.asarray(earned)[:, :, None, :, None], shape)
    taxed = tax(x, income)
    spare = jnp.asarray((1 + INTEREST) * ASSETS[:, None, None] - ASSETS)
    consumed = income - taxed + spare
    size = (len(SKILLS) * 2 * len(ASSETS), -1)
    return consumed.reshape(size), taxed.reshape(size)


def utility(c: Array) -> Array:
    """log c, below FLOOR the line that goes on from there, so that debts have a worth and a slope."""
    return jnp.where(c > FLOOR, jnp.log(jnp.maximum(c, FLOOR)), np.log(FLOOR) + c / FLOOR - 1)


def tax_problem() -> rs.BilevelProblem[rs.MDP]:
    """The equations above; x (5,)."""
    world = household_world()
    toil = LABOUR * jnp.repeat(jnp.asarray(HOURS) ** 2, len(ASSETS))

    def reward(x: Array) -> Array:
        return utility(consumption_and_tax(x)[0]) - toil

    planner = rs.LeaderReturn(world, lambda x: reward(x) + REVENUE * consumption_and_tax(x)[1])
    return rs.BilevelProblem(world, reward, planner, TEMPERATURE)


def flat(rate: Array, transfer: Array) -> Array:
    """x of one rate for all brackets."""
    logit = jnp.log(jnp.maximum(rate, 1e-12)) - jnp.log1p(-rate)
    return jnp.append(jnp.full(4, logit), jnp.log(jnp.expm1(jnp.maximum(transfer, 1e-12))))


def _best_flat(problem: rs.BilevelProblem[rs.MDP]) -> Array:
    def loss(rate: Array, transfer: Array) -> Array:
        x = flat(rate, transfer)
        policy = rs.solve_follower(problem.world, problem.reward(x), problem.tau).policy
        return problem.upper_loss(x, policy)  # pyright: ignore

    row = jax.jit(jax.vmap(loss, (None, 0)))
    losses = np.stack([row(rate, jnp.asarray(TRANSFERS)) for rate in jnp.asarray(FLAT_RATES)])
    i, j = np.unravel_index(losses.argmin(), losses.shape)
    return flat(jnp.asarray(FLAT_RATES[i]), jnp.asarray(TRANSFERS[j]))


def _economy(problem: rs.BilevelProblem[rs.MDP], x: Array) -> Economy:
    policy = rs.solve_follower(problem.world, problem.reward(x), problem.tau).policy
    planner = -float(problem.upper_loss(x, policy))  # pyright: ignore
    visits = np.asarray(state_action_occupancy(problem.world, policy)).reshape(len(SKILLS), -1)
    visits = visits / visits.sum(axis=1, keepdims=True)
    consumed, taxed = (np.asarray(table).reshape(len(SKILLS), -1) for table in consumption_and_tax(x))
    worked = np.broadcast_to(np.repeat(HOURS, len(ASSETS)), policy.shape).reshape(len(SKILLS), -1)
    means = (np.sum(visits * values, axis=1) for values in (consumed, worked, taxed))
    consumption, hours, paid = means
    mass = np.stack([np.histogram(c, BINS, weights=v)[0] for c, v in zip(consumed, visits, strict=True)])
    rates, transfer = unpack(x)
    return Economy(np.asarray(rates), float(transfer), planner, consumption, hours, paid, mass)


def _print(outcome: Outcome) -> None:
    rows = {"no tax": outcome.none, "best flat": outcome.flat}
    rows |= {f"learned, start {i}": economy for i, economy in enumerate(outcome.learned)}
    print(f"{'':18}{'planner':>9}{'worth':>8}   rates, transfer; consumption, hours and tax of each kind")
    for name, e in rows.items():
        parts = " · ".join(str(np.round(v, 2)) for v in (e.consumption, e.hours, e.tax))
        taxes = f"{np.round(e.rates, 2)} {e.transfer:.2f}"
        print(f"{name:18}{e.planner:9.3f}{outcome.worth(e):8.2%}   {taxes}; {parts}")


def _draw(outcome: Outcome, out: Path) -> None:
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    rates, *kinds = figure.subplots(1, 4, width_ratios=[1.5, 1, 1, 1])
    learned = outcome.learned[0]
    edges = [0.0, *EDGES, 2.0]
    for economy, name, colour in ((outcome.flat, "flat", "tab:grey"), (learned, "learned", "tab:blue")):
        label = f"{name}, transfer {economy.transfer:.2f}"
        rates.stairs(economy.rates, edges, color=colour, label=label, linewidth=2)
        for kind, axes in enumerate(kinds):
            axes.plot(BINS[1:], np.cumsum(economy.mass[kind]), color=colour)
            axes.axvline(economy.consumption[kind], color=colour, linestyle="--")
    rates.set(xlabel="income of a step", ylabel="marginal rate", ylim=(0, 1), title="Taxes")
    rates.legend(fontsize=8, loc="lower right")
    for kind, axes in enumerate(kinds):
        axes.set(xlabel="consumption", ylim=(0, 1), title=f"skill {SKILLS[kind]}", xlim=(0, 2))
    kinds[0].set_ylabel("share of steps with less")
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    found = tyro.cli(main)
    if failed := [claim for claim, holds in claims(found).items() if not holds]:
        sys.exit(f"not so at these settings: {failed[0]}")
