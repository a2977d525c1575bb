"""Design a contract: what to pay for outcomes when effort is not seen.

Idea. A plant's condition is one of ten levels; an agent's effort, which costs it, makes it likelier to rise
than to fall. The principal owns the yield, sees the level before and after each step, never the effort, and
pays for what it sees. It may write any table pay(before, after) ≥ 0: a hundred numbers, twenty-eight of which
can come about. A wage, a share of the yield, a bonus for the highest level or for every rise each have one
number, which a grid finds.

Equation. The agent's answer π*(x) is soft-optimal for its pay less its cost, pay = softplus(x):

    r_x(s,a) = Σ_t P(t|s,a) pay(s, t) − cost(a)
    min over x   φ(x) = −E_π*(x) Σ_h γ^h (yield(t) − pay(s, t))

Participation. The agent may refuse at any time by making no effort, which is free and is paid too, so that a
contract is worth at least 0 to it; what it earns above that is its rent. The first best is what the principal
would have if it saw the effort, chose it, and paid its bare cost.

Claim. The learned contract earns the principal more than the best of each simple kind, at least a quarter of
the way from there to the first best, and leaves the agent better off than no effort would.

Sources: Wu et al. 2024 (arXiv 2407.01458); Ivanov et al. 2024 (arXiv 2407.18074).

    python examples/contract.py --out contract.png
"""

import sys
from collections.abc import Callable
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
from rewardsmith.mdp import expect
from rewardsmith.problems import Task, make

LEVELS, EFFORTS = 10, 5
HARDEST, TEMPERATURE = 0.2, 0.02
GRID, LARGEST = 81, 2.0
# The unregularised limit, to four digits.
COLD = 1e-3


@dataclass(frozen=True)
class Contract:
    """What a contract brings: discounted returns of both sides, pay and cost in all, and the mean effort.

    `idle` is what the agent would earn under it by making no effort; `pay` is (LEVELS, LEVELS).
    """

    principal: float
    agent: float
    idle: float
    paid: float
    effort: float
    pay: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """The best contract of each simple kind, the learned one from each start, and the first best's return."""

    simple: dict[str, Contract]
    learned: list[Contract]
    first_best: float


def main(seed: int = 0, steps: int = 400, starts: int = 3, out: Path | None = None) -> Outcome:
    """Learn a contract by hyper-gradients; compare with the best simple ones.

    Args:
        seed: of the first contracts.
        steps: of Adam.
        starts: contracts to begin from.
        out: picture of the contract and of who gets what, such as contract.png.
    """
    with jax.enable_x64(True):
        task = plant()
        method = rs.ImplicitGradient(task.step_size, optimiser=optax.adam(1.0))
        measure = _measure(task)
        simple = {name: _best(task, measure, kind) for name, kind in simple_kinds().items()}
        keys = jax.random.split(jax.random.key(seed), starts)
        learn = eqx.filter_jit(
            jax.vmap(lambda key: rs.solve(task.problem, method, task.start(key), steps).value)
        )
        learned = [measure(jax.nn.softplus(x)) for x in learn(keys)]
        outcome = Outcome(simple, learned, _first_best(task))
    _print(outcome)
    if out is not None:
        _draw(outcome, out)
    return outcome


def claims(outcome: Outcome) -> dict[str, bool]:
    """What this example says, and whether it is so."""
    best = max(contract.principal for contract in outcome.simple.values())
    wanted = best + 0.25 * (outcome.first_best - best)
    return {
        "each learned contract beats every simple one by a quarter of the way to the first best": all(
            wanted < contract.principal < outcome.first_best for contract in outcome.learned
        ),
        "effort is worth the agent's while": all(
            contract.agent > contract.idle >= 0 for contract in outcome.learned
        ),
    }


def plant() -> Task:
    """The equations above, as `docs/problems/contract.md` has them."""
    sizes = {"levels": LEVELS, "efforts": EFFORTS, "outcome_classes": LEVELS}
    return make("contract", **sizes, per_state=True, hardest=HARDEST, temperature=TEMPERATURE)


def simple_kinds() -> dict[str, np.ndarray]:
    """Pay tables (LEVELS, LEVELS) to be multiplied by one number."""
    ones, level = np.ones((LEVELS, LEVELS)), np.arange(LEVELS)
    return {
        "flat wage": ones,
        "share of the yield": ones * level / (LEVELS - 1),
        "bonus for the highest level": ones * (level == LEVELS - 1),
        "bonus for a rise": (level > level[:, None]).astype(float),
    }


