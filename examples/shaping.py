"""Shape a reward with a hint that may mislead.

Idea. A walker is to find a goal at the far end of two rooms. Its planning is limited: at its temperature the
bonus on entropy outweighs a goal so far away, and it wanders. A designer gives a hint F(s,a), a reward for
moves that seem good. What can be done with it?

    naively            r = r_p + F, with r_p = 1 at the goal: as good as the hint is
    by potential       r = r_p + γ E Φ(t) − Φ(s), Φ the values of the hint's own follower: changes no answer
    by bilevel         r_x below, so that what the walker answers does well by r_p

Equation. In each room there are three weights, and the walker's discount γ_x is learned too (BARFI's form):

    r_x(s,a) = x¹(room) + x²(room) r_p(s) + x³(room) F(s,a)
    min over x   φ(x) = −log J(x),   J(x) = E_π*(x) Σ_t γ^t r_p

The logarithm, as J is 10⁻¹⁴ where a hint misleads. x begins at the naive reward. Two ways to ∇φ:

    exact     the walker is solved to rounding, the adjoint system too
    BARFI     the walker is a softmax table θ that takes SWEEPS steps of ascent on its own return and entropy
              between two steps of x; the inverse of its Hessian is a Neumann series of TERMS terms

Claim. By potential the walker does as with no hint at all. Naively a good hint helps and a misleading one
makes it fail. The bilevel rewards come within a tenth of one another under no hint, a helpful one, a
misleading one, and one that is either by room. And they use a good hint: half the return comes in fewer steps
with it than with none. Noise, at full trust, is left out of the claim: a descent may stay where it leads.

Sources: Gupta et al., NeurIPS 2023 (arXiv 2310.19007), BARFI; Ng, Harada and Russell, ICML 1999, potentials;
Hu et al., NeurIPS 2020 (arXiv 2011.02669), weights of a hint. Departures: expectations are exact, in place of
samples; weights by room, in place of a network; no penalty on γ_x; one walker for all, soft-optimal.

    python examples/shaping.py --out shaping.png
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
from jaxtyping import PyTree
from matplotlib.figure import Figure

import rewardsmith as rs
from rewardsmith.mdp import policy_transition
from rewardsmith.problems import make
from rewardsmith.problems.shaping import second_room
from rewardsmith.rewards import shaped

HINTS = ("none", "helpful", "misleading", "mixed", "useless")
LARGEST_DISCOUNT = 0.99
# Of BARFI: steps of θ between two of x, their length, decay of θ, and terms of the Neumann series.
SWEEPS, LENGTH, DECAY, TERMS = 15, 5.0, 1e-4, 5


@dataclass(frozen=True)
class Hint:
    """World, r_p and F, (S, A) each, and the room of each state."""

    world: rs.MDP
    primary: Array
    hint: Array
    temperature: float
    room: np.ndarray


@dataclass(frozen=True)
class Learned:
    """What a bilevel method came to: x, the walker's return J, and J on the way, (steps,)."""

    x: dict[str, np.ndarray]
    value: float
    curve: np.ndarray

    @property
    def steps_to_half(self) -> int:
        """Steps of x until the return is half the last."""
        return int(np.argmax(self.curve > self.curve[-1] / 2))


@dataclass(frozen=True)
class Case:
    """Return J under one hint, used in each way; `primary` is without it."""

    primary: float
    naive: float
    potential: float
    exact: Learned
    barfi: Learned


def main(seed: int = 0, steps: int = 300, draws: int = 3, out: Path | None = None) -> dict[str, Case]:
    """Learn what to make of a hint.

    Args:
        seed: of the useless hints.
        steps: of Adam.
        draws: of useless hints, which are noise.
        out: picture of the returns and of the weights, such as shaping.png.
    """
    cases = {}
    with jax.enable_x64(True):
        for kind in HINTS:
            for draw in range(draws if kind == "useless" else 1):
                name = f"{kind} {draw}" if kind == "useless" else kind
                cases[name] = _compare(hinted(kind, seed + draw), steps)
    _print(cases)
    if out is not None:
        _draw(cases, out)
    return cases


