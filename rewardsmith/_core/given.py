"""What people give where numbers are wanted, as arrays, or refused by one line that names it."""

import operator
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array

from .errors import InputError


def as_numbers(name: str, value: Any, dtype: DTypeLike | None = None) -> Array:
    """`value` as an array of real numbers; those of a trace pass as they are.

    Args:
        name: of what was given, for the error.
        value: an array, nested lists of equal lengths, or one number.
        dtype: to be turned into; None: that of `value`.

    Raises:
        InputError: text, None, objects, ragged lists, complex numbers, an integer too large.
    """
    # What is too large for a float becomes infinite, which whoever asks for the array looks for.
    with np.errstate(all="ignore"):
        given = _gathered(name, value)
        array = jnp.asarray(given)
        # JAX cuts longer integers down to other ones.
        whole = isinstance(given, np.ndarray) and given.dtype.kind in "iu"
        if whole and not np.array_equal(given.astype(array.dtype), given):
            raise InputError(f"{name} holds integers that {array.dtype} cannot hold; give floats")
        return array if dtype is None else array.astype(dtype)


def _gathered(name: str, value: Any) -> Any:
    """`value` as what JAX takes for an array of real numbers, without a detour that costs it its type."""
    try:
        if isinstance(value, jax.Array | np.ndarray):
            given = value
        elif isinstance(value, bool | int | float) or _is_traced(value):
            given = jnp.asarray(value)
        else:
            given = np.asarray(value)
        wrong = None if _is_real(given.dtype) else given.dtype
        if isinstance(given, np.ma.MaskedArray) or given.dtype == np.longdouble:
            wrong = type(given).__name__
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        if _is_traced(value):
            raise
        large = " or is too large" if isinstance(error, OverflowError) else ""
        raise InputError(
            f"{name} is {said(value)}, which is no array of numbers{large}; give lists of equal lengths"
        ) from error
    if wrong is not None:
        raise InputError(f"{name} is {said(value)} of {wrong}; give plain real numbers")
    return given


def _is_real(dtype: Any) -> bool:
    real = jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    return bool(real or dtype == jnp.bool_)


def _is_traced(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_is_traced, value))
    return isinstance(value, Tracer)


def as_floats(name: str, value: Any) -> Array:
    """The same, with integers made floats of JAX's default."""
    array = as_numbers(name, value)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def as_indices(name: str, value: Any) -> Array:
    """The same for indices, as int32.

    Raises:
        InputError: a number that is not whole, or beyond 32 bits.
    """
    given = _gathered(name, value)
    if isinstance(given, Tracer):
        return given.astype(jnp.int32)
    # Not by way of JAX, which would cut longer integers down to other ones.
    given = np.asarray(given)
    # Half floats cannot be held against the limits.
    given = given.astype(np.float64) if given.dtype.kind not in "biu" else given
    limits = np.iinfo(np.int32)
    wrong = ~((given >= limits.min) & (given <= limits.max))
    if given.dtype.kind == "f":
        wrong |= np.floor(given) != given
    if wrong.any():
        raise InputError(f"{name} holds {given[wrong].flat[0]}; give whole numbers of 32 bits")
    return jnp.asarray(given.astype(np.int32))


def as_whole(name: str, value: Any, least: int = 1, most: int = 2**31 - 1) -> int:
    """`value` as an int from `least` to `most`.

    Raises:
        InputError: no whole number, or out of range.
    """
    try:
        whole = operator.index(value)
    except TypeError:
        whole = None
    if isinstance(value, bool) or whole is None or not least <= whole <= most:
        most_said = f" to {most}" if whole is not None and whole > most else ""
        raise InputError(f"{name} is {said(value)}; give a whole number, at least {least}{most_said}")
    return whole


def as_tolerance(name: str, value: Any) -> float:
    """`value` as a float, finite and at least 0.

    Raises:
        InputError: another number, or none.
    """
    number = value.item() if isinstance(value, np.ndarray | jax.Array) and value.size == 1 else value
    real: Any = number if isinstance(number, Real) and not isinstance(number, bool) else np.nan
    if not 0 <= real < np.inf:
        raise InputError(f"{name} is {said(value)}; give a number >= 0, such as 1e-9")
    return float(real)


def said(value: Any) -> str:
    """What was given, short and on one line: a number as it is, anything else by its kind."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return f"an int of {value.bit_length()} bits"
    return str(value) if isinstance(value, int | float | np.number) else _kind(value)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
