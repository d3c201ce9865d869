"""The connection to PostgreSQL, and the only place that commits."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from vlyard.errors import Unavailable

_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


def engine_url(url: str) -> URL:
    """The SQLAlchemy form of a libpq URL: `postgresql://…`, driven by psycopg 3."""
    return make_url(url).set(drivername="postgresql+psycopg")


@contextmanager
def translated() -> Iterator[None]:
    """Turn a lost or refused connection into `Unavailable`; other database errors are our bugs and pass."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("the database is busy: no connection became free in time") from error
    except DBAPIError as error:
        if error.connection_invalidated or not error.orig or _is_outage(error.orig):
            raise Unavailable("the database does not answer") from error
        raise


def _is_outage(error: BaseException) -> bool:
    # Class 08 is connection trouble, 57P is a server that shuts down or starts, 53300 too many connections, 55P03 a
    # lock that did not come free, 40P01 two transactions that waited for each other and 57014 a statement that did not
    # end in time. psycopg reports a refused connection as OperationalError without an SQLSTATE.
    state: str | None = getattr(error, "sqlstate", None)
    if state is None:
        return type(error).__name__ in {"OperationalError", "InterfaceError", "ConnectionTimeout"}
    return state.startswith(("08", "57P")) or state in {"53300", "55P03", "40P01", "57014"}


def to_json(value: Any) -> str:
    """The value as JSON that PostgreSQL takes."""
    # PostgreSQL's JSON holds neither NUL nor half a surrogate pair, and a model's answer may have either.
    return _NUL.sub(r"\1\\ufffd", json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode())


class Database:
    """A pool of connections to one database."""

    def __init__(self, url: str, *, connections: int = 5, role: str = "vlyard") -> None:
        options: dict[str, Any] = {
            # A plan cached while the queue was empty is a sequential scan for ever: never prepare statements.
            "prepare_threshold": None,
            "connect_timeout": 5,
            "application_name": role,
            "options": "-c statement_timeout=15000 -c lock_timeout=5000 -c timezone=UTC",
            "keepalives_idle": 10,
        }
        self.engine: Engine = create_engine(
            engine_url(url),
            connect_args=options,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=10,
            pool_pre_ping=True,
            json_serializer=to_json,
        )

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with translated(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        self.engine.dispose()