def claims(cases: dict[str, Case]) -> dict[str, bool]:
    """What this example says, and whether it is so."""
    values = [case for name, case in cases.items() if "useless" not in name]
    best = max(case.exact.value for case in values)
    good, none = cases["helpful"], cases["none"]
    return {
        "by potential a hint changes nothing": all(
            abs(case.potential - case.primary) < 1e-9 for case in values
        ),
        "a misleading hint, followed, makes the walker fail": cases["misleading"].naive < 1e-6 * best,
        "a good hint, followed, helps": good.naive > 100 * good.primary,
        "the bilevel rewards come to nearly the same return under every hint": all(
            min(case.exact.value, case.barfi.value) > 0.9 * best for case in values
        ),
        "a good hint is used: half the return comes in fewer steps than without": all(
            with_hint.steps_to_half < without.steps_to_half
            for with_hint, without in ((good.exact, none.exact), (good.barfi, none.barfi))
        ),
    }


def hinted(kind: str, seed: int = 0) -> Hint:
    """The rooms of `docs/problems/shaping.md` with a hint of that kind."""
    known = "helpful" if kind == "none" else kind
    problem = make("shaping", kind=known, weight="constant", seed=seed).problem
    primary = problem.reward(jnp.zeros(1))
    hint = problem.reward(jnp.ones(1)) - primary
    hint = jnp.zeros_like(hint) if kind == "none" else hint
    return Hint(problem.world, primary, hint, float(problem.tau), second_room().astype(int))


def first_guess(case: Hint) -> dict[str, Array]:
    """x of the naive reward r_p + F and the true discount."""
    odds = float(case.world.discount) / (LARGEST_DISCOUNT - float(case.world.discount))
    weights = {"own": jnp.zeros(2), "primary": jnp.ones(2), "hint": jnp.ones(2)}
    return {**weights, "discount": jnp.log(jnp.asarray(odds))}


def discount(x: PyTree) -> Array:
    """γ_x."""
    return LARGEST_DISCOUNT * jax.nn.sigmoid(x["discount"])


def exact_problem(case: Hint) -> rs.BilevelProblem[rs.MDP]:
    """The equations above. The walker's γ_x is in its transition: γ_x P = γ (γ_x/γ P)."""
    world = case.world
    found = rs.LeaderReturn(world, lambda x: case.primary)

    def reward(x: PyTree) -> Array:
        own, primary, hint = (x[name][case.room][:, None] for name in ("own", "primary", "hint"))
        return own + primary * case.primary + hint * case.hint

    return rs.BilevelProblem(
        world,
        reward,
        upper_loss=lambda x, policy: -jnp.log(-found(x, policy)),
        temperature=case.temperature,
        transition=lambda x: world.transition * (discount(x) / world.discount),  # pyright: ignore
    )


def barfi_problem(case: Hint) -> rs.FixedPointProblem:
    """The same with θ (S, A) below: Φ(x, θ) = θ + LENGTH · gradient of the walker's own return."""
    problem = exact_problem(case)

    def own_return(x: PyTree, theta: Array) -> Array:
        policy, world = jax.nn.softmax(theta), problem.world_at(x)
        earned = jnp.sum(policy * (problem.reward(x) - case.temperature * jnp.log(policy)), axis=1)
        system = jnp.eye(world.num_states) - world.discount * policy_transition(world, policy)
        return world.initial @ jnp.linalg.solve(system, earned) - DECAY / 2 * jnp.sum(theta**2)

    return rs.FixedPointProblem(
        lambda x, theta: theta + LENGTH * jax.grad(own_return, 1)(x, theta),
        lambda x, theta: problem.upper_loss(x, jax.nn.softmax(theta)),  # pyright: ignore
        initial=jnp.zeros(case.primary.shape),
    )


