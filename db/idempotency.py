"""Requests that were carried out, by the key that their retries carry again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from db.models import IdempotencyKey
from db.recordset import recordset, to_rows
from vlyard.errors import IdempotencyMismatch, InFlight


@dataclass(frozen=True)
class Try:
    """One of the tries of a request; which one of them is the first, the database says."""

    team: UUID
    key: str
    request_sha256: str
    made: UUID  # the id of what this try makes, should it be the first


def remember(session: Session, team: UUID, key: str, request_sha256: str, made: UUID) -> UUID:
    """The id of what this request made: `made`, or what its first try made.

    Raises `InFlight` where another try is being carried out at this moment, and `IdempotencyMismatch` where the key
    was used for another request.
    """
    [answer] = remember_each(session, [Try(team, key, request_sha256, made)])
    if isinstance(answer, UUID):
        return answer
    raise answer


def remember_each(session: Session, tries: Sequence[Try]) -> Sequence[UUID | InFlight | IdempotencyMismatch]:
    """What `remember` says of each try, in two statements at most. Tries of one request may be among them."""
    first = _insert(session, tries)
    before = made_before(session, [each for each in tries if each.made not in first])
    return [each.made if each.made in first else before[each] or InFlight() for each in tries]


def made_before(session: Session, tries: Sequence[Try]) -> dict[Try, UUID | IdempotencyMismatch | None]:
    """What the first tries of these requests made, without remembering these; None where there was none."""
    if not tries:
        return {}
    columns = (IdempotencyKey.team_id, IdempotencyKey.key, IdempotencyKey.request_sha256, IdempotencyKey.made)
    names = {(each.team, each.key) for each in tries}
    query = select(*columns).where(tuple_(IdempotencyKey.team_id, IdempotencyKey.key).in_(names))
    rows = {(row.team_id, row.key): row for row in session.execute(query)}
    return {each: _said(each, rows.get((each.team, each.key))) for each in tries}


def _insert(session: Session, tries: Sequence[Try]) -> set[UUID]:
    """What was made by those tries that are the first of their requests, as it seems now."""
    # The lock is tried and not waited for: each of a hundred retries would hold a connection as long as the first one
    # takes. A lock_timeout would still hold them for its time, and would end the transaction with an error. The lock
    # and the row are one statement, and the row is what counts: a lock that two keys share by chance only costs a try.
    if not tries:
        return set()
    rows = [
        {
            "id": uuid7(),
            "team_id": each.team,
            "key": each.key,
            "request_sha256": each.request_sha256,
            "made": each.made,
        }
        for each in tries
    ]
    return set(session.connection().scalars(_INSERT, {"rows": to_rows(rows)}))


def _insert_statement() -> Any:
    table = IdempotencyKey.metadata.tables[IdempotencyKey.__tablename__]
    new = recordset([table.c[name] for name in ("id", "team_id", "key", "request_sha256", "made")])
    name = func.concat(new.c.team_id, " ", new.c.key)
    rows = select(*new.c).where(func.pg_try_advisory_xact_lock(func.hashtextextended(name, 0)))
    statement = insert(table).from_select([each.name for each in new.c], rows, include_defaults=False)
    return statement.on_conflict_do_nothing(index_elements=["team_id", "key"]).returning(table.c.made)


_INSERT = _insert_statement()


def _said(each: Try, row: tuple[UUID, str, str, UUID] | None) -> UUID | IdempotencyMismatch | None:
    if row is None:
        return None
    _, _, request_sha256, made = row
    return made if request_sha256 == each.request_sha256 else IdempotencyMismatch()
