"""The one place where the store asks for the time, so that tests can move it."""

import time
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000


def as_datetime(microseconds: int) -> datetime:
    """The moment that `now` gave, exactly."""
    return _EPOCH + timedelta(microseconds=microseconds)


def as_microseconds(moment: datetime) -> int:
    """The reverse of `as_datetime`."""
    return (moment - _EPOCH) // timedelta(microseconds=1)
