"""Ranges of settings to search, written as text, and how a value is drawn from one."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from ..._core import InputError
from .values import flag_of, kinds, named_values, read_value, refuse_twice

_OPTION = "--search"


@runtime_checkable
class Drawer(Protocol):
    """What is used of an Optuna trial."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> Any:
        """One of several."""
        ...


@dataclasses.dataclass(frozen=True)
class Range:
    """Where the values of one setting come from: numbers between two ends, or words to choose from.

    Attributes:
        setting: its name.
        low, high: ends, both included; None for words.
        log: even in the logarithm.
        words: as they are written on the command line.
    """

    setting: str
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    words: tuple[str, ...] = ()

    def draw(self, trial: Drawer) -> Any:
        """A value, as Optuna's sampler wants it next."""
        name = flag_of(self.setting)
        if self.low is None or self.high is None:
            return self.value(trial.suggest_categorical(name, self.words))
        if int in kinds(self.setting):
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def value(self, drawn: Any) -> Any:
        """The value of the setting for what Optuna keeps of it."""
        return read_value(self.setting, drawn, _OPTION) if self.words else drawn


def read_search(texts: Sequence[str]) -> tuple[Range, ...]:
    """The ranges of ``NAME=LOW:HIGH``, ``NAME=log:LOW:HIGH``, ``NAME=int:LOW:HIGH`` and ``NAME=V1,V2``.

    Raises:
        InputError: another form, a setting that does not exist or takes other values, or one named twice.
    """
    ranges = tuple(_read(text) for text in texts)
    refuse_twice([flag_of(one.setting) for one in ranges], _OPTION)
    return ranges


def _read(text: str) -> Range:
    setting, values = named_values(text, _OPTION)
    if ":" not in values:
        words = tuple(word.strip() for word in values.split(","))
        for word in words:
            read_value(setting, word, _OPTION)
        refuse_twice(words, f"{_OPTION} {text}")
        return Range(setting, words=words)
    *kind, low, high = values.split(":")
    form = f"{_OPTION} {text}: give NAME=LOW:HIGH, NAME=log:LOW:HIGH, NAME=int:LOW:HIGH or NAME=V1,V2"
    if kind not in ([], ["log"], ["int"]):
        raise InputError(form)
    whole = int in kinds(setting)
    if not whole and float not in kinds(setting):
        raise InputError(f"{_OPTION} {text}: {flag_of(setting)} is no number: give NAME=V1,V2")
    if kind == ["int"] and not whole:
        raise InputError(f"{_OPTION} {text}: {flag_of(setting)} is no whole number: leave int: out")
    try:
        ends = (int(low), int(high)) if whole else (float(low), float(high))
    except ValueError as error:
        raise InputError(form) from error
    log = kind == ["log"]
    if not -math.inf < ends[0] < ends[1] < math.inf or (log and ends[0] <= 0):
        raise InputError(f"{_OPTION} {text}: LOW has to be below HIGH{', and above 0 for log' * log}")
    return Range(setting, *ends, log=log)
