"""The connection to PostgreSQL, and the only place that commits."""

import json
import re
import select
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from vlyard.errors import Unavailable

# PostgreSQL keeps the plans of its foreign keys' checks for as long as a connection lives. One that was made while the
# table was small reads all of it for every row that comes later, until the table is analysed: 25 jobs/s instead of 300.
# Every statement here has its index, so none has to read a whole table; and none is worth compiling.
_PLANNING = "-c enable_seqscan=off -c jit=off"
# The beginnings of the SQLSTATEs of what passes without anybody's doing, or without ours.
_PASSING = (
    "08",  # connection trouble
    "25006",  # the server has become a standby
    "25P03",  # the transaction idled for too long
    "40001",  # the transaction has to be done again
    "40P01",  # two transactions waited for each other
    "53",  # a server without room, memory or connections
    "55P03",  # a lock did not come free
    "57014",  # the statement did not end in time
    "57P",  # the server shuts down, or starts
    "58",  # the server's own machine
)
# A server that vanished without a word is noticed within half a minute, and not after a quarter of an hour.
KEEPALIVE: Mapping[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,  # milliseconds
}
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
    # psycopg reports a refused connection as OperationalError without an SQLSTATE.
    state: str | None = getattr(error, "sqlstate", None)
    if state is None:
        return type(error).__name__ in {"OperationalError", "InterfaceError", "ConnectionTimeout"}
    return state.startswith(_PASSING)


def to_json(value: Any) -> str:
    """The value as JSON that PostgreSQL takes."""
    # PostgreSQL's JSON holds neither NUL nor half a surrogate pair, and a model's answer may have either.
    text = json.dumps(value, ensure_ascii=False)
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return _NUL.sub(r"\1\\ufffd", text) if "\\u0000" in text else text


def _insist_on_life(connection: Any, record: Any, _fairy: Any) -> None:
    """Have the pool replace an idle connection that the server has ended, as after a restart."""
    if not record.info.get("idled"):  # made for who asks now: were it refused too, the pool would call that our mistake
        record.info["idled"] = True
        return
    if connection.closed:
        raise DisconnectionError
    # Asking the server (pool_pre_ping) would be one more statement in each transaction. An idle connection has nothing
    # to read, except that it is over.
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        raise DisconnectionError


class Database:
    """A pool of connections to one database."""

    def __init__(self, url: str, *, connections: int = 5, role: str = "vlyard") -> None:
        options: dict[str, Any] = {
            # A plan cached while the queue was empty is a sequential scan for ever: never prepare statements.
            "prepare_threshold": None,
            "connect_timeout": 5,
            "application_name": role,
            "options": "-c statement_timeout=15000 -c lock_timeout=5000 -c timezone=UTC " + _PLANNING,
            **KEEPALIVE,
        }
        self.engine: Engine = create_engine(
            engine_url(url),
            connect_args=options,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=10,
            json_serializer=to_json,
        )
        event.listen(self.engine, "checkout", _insist_on_life)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with translated(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        self.engine.dispose()
