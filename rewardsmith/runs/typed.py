"""Values of JSON as fields of a dataclass: each held against the type of its field."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from .._core import InputError

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list",
    type(None): "null",
}
_LONGEST = 60


def fitted_fields(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` for the fields of the dataclass `kind`: lists as tuples, whole numbers as floats.

    Args:
        kind: a dataclass of numbers, texts, truth values, tuples of those, dataclasses, and None.
        values: by name; names that are no field are left out, fields may be missing.
        where: the file, for the message.

    Raises:
        InputError: a value of another type; the line names it.
    """
    hints = typing.get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):
        if field.name not in values:
            continue
        value, hint = values[field.name], hints[field.name]
        try:
            found[field.name] = fitted(hint, value)
        except (TypeError, KeyError) as error:
            raise InputError(
                f"{where}: {field.name} is {_shown(value)}: give {_named(hint)}, or restore the file"
            ) from error
    return found


def fitted(hint: Any, value: Any, null: float | None = None) -> Any:
    """`value` of JSON as `hint`; a TypeError where it is none, a KeyError where a field is missing.

    Args:
        hint: the type.
        value: as JSON gives it.
        null: what null stands for where a float is due; None: it is a mistake there.
    """
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise TypeError("no fields")
        hints = typing.get_type_hints(hint)
        absent = dataclasses.MISSING
        names = [
            field.name for field in dataclasses.fields(hint) if field.name in value or field.default is absent
        ]
        return hint(**{name: fitted(hints[name], value[name], null) for name in names})
    if isinstance(hint, types.UnionType):
        (kind,) = (part for part in typing.get_args(hint) if part is not type(None))
        return None if value is None else fitted(kind, value, null)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError("no list")
        return tuple(fitted(typing.get_args(hint)[0], inner, null) for inner in value)
    if hint is float and null is not None and value is None:
        return null
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise TypeError("another type")
    return value


def _named(hint: Any) -> str:
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return " or ".join(_NAMES.get(typing.get_origin(part) or part, "fields") for part in parts)


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
