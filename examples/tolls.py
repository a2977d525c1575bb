"""Send a walker past a shop by tolls: an incentive learned on a small grid.

Idea. A courier walks from the top-left to the bottom-right corner of a 5×5 map, by any of the many shortest
ways. A shop in the bottom-left corner is on one of them. Its keeper may put tolls on the map, at some cost to
itself. Which tolls bring the courier past?

Equation. x_s² is the toll in cell s. A step from s is worth −1 − x_s² to the courier, whose answer π*(x) is
the soft-optimal policy at temperature 0.1; the keeper wants it past the shop, and early:

    min over x   φ(x) = −E_π*(x) Σ_t γᵗ 1{s_t is the shop} + COST Σ_s x_s²

Sources: incentive design, Thoma et al., NeurIPS 2024 (arXiv 2406.01575); the hyper-gradient, Yang, Gao and
Yuan, AISTATS 2025 (arXiv 2405.19697).

    python examples/tolls.py --out tolls.png
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from matplotlib.figure import Figure

import rewardsmith as rs

SIZE, ARROWS = 5, "↑→↓←"
START, SHOP, GOAL = 0, SIZE * (SIZE - 1), SIZE * SIZE - 1
COST, TEMPERATURE = 0.02, 0.1


@dataclass(frozen=True)
class Outcome:
    """The tolls (SIZE, SIZE); discounted visits to the shop and most probable moves, before and after."""

    tolls: np.ndarray
    visits: tuple[float, float]
    moves: tuple[np.ndarray, np.ndarray]


def main(seed: int = 0, steps: int = 300, out: Path | None = None) -> Outcome:
    """Learn tolls that send a courier past a shop.

    Args:
        seed: of the first tolls, which are small.
        steps: of Adam.
        out: picture of the tolls and of the moves they bring about, such as tolls.png.
    """
    with jax.enable_x64(True):
        world = courier_world()
        at_shop = jnp.zeros((SIZE**2, 4)).at[SHOP].set(1.0)
        visits = rs.LeaderReturn(world, reward=lambda x: at_shop)
        problem = rs.BilevelProblem(
            world,
            reward=lambda x: jnp.broadcast_to(-1.0 - x[:, None] ** 2, (SIZE**2, 4)),
            upper_loss=lambda x, policy: visits(x, policy) + COST * jnp.sum(x**2),
            temperature=TEMPERATURE,
        )
        x0 = 0.1 * jnp.asarray(np.random.default_rng(seed).normal(size=SIZE**2))
        solution = rs.solve(problem, rs.ImplicitGradient(0.05, optimiser=optax.adam(1.0)), x0, steps)
        rewards = [problem.reward(x) for x in (jnp.zeros_like(x0), solution.value)]
        policies = [rs.solve_follower(world, reward, TEMPERATURE).policy for reward in rewards]
        before, after = (-float(visits(x0, policy)) for policy in policies)
        tolls = np.asarray(solution.value**2).reshape(SIZE, SIZE)
    moves = [np.asarray(policy).argmax(axis=1).reshape(SIZE, SIZE) for policy in policies]
    outcome = Outcome(tolls, (before, after), (moves[0], moves[1]))
    _print(outcome)
    if out is not None:
        _draw(outcome, out)
    return outcome


def courier_world() -> rs.MDP:
    """A map of SIZE × SIZE cells with moves up, right, down and left; the courier stops at the goal."""
    transition = np.zeros((SIZE**2, 4, SIZE**2))
    for cell in range(GOAL):
        row, column = divmod(cell, SIZE)
        for action, (down, right) in enumerate([(-1, 0), (0, 1), (1, 0), (0, -1)]):
            to = np.clip([row + down, column + right], 0, SIZE - 1)
            transition[cell, action, to[0] * SIZE + to[1]] = 1
    initial = np.zeros(SIZE**2)
    initial[START] = 1
    return rs.MDP(transition=transition, initial=initial, discount=0.95)


def _print(outcome: Outcome) -> None:
    signs = [np.array(list(ARROWS))[moves] for moves in outcome.moves]
    for sign in signs:
        sign.flat[[SHOP, GOAL]] = "S", "G"
    for title, sign, visits in zip(("before", "after"), signs, outcome.visits, strict=True):
        print(f"{title}: {visits:.2f} discounted visits to the shop")
        print("\n".join("  " + " ".join(line) for line in sign))
    print("tolls:")
    print("\n".join("  " + " ".join(f"{toll:4.2f}" for toll in line) for line in outcome.tolls))


def _draw(outcome: Outcome, out: Path) -> None:
    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(outcome.tolls, cmap="Reds")
    figure.colorbar(image, label="toll")
    for (row, column), move in np.ndenumerate(outcome.moves[1]):
        name = {SHOP: "shop", GOAL: "goal"}.get(row * SIZE + column, ARROWS[move])
        axes.text(column, row, name, ha="center", va="center")
    axes.set(xticks=[], yticks=[], title="Most probable moves")
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    tyro.cli(main)
