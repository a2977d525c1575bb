"""Steer a robot by rewards placed on a map: round the hazards, by the lane.

Idea. A robot takes the shortest way to its goal, which leads through a field of hazards. Its owner would have
it go by a lane round them, and can place a reward or a charge on each of the map's cells, at a price. By hand
one would put the same charge on every hazard, and perhaps the same reward on every cell of the lane.

Equation. The robot's answer π*(x) is soft-optimal for r_x; the owner's own reward is r_L:

    r_x(s,·) = 1 at the goal, else x(s) − 0.02
    r_L(s,·) = 1 at the goal, −0.3 on a hazard, 0 on the lane, else −0.02
    min over x   φ(x) = −E_π*(x) Σ_t γ^t r_L + PRICE ½‖x‖²

Claim. The learned rewards cut the visits of hazards by nine tenths and bring φ below the best that charges on
hazards and rewards on the lane can do by hand; and they steer a robot that decides more sharply than the one
they were learned with as well.

Source: incentive design as in Thoma et al., NeurIPS 2024 (arXiv 2406.01575); the map is ours.

    python examples/navigation.py --out navigation.png
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

import rewardsmith as rs
from rewardsmith.mdp import state_occupancy
from rewardsmith.problems import Task, make
from rewardsmith.problems.navigation import MAP

HAZARD, LANE = (MAP.letters == mark for mark in "!+")
CHARGES, REWARDS = np.linspace(0, 0.5, 26), np.linspace(0, 0.018, 10)
PRICE, SHARPER = 0.02, 0.003


@dataclass(frozen=True)
class Route:
    """φ, discounted visits of hazards and of the lane, and of each cell (S,), under rewards x (S,)."""

    loss: float
    hazards: float
    lane: float
    visits: np.ndarray
    placed: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """With nothing placed, the best by hand, the learned ones from each start; `sharper`: the first of them
    before a robot of temperature SHARPER."""

    nothing: Route
    by_hand: Route
    learned: list[Route]
    sharper: Route


def main(seed: int = 0, steps: int = 500, starts: int = 3, out: Path | None = None) -> Outcome:
    """Learn where to place rewards for a robot.

    Args:
        seed: of the first rewards, which are small.
        steps: of Adam.
        starts: to begin from.
        out: picture of the ways taken and of the rewards placed, such as navigation.png.
    """
    with jax.enable_x64(True):
        task = make("navigation", price=PRICE)
        method = rs.ImplicitGradient(task.step_size, optimiser=optax.adam(1.0))
        keys = jax.random.split(jax.random.key(seed), starts)
        ends = [rs.solve(task.problem, method, task.start(key), steps).value for key in keys]
        learned = [_route(task, x) for x in ends]
        nothing = _route(task, jnp.zeros(len(HAZARD)))
        outcome = Outcome(nothing, _by_hand(task), learned, _route(task, ends[0], SHARPER))
    _print(outcome)
    if out is not None:
        _draw(outcome, out)
    return outcome


def claims(outcome: Outcome) -> dict[str, bool]:
    """What this example says, and whether it is so."""
    few = 0.1 * outcome.nothing.hazards
    return {
        "learned rewards cut the visits of hazards by nine tenths": all(
            route.hazards < few for route in outcome.learned
        ),
        "learned rewards do better than any by hand": all(
            route.loss < outcome.by_hand.loss - 0.05 for route in outcome.learned
        ),
        "a sharper robot is steered as well": outcome.sharper.hazards < few
        and outcome.sharper.loss < outcome.by_hand.loss,
    }


def _route(task: Task, x: Array, temperature: float | None = None) -> Route:
    problem = task.problem
    tau = problem.tau if temperature is None else temperature
    policy = rs.solve_follower(problem.world, problem.reward(x), tau).policy
    visits = np.asarray(state_occupancy(problem.world, policy))
    told = task.outcomes(x, policy)
    loss = PRICE * float(told["cost"]) - float(told["leader return"])
    return Route(loss, float(visits[HAZARD].sum()), float(visits[LANE].sum()), visits, np.asarray(x))


def _by_hand(task: Task) -> Route:
    """The best of charges of one size on every hazard and rewards of one size on the lane."""
    problem = task.problem

    def loss(charge: Array, reward: Array) -> Array:
        x = reward * LANE - charge * HAZARD
        told = task.outcomes(x, rs.solve_follower(problem.world, problem.reward(x), problem.tau).policy)
        return PRICE * told["cost"] - told["leader return"]

    charges, rewards = map(jnp.asarray, (CHARGES, REWARDS))
    over_rewards = jax.jit(jax.vmap(loss, (None, 0)))
    losses = np.stack([over_rewards(charge, rewards) for charge in charges])
    i, j = np.unravel_index(losses.argmin(), losses.shape)
    return _route(task, rewards[j] * LANE - charges[i] * HAZARD)


def _print(outcome: Outcome) -> None:
    rows = {"nothing placed": outcome.nothing, "best by hand": outcome.by_hand}
    rows |= {f"learned, start {i}": route for i, route in enumerate(outcome.learned)}
    rows[f"start 0, robot of τ = {SHARPER}"] = outcome.sharper
    print(f"{'':28}{'φ':>8}{'hazards':>10}{'lane':>8}")
    for name, route in rows.items():
        print(f"{name:28}{route.loss:8.3f}{route.hazards:10.3f}{route.lane:8.2f}")
    placed = outcome.by_hand.placed
    print(f"by hand: {placed[HAZARD][0]:.3f} on a hazard, {placed[LANE][0]:.3f} on the lane")


def _draw(outcome: Outcome, out: Path) -> None:
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    before, placed, after = figure.subplots(1, 3)
    learned = outcome.learned[0]
    most = learned.visits.max()
    for axes, route, title in ((before, outcome.nothing, "nothing placed"), (after, learned, "steered")):
        image = _map(axes, route.visits, f"Visits, {title}", cmap="Blues", vmin=0, vmax=most)
        figure.colorbar(image, ax=axes, shrink=0.7)
    largest = np.abs(learned.placed).max()
    image = _map(placed, learned.placed, "Rewards placed", cmap="PiYG", vmin=-largest, vmax=largest)
    figure.colorbar(image, ax=placed, shrink=0.7)
    figure.savefig(out, dpi=150)


def _map(axes: Axes, values: np.ndarray, title: str, **colours: Any) -> AxesImage:
    table = np.full(MAP.shape, np.nan)
    table[tuple(np.transpose(MAP.cells))] = values
    axes.set_facecolor("0.35")
    image = axes.imshow(table, **colours)
    for (row, column), letter in zip(MAP.cells, MAP.letters, strict=True):
        if letter in "!+sg":
            colour = {"!": "tab:red", "+": "tab:orange"}.get(letter, "black")
            axes.text(column, row, letter, ha="center", va="center", fontsize=7, color=colour)
    axes.set(xticks=[], yticks=[], title=title)
    return image


if __name__ == "__main__":
    found = tyro.cli(main)
    if failed := [claim for claim, holds in claims(found).items() if not holds]:
        sys.exit(f"not so at these settings: {failed[0]}")