def _compare(case: Hint, steps: int) -> Case:
    problem, x0 = exact_problem(case), first_guess(case)
    world, gamma, tau = case.world, float(case.world.discount), case.temperature
    found = rs.LeaderReturn(world, lambda x: case.primary)

    def earned(reward: Array) -> float:
        return -float(found(None, rs.solve_follower(world, reward, tau).policy))

    potential = rs.solve_follower(world, case.hint, tau).values
    adam = optax.adam(1.0)
    exact = rs.solve(problem, rs.ImplicitGradient(0.05, optimiser=adam), x0, steps)
    neumann = rs.ImplicitGradient(0.05, optimiser=adam, adjoint=rs.Neumann(TERMS), sweeps=SWEEPS)
    barfi = rs.solve(barfi_problem(case), neumann, x0, steps)
    return Case(
        primary=earned(case.primary),
        naive=earned(case.primary + case.hint),
        potential=earned(shaped(case.primary, world.transition, gamma, potential)),  # pyright: ignore
        exact=_learned(problem, exact),
        barfi=_learned(problem, barfi),
    )


def _learned(problem: rs.BilevelProblem[rs.MDP], solution: Any) -> Learned:
    x = solution.value
    policy = rs.solve_follower(problem.world_at(x), problem.reward(x), problem.tau).policy
    value = float(jnp.exp(-problem.upper_loss(x, policy)))  # pyright: ignore
    weights = {**x, "discount": discount(x)}
    return Learned(
        {name: np.asarray(weight) for name, weight in weights.items()},
        value,
        np.exp(-np.asarray(solution.stats.loss)),
    )


def _print(cases: dict[str, Case]) -> None:
    print(f"{'':14}{'return J':>8}{'bilevel':>32}{'steps to half of it':>26}")
    print(f"{'hint':14}{'naive':>8}{'potential':>12}{'exact':>12}{'BARFI':>10}{'exact':>14}{'BARFI':>10}")
    for name, case in cases.items():
        exact, barfi = case.exact, case.barfi
        numbers = f"{case.naive:8.2g}{case.potential:12.2g}{exact.value:12.4f}{barfi.value:10.4f}"
        print(f"{name:14}{numbers}{exact.steps_to_half:14}{barfi.steps_to_half:10}")
    for name, case in cases.items():
        weights = np.round(case.exact.x["hint"], 2)
        print(f"{name}: exact, weights of the hint {weights}, γ {float(case.exact.x['discount']):.3f}")


def _draw(cases: dict[str, Case], out: Path) -> None:
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    bars, curves = figure.subplots(1, 2)
    ways = {
        "naive": [case.naive for case in cases.values()],
        "by potential": [case.potential for case in cases.values()],
        "bilevel, BARFI": [case.barfi.value for case in cases.values()],
        "bilevel, exact": [case.exact.value for case in cases.values()],
    }
    places = np.arange(len(cases))
    for i, (way, values) in enumerate(ways.items()):
        colour = ("tab:red", "tab:grey", "tab:orange", "tab:blue")[i]
        bars.bar(places + 0.2 * (i - 1.5), values, 0.2, label=way, color=colour)
    bars.set_xticks(places, list(cases), rotation=30, ha="right")
    bars.set(ylabel="return of the goal alone", title="What the walker finds")
    bars.set_ylim(0, 0.68)
    bars.legend(fontsize=8, ncols=4, loc="upper center", handlelength=1, columnspacing=1)
    for name, colour in {"none": "tab:grey", "helpful": "tab:green", "misleading": "tab:red"}.items():
        curves.plot(cases[name].exact.curve, color=colour, label=f"{name}, exact")
        curves.plot(cases[name].barfi.curve, color=colour, linestyle=":", label=f"{name}, BARFI")
    curves.set(xlabel="step", ylabel="return of the goal alone", title="On the way")
    curves.legend(fontsize=8)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    found = tyro.cli(main)
    if failed := [claim for claim, holds in claims(found).items() if not holds]:
        sys.exit(f"not so at these settings: {failed[0]}")
