"""A problem on a table made ready to sample from, its exact hyper-gradient, and estimators that fit it."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, PyTree

from ..._core import InputError
from ...bilevel import hypergradient
from ...bilevel.enumeration import exact_upper_loss
from ...bilevel.sampled.adjoint import FittedAdjoint
from ...bilevel.sampled.baselines import LinearBaseline
from ...bilevel.sampled.branch import Branch
from ...bilevel.sampled.data import Follower, Needs
from ...bilevel.sampled.estimator import Estimator
from ...bilevel.sampled.features import OneHotPairs, OneHotStates
from ...bilevel.sampled.one_step import OneStep
from ...bilevel.sampled.suffix import Suffix
from ...bilevel.sampled.table import TablePolicy, exact_follower, on_clips, steps_until
from ...mdp import MDP
from ...problem import BilevelProblem, ClipLoss
from ...problems.task import Task
from ...upper_losses import ReturnLoss

# One-hot features of all steps of a batch, some copies of which are held at once: 800 MB each.
_MOST_FEATURES = 10**8
_CUT, _RIDGE = 1e-3, 1e-4
_BRANCHES = 16


@dataclass(frozen=True)
class CheckedWorld:
    """A problem to sample from at one x, and the truth there.

    Attributes:
        name: of the problem.
        problem: as `on_clips` makes it.
        x: where all is measured.
        follower: π*(x), solved exactly.
        gradient: ∇φ of the problem as it was given: nothing cut off.
        first: its first term ∂f/∂x, the policy held still.
    """

    name: str
    problem: BilevelProblem[MDP]
    x: PyTree
    follower: Follower
    gradient: Float[np.ndarray, " n"]
    first: Float[np.ndarray, " n"]
    _programs: dict[Any, Callable[..., Any]] = field(default_factory=dict, repr=False)

    def program(self, name: Any, function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
        """`function` compiled for `arguments`, once for each name."""
        if name not in self._programs:
            (self._programs[name],) = compiled((function, *arguments))
        return self._programs[name]

    @property
    def second(self) -> Float[np.ndarray, " n"]:
        """∇φ less its first term."""
        return self.gradient - self.first

    @property
    def loss(self) -> ClipLoss:
        """l."""
        assert isinstance(self.problem.upper_loss, ClipLoss)
        return self.problem.upper_loss

    @property
    def reach(self) -> int:
        """T, steps after which γ^T is 0.001."""
        return steps_until(_CUT, self.problem.world.discount)

    @property
    def pairs(self) -> OneHotPairs:
        """Features that miss nothing."""
        return OneHotPairs(self.problem.world.num_states, self.problem.world.num_actions)

    @property
    def baseline(self) -> LinearBaseline:
        """b_h(s_h), one regression for all steps where a return is what is predicted."""
        states = OneHotStates(self.problem.world.num_states)
        if isinstance(self.loss, ReturnLoss):
            return LinearBaseline(states, _RIDGE, shared=True, discount=float(self.loss.discount))
        return LinearBaseline(states, _RIDGE)


def checked_world(task: Task, x: PyTree, horizon: int | None = None) -> CheckedWorld:
    """The task at x.

    Args:
        task: with an upper loss that is an expectation over clips, or becomes one.
        x: where.
        horizon: of a clip of a return; None: until γ^H is 0.001.

    Raises:
        InputError: no sampled hyper-gradient is there to be had, or it is zero.
    """
    problem = on_clips(task.problem, horizon)
    gradient = eqx.filter_jit(lambda problem, x: hypergradient(problem, x)[1])(task.problem, x)
    follower = exact_follower(problem, jax.lax.stop_gradient(problem.reward(x)))
    # A closed world has one state more.
    assert isinstance(follower.policy, TablePolicy)
    policy = follower.policy.table[: task.problem.world.num_states]
    first = eqx.filter_grad(lambda x: exact_upper_loss(task.problem, x, policy))(x)
    flat, flat_first = (np.asarray(ravel_pytree(tree)[0]) for tree in (gradient, first))
    if not np.linalg.norm(flat) > 0:
        raise InputError(f"∇φ of {task.name} is zero at this x: give another --start")
    return CheckedWorld(task.name, problem, x, follower, flat, flat_first)


# Programs that run a few times: what shortens compiling counts, and they run about as fast.
_QUICKLY = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}


def compiled(*calls: tuple[Any, ...]) -> list[Callable[..., Any]]:
    """Each (function, arguments...) compiled side by side, and sooner than usual."""
    jitted: list[Any] = [eqx.filter_jit(function) for function, *_ in calls]
    lowered = [one.lower(*arguments) for one, (_, *arguments) in zip(jitted, calls, strict=True)]

    def build(one: Any) -> Any:
        try:
            return one.compile(_QUICKLY)
        except jax.errors.JaxRuntimeError:
            # Compilers come and go with such options.
            return one.compile()

    # XLA compiles outside Python's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(build, lowered))


def _one_step(world: CheckedWorld, count: int) -> Estimator:
    del world, count
    return OneStep()


def _suffix(world: CheckedWorld, count: int) -> Estimator:
    del count
    returns = isinstance(world.loss, ReturnLoss)
    # What is cut off at step h of a return weighs γ_L^h γ^(H−h+T): the clip's own steps count.
    further = max(0, world.reach - world.loss.horizon) if returns else world.reach
    return Suffix(further, features=world.pairs, ridge=_RIDGE, shared=returns)


def _branch(world: CheckedWorld, count: int) -> Estimator:
    del count
    return Branch(min(_BRANCHES, world.loss.horizon), world.reach)


def _adjoint(world: CheckedWorld, count: int) -> Estimator:
    steps = count * world.loss.num_clips * max(world.loss.horizon, world.reach)
    return FittedAdjoint(world.pairs, steps, _RIDGE)


BUILDERS: dict[str, Callable[[CheckedWorld, int], Estimator]] = {
    "one-step": _one_step,
    "suffix": _suffix,
    "branch": _branch,
    "adjoint": _adjoint,
}
"""Name -> the estimator for a world and a number of tuples, with features that miss nothing."""


def build_estimator(name: str, world: CheckedWorld, count: int) -> Estimator:
    """The estimator of that name.

    Raises:
        InputError: the world is too large to hold its features.
    """
    sizes = world.problem.world.num_states * world.problem.world.num_actions
    cells = count * world.loss.num_clips * world.loss.horizon * sizes
    if name != "one-step" and cells > _MOST_FEATURES:
        fewer = int(count * _MOST_FEATURES / cells)
        raise InputError(
            f"{count:,} tuples of {world.name} have too many steps to hold: give --pairs {fewer} or less, "
            "or a shorter --horizon"
        )
    return BUILDERS[name](world, count)


def environment_steps(needs: Needs, world: CheckedWorld, count: int) -> int:
    """Steps of the world that an estimate of `count` tuples takes."""
    clip = world.loss.horizon + needs.further + needs.branches * 2 * needs.branch_length
    return count * world.loss.num_clips * clip + needs.visits


def union(needs: list[Needs]) -> Needs:
    """What serves all: estimators are then compared on the same draws."""
    return Needs(
        further=max(one.further for one in needs),
        branches=max(one.branches for one in needs),
        branch_length=max(one.branch_length for one in needs),
        visits=max(one.visits for one in needs),
    )
