"""Requests that were carried out, by the key that their retries carry again."""

from uuid import UUID

from sqlalchemy import Text, Uuid, cast, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from db.models import IdempotencyKey
from vlyard.errors import IdempotencyMismatch, InFlight


def remember(session: Session, team: UUID, key: str, request_sha256: str, made: UUID) -> UUID:
    """The id of what this request made: `made`, or what its first try made.

    Raises `InFlight` where another try is being carried out at this moment, and `IdempotencyMismatch` where the key
    was used for another request.
    """
    # The lock is tried and not waited for: each of a hundred retries would hold a connection as long as the first one
    # takes. A lock_timeout would still hold them for its time, and would end the transaction with an error. The lock
    # and the row are one statement, and the row is what counts: a lock that two keys share by chance only costs a try.
    row = select(
        literal(uuid7(), Uuid),
        literal(team, Uuid),
        literal(key, Text),
        literal(request_sha256, Text),
        literal(made, Uuid),
    ).where(func.pg_try_advisory_xact_lock(func.hashtextextended(cast(f"{team} {key}", Text), 0)))
    columns = ["id", "team_id", "key", "request_sha256", "made"]
    statement = insert(IdempotencyKey).from_select(columns, row, include_defaults=False)
    first = session.scalar(
        statement.on_conflict_do_nothing(index_elements=["team_id", "key"]).returning(IdempotencyKey.made)
    )
    return first or _made_before(session, team, key, request_sha256)


def _made_before(session: Session, team: UUID, key: str, request_sha256: str) -> UUID:
    query = select(IdempotencyKey.request_sha256, IdempotencyKey.made).where(
        IdempotencyKey.team_id == team, IdempotencyKey.key == key
    )
    found = session.execute(query).one_or_none()
    if found is None:
        raise InFlight
    if found.request_sha256 != request_sha256:
        raise IdempotencyMismatch
    made: UUID = found.made
    return made
