"""Types of the columns, which look at what comes out: SQLite keeps any value in any column.

A database that was damaged, or that somebody else wrote into, is told from ours here, before a wrong value
gets anywhere.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Boolean, Dialect, Double, Integer, String, Text, TypeDecorator
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import TypeEngine

from .checks import shown

# What a datetime can hold, in microseconds from 1970.
_FIRST_MOMENT, _LAST_MOMENT = -62_135_596_800_000_000, 253_402_300_799_999_999


class Damaged(SQLAlchemyError):
    """A value that no store writes."""


class Kept(TypeDecorator[Any]):
    """A type of the database, and which of the values that it may give back a store can have written.

    Args:
        kind: the database's type.
        what: of which values they are, for the error.
        fits: whether a value is one of them.
        null: whether there may be none.
    """

    impl = String
    cache_ok = True

    def __init__(self, kind: TypeEngine[Any], what: str, fits: Callable[[Any], bool], null: bool = False):
        super().__init__()
        self.kind, self.what, self.fits, self.null = kind, what, fits, null
        self.impl = kind

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """See `TypeDecorator`."""
        del dialect
        if self.null if value is None else self.fits(value):
            return value
        raise Damaged(f"it holds {shown(value)} where there should be {self.what}")


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _is_moment(value: Any) -> bool:
    return type(value) is int and _FIRST_MOMENT <= value <= _LAST_MOMENT


def _is_number(value: Any) -> bool:
    return isinstance(value, float)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def number(kind: TypeEngine[Any] | None = None, *, null: bool = False) -> Kept:
    """Whole numbers, of 64 bits if `kind` is not given."""
    return Kept(kind or BigInteger(), "a whole number", _is_whole, null)


def key(*, null: bool = False) -> TypeEngine[Any]:
    """Numbers of rows: SQLite counts rows by INTEGER alone."""
    return number(null=null).with_variant(number(Integer(), null=null), "sqlite")


def moment() -> Kept:
    """Microseconds since 1970."""
    return Kept(BigInteger(), "a moment", _is_moment)


def real(*, null: bool = False) -> Kept:
    """Numbers that need not be whole."""
    return Kept(Double(), "a number", _is_number, null)


def words(longest: int | None = None, *, null: bool = False) -> Kept:
    """Text, of any length or of `longest` characters at most."""
    return Kept(Text() if longest is None else String(longest), "text", _is_text, null)


def flag() -> Kept:
    """True or false; of other numbers SQLite's driver makes either."""
    return Kept(Boolean(), "true or false", _is_flag)


def one_of(values: type[StrEnum], *, null: bool = False) -> Kept:
    """The value of a member of `values`."""
    return Kept(Text(), f"one of {', '.join(values)}", tuple(map(str, values)).__contains__, null)
