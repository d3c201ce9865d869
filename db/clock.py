"""Time as the database tells it: all arithmetic on leases and waits uses this one clock."""

from typing import Any

from sqlalchemy import ColumnElement, func, literal_column

# Years to minutes, as text: each value that travels costs both sides.
_NOTHING: tuple[ColumnElement[Any], ...] = (literal_column("0"),) * 6


def seconds(count: float | ColumnElement[float]) -> ColumnElement[Any]:
    """An interval of so many seconds."""
    return func.make_interval(*_NOTHING, count)


def from_now(count: float) -> ColumnElement[Any]:
    """The moment that is so many seconds after the transaction began; negative: before it."""
    return func.now() + seconds(count)
