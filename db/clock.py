"""Time as the database tells it: all arithmetic on leases and waits uses this one clock."""

from typing import Any

from sqlalchemy import ColumnElement, func


def seconds(count: float | ColumnElement[float]) -> ColumnElement[Any]:
    """An interval of so many seconds."""
    return func.make_interval(0, 0, 0, 0, 0, 0, count)


def from_now(count: float) -> ColumnElement[Any]:
    """The moment that is so many seconds after the transaction began; negative: before it."""
    return func.now() + seconds(count)
