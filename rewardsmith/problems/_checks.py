"""What the options of a benchmark problem must be."""

import math

from .._core import InputError


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise InputError unless `value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"{name} is {value!r}; give one of {', '.join(map(repr, choices))}")


def check_sizes(smallest: int = 1, **sizes: object) -> None:
    """Raise InputError unless all are whole numbers of at least `smallest`."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < smallest:
            raise InputError(f"{name} is {size!r}; give a whole number >= {smallest}")


def check_not_negative(**numbers: float) -> None:
    """Raise InputError unless all are finite and at least 0."""
    for name, number in numbers.items():
        if not 0 <= number < math.inf:
            raise InputError(f"{name} is {number}; give a number >= 0")


def check_probability(**numbers: float) -> None:
    """Raise InputError unless all lie between 0 and 1."""
    for name, number in numbers.items():
        if not 0 <= number <= 1:
            raise InputError(f"{name} is {number}; give a probability, 0 to 1")
