"""Where a list goes on: the id of the last row of the page before."""

from typing import Annotated
from uuid import UUID

from fastapi import Query

from vlyard.errors import Complaint, InvalidInput

Cursor = Annotated[str | None, Query(description="The `next_cursor` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=200)]


def place_of(cursor: str | None) -> UUID | None:
    """The id that a cursor stands for; None at a list's beginning. Raises `InvalidInput`."""
    try:
        return UUID(cursor) if cursor else None
    except ValueError:
        complaint = Complaint("/query/cursor", f"{cursor!r} is no cursor", "pass the `next_cursor` of the page before")
        raise InvalidInput(complaints=[complaint]) from None
