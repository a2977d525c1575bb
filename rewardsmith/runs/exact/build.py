"""From names and settings to tasks and methods."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from ... import bilevel, problems
from ..._core import InputError
from ...bilevel import Method
from ...problems.task import Task
from .config import EXACT_METHODS, SolveConfig

# Name on the command line -> class of `bilevel`, what it is always given, and which settings it takes.
_NOUNS: dict[str, tuple[Callable[..., Method], dict[str, Any], tuple[str, ...]]] = {
    "implicit-gradient": (bilevel.ImplicitGradient, {}, ("sweeps", "adjoint", "adjoint_steps")),
    "unrolled-gradient": (bilevel.UnrolledGradient, {}, ("sweeps",)),
    "m-sobirl": (
        bilevel.MSoBiRL,
        {},
        ("sweeps", "adjoint_update", "adjoint_steps", "adjoint_step_size"),
    ),
    "parl": (bilevel.PARL, {}, ("damping",)),
    "pbrl-value": (bilevel.PBRL, {"kind": "value"}, ("penalty", "sweeps")),
    "pbrl-bellman": (bilevel.PBRL, {"kind": "bellman"}, ("penalty", "sweeps")),
    "hpgd": (bilevel.HPGD, {}, ("trajectories", "horizon")),
    "bc-hg": (bilevel.BCHG, {}, ("trajectories", "horizon")),
    "amd": (bilevel.AMD, {}, ("sweeps",)),
    "zeroth-order": (bilevel.ZerothOrder, {}, ("perturbation", "directions")),
}
_OPTIMISERS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "adam": optax.adam,
    "sgd": optax.sgd,
}
_ANNEALED_SHARE = 0.6


class Annealing(eqx.Module):
    """τ that falls geometrically from `start` to `end` in `steps` steps, then stays; a schedule of `solve`.

    `begun` steps were taken before the schedule's step 0: an array, so that going on compiles nothing anew.
    """

    start: Array
    end: Array
    steps: Array
    begun: Array

    def __call__(self, step: Int[Array, ""]) -> Array:
        """τ of one step."""
        share = jnp.minimum((self.begun + step) / self.steps, 1.0)
        return self.start * (self.end / self.start) ** share


def problem_names() -> dict[str, str]:
    """Name of each problem, and what it is about."""
    return {name: _first_line(maker) for name, maker in problems.TASKS.items()}


def build_task(config: SolveConfig) -> Task:
    """The task with the options and the temperature asked for.

    Raises:
        InputError: no such problem, no such option, or a value that it refuses.
    """
    tasks: Mapping[str, Callable[..., Task]] = problems.TASKS
    if config.problem not in tasks:
        given = f"unknown problem {config.problem!r}" if config.problem else "no problem given"
        raise InputError(f"{given}: choose one of {', '.join(tasks)}")
    known, options = _options_of(tasks[config.problem]), config.options
    if unknown := [name for name in options if name not in known]:
        choices = ", ".join(known) or "none"
        raise InputError(f"{config.problem} has no option {unknown[0]!r}: its options are {choices}")
    # Where a problem depends on τ in more places than the follower it takes it as an option.
    if config.temperature is not None and "temperature" in known:
        options.setdefault("temperature", config.temperature)
    try:
        task = problems.make(config.problem, **options)
    except TypeError as error:
        raise InputError(f"an option of {config.problem} has the wrong type: {error}") from error
    if config.temperature is None or "temperature" in options:
        return task
    tau = jnp.asarray(config.temperature, jnp.asarray(task.problem.temperature).dtype)
    return dataclasses.replace(task, problem=eqx.tree_at(lambda p: p.temperature, task.problem, tau))


def check_methods(names: Sequence[str], config: SolveConfig) -> None:
    """Raise InputError unless all `names` are methods, and each setting of methods is one of theirs."""
    there = EXACT_METHODS
    for name in names:
        if name not in there:
            raise InputError(f"unknown method {name!r}: choose one of {', '.join(there)}")
    if len(set(names)) < len(names):
        raise InputError("a method is named twice: name each once")
    for knob in config.knobs:
        if not any(knob in _NOUNS[name][2] for name in names):
            users = ", ".join(name for name in there if knob in _NOUNS[name][2])
            raise InputError(
                f"--{knob.replace('_', '-')} means nothing to {', '.join(names)}: "
                f"leave it out (it is for {users or 'no method here'})"
            )


def build_method(name: str, config: SolveConfig, step_size: float) -> Method:
    """The method with the settings that are its own; `InputError` for a value that it refuses."""
    method, fixed, knobs = _NOUNS[name]
    given = {knob: value for knob, value in config.knobs.items() if knob in knobs}
    if "adjoint" in knobs:
        steps = given.pop("adjoint_steps", None)
        if "adjoint" in given:
            given["adjoint"] = _adjoint(given["adjoint"], steps)
    elif "adjoint_update" not in given:
        # Those of another method in the same comparison.
        given.pop("adjoint_steps", None)
    optimiser = _OPTIMISERS[config.optimiser](1.0)
    return method(step_size=step_size, optimiser=optimiser, **fixed, **given)


def annealing(config: SolveConfig, task: Task, steps: int, begun: int) -> Annealing | None:
    """The schedule of τ for what is left behind `begun` steps; None where τ stays."""
    if config.anneal_from is None:
        return None
    end = jnp.asarray(task.problem.temperature, float)
    length = jnp.asarray(max(1.0, _ANNEALED_SHARE * steps))
    return Annealing(jnp.asarray(config.anneal_from), end, length, jnp.asarray(begun))


def _adjoint(name: str, steps: int | None) -> bilevel.Adjoint:
    if name == "exact":
        return bilevel.Exact()
    if name == "neumann":
        return bilevel.Neumann(steps or 50)
    return bilevel.ConjugateGradient() if steps is None else bilevel.ConjugateGradient(max_steps=steps)


def _options_of(maker: Callable[..., Task]) -> list[str]:
    return list(inspect.signature(maker).parameters)


def _first_line(maker: Any) -> str:
    told = inspect.getdoc(inspect.getmodule(maker)) or ""
    return told.split("\n")[0].rstrip(".")
