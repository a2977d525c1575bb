"""The exact world: iterations of M-SoBiRL, and what a hyper-gradient costs beside one follower solve."""

import time
from collections.abc import Callable
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rewardsmith as rs
from rewardsmith.problems import Task, make, random_mdp_from

from . import random_world
from .subject import PEERS, Side, Subject

PACKAGES = ("rewardsmith", "jax", "equinox", "optax", "numpy")
_COMPARED, _SOLVED = (10, 50), (10, 100, 500)
# Steps of one `solve`: long enough for the call to cost nothing, short enough for x to be still on its way.
_RUN, _WARM_RUN = 500, 100
_TORCH = ("benchmarks.peers", "torch", "m-sobirl")
_FOUR_ROOMS = "Four-Rooms"


def subject(quick: bool) -> Subject:
    sides: list[Side] = []
    ratios: list[tuple[str, str]] = []

    def ours(label: str, what: str, world: int | str, multiple: int = 1) -> str:
        sides.append(Side(label, (__name__,), {"what": what, "world": world}, multiple))
        return label

    for states in _COMPARED:
        label = ours(f"M-SoBiRL, S={states}", "m-sobirl", states, _RUN)
        for how, told in (("loop", "a loop over states and actions"), ("backward", "one backward pass")):
            peer = Side(f"torch, {told}, S={states}", _TORCH, {"states": states, "how": how}, home=PEERS)
            sides.append(peer)
            ratios.append((label, peer.label))
    for world in (*_SOLVED, _FOUR_ROOMS):
        where = world if isinstance(world, str) else f"S={world}"
        solve = ours(f"follower solve, {where}", "solve", world)
        ratios.append((ours(f"hyper-gradient, {where}", "hypergradient", world), solve))
    warm = ours(f"hyper-gradient, warm, {_FOUR_ROOMS}", "warm", _FOUR_ROOMS, _WARM_RUN)
    ratios.append((warm, f"follower solve, {_FOUR_ROOMS}"))
    return Subject(
        name="exact-world",
        title="Exact world",
        how=(
            "float64. M-SoBiRL: the synthetic problem of its paper (x ∈ R^100, A = 5, γ = 0.5, τ = 1) with "
            f"random transitions, {random_world.SWEEPS} sweeps an iteration, `solve` for {_RUN} iterations "
            "at a time. Peers: the same iteration in torch, written from the mathematics, all else "
            "vectorised. One calls autograd for each state and action and keeps a table of n×S×A "
            "derivatives, the way of published code; the other takes one backward pass through r and keeps "
            "none. Each side is checked to give the same x and f after "
            f"{random_world.CHECKED} iterations, to 1e-8, before it is timed. Then the price of an exact "
            "hyper-gradient (φ and ∇φ, `hypergradient`) beside one follower solve (`solve_follower` under "
            "`jit`, its reward table given), both from V = 0 to 1e-12 of τ: a ratio of 1/3 says that it "
            "costs three solves. Random world as above; Four-Rooms with both contexts, 208 states, "
            "γ = 0.99, τ = 0.001. Warm: steps of `solve` with `ImplicitGradient`, whose follower starts "
            "from its last answer."
        ),
        unit="iterations/s",
        sides=tuple(sides),
        ratios=tuple(ratios),
        rounds=5,
        seconds=0.2 if quick else 0.5,
    )


def build():
    jax.config.update("jax_enable_x64", True)
    return measure


def measure(count: int, what: str, world: int | str) -> float:
    once = _program(what, world)
    calls = count // {"m-sobirl": _RUN, "warm": _WARM_RUN}.get(what, 1)
    started = time.perf_counter()
    for _ in range(calls):
        once()
    return time.perf_counter() - started


def random_task(states: int) -> Task:
    """The problem of `random_world`."""
    world = random_world.make(states)
    return random_mdp_from(
        world.transition, world.coefficients, world.matrix, random_world.DISCOUNT, random_world.TEMPERATURE
    )


def m_sobirl(states: int) -> rs.MSoBiRL:
    """The method as its peers have it."""
    return rs.MSoBiRL(
        random_world.make(states).step_size,
        adjoint_step_size=random_world.ADJOINT_STEP_SIZE,
        sweeps=random_world.SWEEPS,
    )


def check_iterates(task: Task, method: rs.MSoBiRL, states: int) -> None:
    """AssertionError unless the first iterates are those of `random_world`."""
    world = random_world.make(states)
    found = rs.solve(task.problem, method, jnp.asarray(world.start), random_world.CHECKED)
    loss = random_world.upper_loss(np.asarray(found.value), np.asarray(found.state.memory.policy))
    random_world.check_same(world, np.asarray(found.value), loss)


@cache
def _program(what: str, world: int | str) -> Callable[[], object]:
    """A call of no arguments that does the work to be timed, once."""
    if isinstance(world, str):
        task = make("four-rooms", temperature=0.001)
        x = task.start(jax.random.key(0))
    else:
        task, x = random_task(world), jnp.asarray(random_world.make(world).start)
    problem = task.problem
    if what == "solve":
        table, solve = problem.reward(x), eqx.filter_jit(rs.solve_follower)
        return lambda: jax.block_until_ready(solve(problem.world, table, problem.tau).policy)
    if what == "hypergradient":
        return lambda: jax.block_until_ready(rs.hypergradient(problem, x))
    if what == "warm":
        follow = rs.ImplicitGradient(0.1, optimiser=optax.adam(1.0))
        warm = rs.solve(problem, follow, x, 20).state
        return lambda: rs.solve(problem, follow, x, _WARM_RUN, state=warm)
    assert isinstance(world, int)
    method = m_sobirl(world)
    check_iterates(task, method, world)
    state = method.init(problem, x, jax.random.key(0))
    run = lambda: rs.solve(problem, method, x, _RUN, state=state)  # noqa: E731
    # Sweeps end early once nothing moves any more; the peers' do not.
    assert np.all(run().stats.sweeps == random_world.SWEEPS + 1)
    return run
