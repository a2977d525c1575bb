"""The one table: every method on every problem.

Each cell takes a few steps of Adam from the problem's own start. The exact φ it reaches is held against what
the exact hyper-gradient reaches in as many steps, and its first estimate against ∇φ. A new method or a
new problem is one row.
"""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rewardsmith as rs
from rewardsmith.problems import TASKS, make

ADAM = optax.adam(1.0)
STEPS = 30

# Problems, at sizes that a test can afford.
PROBLEMS = {
    "random-mdp": dict(states=6, actions=3, features=5),
    "four-rooms": dict(temperature=0.05),
    "tax": dict(points=11, hours=3, levels=2),
    "shaping": dict(),
    "stackelberg": dict(states=20, actions=3),
    "contract": dict(levels=5, efforts=3),
    "inverse-rl": dict(),
    "navigation": dict(temperature=0.1),
    "preference": dict(),
}

# Methods: how to make one; the least cosine of its first estimate to ∇φ, None where it has to warm up first;
# the share of what the exact descent gains that it must gain, None where chance decides too much.
METHODS = {
    "implicit": (lambda size: rs.ImplicitGradient(size, optimiser=ADAM), 1 - 1e-9, 0.999),
    "implicit, Neumann": (
        lambda size: rs.ImplicitGradient(size, optimiser=ADAM, sweeps=100, adjoint=rs.Neumann(100)),
        0.9,
        0.8,
    ),
    "implicit, CG": (
        lambda size: rs.ImplicitGradient(size, optimiser=ADAM, adjoint=rs.ConjugateGradient(2000)),
        0.999,
        0.99,
    ),
    "unrolled": (lambda size: rs.UnrolledGradient(size, optimiser=ADAM, sweeps=100), 0.9, 0.8),
    "m-sobirl": (
        lambda size: rs.MSoBiRL(size, optimiser=ADAM, sweeps=30, adjoint_update="sweep", adjoint_steps=30),
        None,
        0.5,
    ),
    "parl": (lambda size: rs.PARL(size, optimiser=ADAM), 0.999, 0.99),
    "pbrl, value": (lambda size: rs.PBRL(size, optimiser=ADAM, penalty=1e3, inner_steps=3), None, 0.5),
    "pbrl, bellman": (
        lambda size: rs.PBRL(size, optimiser=ADAM, penalty=1e3, kind="bellman", inner_steps=3),
        None,
        0.5,
    ),
    "hpgd": (lambda size: rs.HPGD(size, optimiser=ADAM, trajectories=200, horizon=60), None, 0.2),
    "bc-hg": (lambda size: rs.BCHG(size, optimiser=ADAM, trajectories=200, horizon=60), None, None),
    "amd": (lambda size: rs.AMD(size, optimiser=ADAM, sweeps=100), 0.9, 0.8),
    "zeroth order": (lambda size: rs.ZerothOrder(size, optimiser=ADAM, directions=4), None, None),
}


# The goal is never seen in a sample of the unshaped walker.
BLIND = {("hpgd", "shaping")}

pytestmark = pytest.mark.usefixtures("double_precision")


@functools.cache
def task_of(name):
    task = make(name, **PROBLEMS[name])
    x0 = task.start(jax.random.key(0))
    method = METHODS["implicit"][0](task.step_size)
    best = rs.solve(task.problem, method, x0, STEPS).value
    return task, x0, *(rs.hypergradient(task.problem, x) for x in (x0, best))


def flat(tree):
    return jax.flatten_util.ravel_pytree(tree)[0]


def cosine(a, b):
    a, b = flat(a), flat(b)
    return float(a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b)))


def test_every_problem_is_in_the_table():
    assert PROBLEMS.keys() == TASKS.keys()


@pytest.mark.parametrize("problem", PROBLEMS)
def test_exact_descent_gets_somewhere(problem):
    _, _, (first, _), (last, _) = task_of(problem)
    assert last < first


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("method", METHODS)
def test_cell(method, problem):
    task, x0, (first, gradient), (best, _) = task_of(problem)
    build, least_cosine, share = METHODS[method]
    solution = rs.solve(task.problem, build(task.step_size), x0, STEPS, key=jax.random.key(1))
    assert solution.result == rs.RESULTS.successful
    assert jax.tree.structure(solution.value) == jax.tree.structure(x0)
    stats = solution.stats
    assert np.all(np.isfinite(stats.loss)) and np.all(stats.oracle_calls > 0)
    assert np.all(stats.sweeps + stats.linear_iterations + stats.samples > 0)
    if least_cosine is not None:
        # One step of `solve` is the program that is compiled already.
        single = rs.solve(task.problem, build(task.step_size), x0, 1, key=jax.random.key(1))
        assert cosine(single.state.gradient, gradient) > least_cosine
    if share is not None and (method, problem) not in BLIND:
        reached, _ = rs.hypergradient(task.problem, solution.value)
        assert first - reached >= share * (first - best), f"{float((first - reached) / (first - best)):.3f}"
