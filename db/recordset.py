"""Many rows as one parameter of a statement: a JSON array of objects, which PostgreSQL reads as a table.

However many rows there are, the statement is the same, so it is built once; and writing JSON takes next to no time.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from sqlalchemy import JSON, ColumnElement, TableValuedAlias, Text, bindparam, cast, column, func


def recordset(columns: Iterable[ColumnElement[Any]]) -> TableValuedAlias:
    """The rows of the statement's parameter `rows` as a table called `new`, with columns of these names and types."""
    array = cast(bindparam("rows", type_=Text), JSON)
    named = [column(each.key or "", each.type) for each in columns]
    return func.json_to_recordset(array).table_valued(*named).render_derived(name="new", with_types=True)


def to_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """What the parameter `rows` is. No text in it may hold U+0000, which PostgreSQL does not store."""
    return orjson.dumps(list(rows)).decode()
