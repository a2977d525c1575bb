"""Settings of training written as text, as ``NAME=V1,V2``: read with the types of `TrainConfig`."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any

from ..._core import InputError
from ..config import TrainConfig

_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    tuple: "whole numbers with x between them, such as 64x64",
}
_TYPES = typing.get_type_hints(TrainConfig)
# Each has an option of its own.
_ELSEWHERE = {"env": "--envs", "method": "--methods", "seed": "--seeds"}


def named_values(text: str, option: str) -> tuple[str, str]:
    """The setting and the values of ``NAME=VALUES``.

    Args:
        text: what was given.
        option: the option it was given to, for the message.

    Raises:
        InputError: no such form, or no setting of that name.
    """
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise InputError(f"{option} {text}: give NAME=VALUES, such as leader-steps=25,50")
    setting = name.strip().removeprefix("--").replace("-", "_")
    if setting in _ELSEWHERE:
        raise InputError(f"{option} {text}: give it with {_ELSEWHERE[setting]} of rewardsmith sweep")
    if setting not in _TYPES:
        flags = [flag_of(field.name) for field in dataclasses.fields(TrainConfig)]
        near = difflib.get_close_matches(flag_of(setting), flags, 3, 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "rewardsmith train --help shows them"
        raise InputError(f"{option} {text}: no setting is called {name!r}: {hint}")
    return setting, values


def read_value(setting: str, text: str, option: str) -> Any:
    """The value of `setting` that `text` says; `InputError` if it says none."""
    allowed = kinds(setting)
    word = text.strip().lower()
    if type(None) in allowed and word == "none":
        return None
    kind = allowed[0]
    try:
        if kind is bool:
            return {"true": True, "false": False}[word]
        if kind is tuple:
            return tuple(int(part) for part in word.split("x"))
        return kind(text.strip())
    except (ValueError, KeyError) as error:
        none = ", or none" if type(None) in allowed else ""
        raise InputError(
            f"{option} {flag_of(setting)}={text}: {text!r} is not {_KINDS[kind]}{none}"
        ) from error


def kinds(setting: str) -> tuple[type, ...]:
    """The types that a setting may have, None's last."""
    hint = _TYPES[setting]
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return tuple(sorted((typing.get_origin(part) or part for part in parts), key=lambda k: k is type(None)))


def read_vary(texts: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Values by setting, of several ``NAME=V1,V2``; `InputError` for a name or a value given twice."""
    grid: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        setting, values = named_values(text, "--vary")
        if setting in grid:
            raise InputError(f"--vary names {flag_of(setting)} twice: give all its values at once")
        grid[setting] = tuple(read_value(setting, value, "--vary") for value in values.split(","))
        refuse_twice(grid[setting], f"--vary {text}")
    return grid


def read_seeds(texts: Sequence[str]) -> tuple[int, ...]:
    """Seeds of words such as ``0 1 7`` or ``0:5``, which is 0 1 2 3 4."""
    seeds: list[int] = []
    for text in texts:
        first, colon, end = text.partition(":")
        try:
            seeds += range(int(first), int(end)) if colon else [int(first)]
        except ValueError as error:
            raise InputError(f"--seeds {text}: give whole numbers, or FIRST:END such as 0:5") from error
        if colon and int(end) <= int(first):
            raise InputError(f"--seeds {text} is empty: the second number is one past the last seed")
    refuse_twice(seeds, "--seeds")
    return tuple(seeds)


def refuse_twice(values: Sequence[Any], option: str) -> None:
    """`InputError` if a value is there twice."""
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise InputError(f"{option}: {in_words(value)} is there twice: give each value once")
        seen.add(value)


def in_words(value: Any) -> str:
    """A value as it is written behind ``NAME=``."""
    if isinstance(value, tuple | list):
        return "x".join(str(part) for part in value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def flag_of(setting: str) -> str:
    """The name of a setting as the command line writes it, without the dashes in front."""
    return setting.replace("_", "-")