def _measure(task: Task) -> Callable[[Array], Contract]:
    problem = task.problem
    own = rs.LeaderReturn(problem.world, problem.reward)

    @jax.jit
    def numbers(x: Array) -> tuple[dict[str, Array], Array, Array]:
        policy = rs.solve_follower(problem.world, problem.reward(x), problem.tau).policy
        idle = jnp.zeros_like(policy).at[:, 0].set(1.0)
        return task.outcomes(x, policy), -own(x, policy), -own(x, idle)

    def measure(pay: Array) -> Contract:
        told, agent, idle = numbers(as_x(pay))
        returns = float(told["principal's return"]), float(agent), float(idle)
        return Contract(*returns, float(told["pay"]), float(told["effort"]), np.asarray(pay))

    return measure


def as_x(pay: Array) -> Array:
    """x with softplus(x) = pay; a pay of 0 is as good as 10⁻¹²."""
    return jnp.log(jnp.expm1(jnp.maximum(pay, 1e-12)))


def _best(task: Task, measure: Callable[[Array], Contract], kind: np.ndarray) -> Contract:
    problem = task.problem

    def principal(size: Array) -> Array:
        x = as_x(size * kind)
        policy = rs.solve_follower(problem.world, problem.reward(x), problem.tau).policy
        return task.outcomes(x, policy)["principal's return"]

    sizes = jnp.linspace(0.0, LARGEST, GRID)
    return measure(sizes[jnp.argmax(jax.jit(jax.vmap(principal))(sizes))] * jnp.asarray(kind))


def _first_best(task: Task) -> float:
    """max over policies of E Σ γ^h (yield − cost), what no contract can exceed."""
    world = task.problem.world
    unpaid = jnp.full((LEVELS, LEVELS), -100.0)
    value = expect(world.transition, jnp.linspace(0.0, 1.0, LEVELS)) + task.problem.reward(unpaid)
    policy = rs.solve_follower(world, value, COLD).policy
    return -float(rs.LeaderReturn(world, lambda _: value)(None, policy))


def _print(outcome: Outcome) -> None:
    print(f"{'':28}{'principal':>10}{'agent':>8}{'idle':>8}{'paid':>8}{'effort':>8}")
    rows = {**outcome.simple, **{f"learned, start {i}": c for i, c in enumerate(outcome.learned)}}
    for name, c in rows.items():
        print(f"{name:28}{c.principal:10.3f}{c.agent:8.3f}{c.idle:8.3f}{c.paid:8.3f}{c.effort:8.2f}")
    print(f"{'first best':28}{outcome.first_best:10.3f}")


def _draw(outcome: Outcome, out: Path) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    table, bars = figure.subplots(1, 2)
    learned = outcome.learned[0]
    possible = abs(np.subtract.outer(np.arange(LEVELS), np.arange(LEVELS))) <= 1
    image = table.imshow(np.where(possible, learned.pay, np.nan), cmap="Greens", aspect="auto")
    for k, level in np.ndindex(LEVELS, LEVELS):
        if possible[level, k] and learned.pay[level, k] > 0.005:
            dark = learned.pay[level, k] > 0.6 * learned.pay[possible].max()
            colour = "white" if dark else "black"
            text = f"{learned.pay[level, k]:.2f}"
            table.text(k, level, text, ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(image, label="pay")
    table.set(xlabel="level after", ylabel="level before", title="The learned contract")
    contracts = {**outcome.simple, "learned": learned}
    places = np.arange(len(contracts))
    base = outcome.simple["flat wage"].principal
    gains = [c.principal - base for c in contracts.values()]
    rents = [c.agent for c in contracts.values()]
    bars.barh(places + 0.2, gains, 0.4, color="tab:green", label="principal's gain over paying nothing")
    bars.barh(places - 0.2, rents, 0.4, color="tab:orange", label="agent's earnings less its cost")
    bars.axvline(outcome.first_best - base, color="black", linestyle="--", label="first best")
    bars.set_yticks(places, list(contracts))
    bars.set(xlabel="discounted return", title="Who gets what")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    found = tyro.cli(main)
    if failed := [claim for claim, holds in claims(found).items() if not holds]:
        sys.exit(f"not so at these settings: {failed[0]}")
