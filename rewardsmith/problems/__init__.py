"""Benchmark problems, by name: `make("four-rooms", penalty=3.0)`."""

import inspect
from collections.abc import Callable
from typing import Any

from .._core import InputError
from . import (
    contract,
    four_rooms,
    inverse_rl,
    navigation,
    preference,
    random_mdp,
    shaping,
    stackelberg,
    tax,
)
from .preference import preference_from as preference_from
from .random_mdp import random_mdp_from as random_mdp_from
from .task import Grid as Grid
from .task import Task as Task

TASKS: dict[str, Callable[..., Task]] = {
    "random-mdp": random_mdp.build,
    "four-rooms": four_rooms.build,
    "tax": tax.build,
    "shaping": shaping.build,
    "stackelberg": stackelberg.build,
    "contract": contract.build,
    "inverse-rl": inverse_rl.build,
    "navigation": navigation.build,
    "preference": preference.build,
}
"""The builders by name; the keyword arguments of each are the options of `make`."""


def make(name: str, **options: Any) -> Task:
    """The problem of that name.

    Args:
        name: one of `TASKS`.
        options: those of its builder, told in `TASKS[name].__doc__` and on its page.

    Raises:
        InputError: an unknown name or option, or an option's value that does not fit.

    Examples:
        >>> from rewardsmith.problems import make
        >>> make("contract", levels=5).problem.world.num_actions
        5
    """
    if name not in TASKS:
        raise InputError(f"problem {name!r} is unknown; give one of {', '.join(TASKS)}")
    known = inspect.signature(TASKS[name]).parameters
    wrong = [option for option in options if option not in known]
    if wrong:
        raise InputError(f"{name} has no option {wrong[0]!r}; it has {', '.join(known)}")
    return TASKS[name](**options)
