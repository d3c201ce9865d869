"""Many rows as parameters of one statement: a column is an array, and the arrays are unnested side by side."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, TableValuedAlias, cast, func
from sqlalchemy.types import TypeEngine

Column = tuple[type[TypeEngine[Any]], Sequence[Any]]


def as_table(name: str, /, **columns: Column) -> TableValuedAlias:
    """A table of that name with these columns, each a type and its values, all of one length."""
    arrays = [cast(list(values), ARRAY(kind)) for kind, values in columns.values()]
    return func.unnest(*arrays).table_valued(*columns).render_derived(name=name)
