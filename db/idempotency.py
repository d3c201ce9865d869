"""Requests that were carried out, by the key that their retries carry again."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from db.models import IdempotencyKey
from vlyard.errors import IdempotencyMismatch


def remember(session: Session, team: UUID, key: str, request_sha256: str, made: UUID) -> UUID:
    """The id of what this request made: `made`, or what its first try made.

    A try that runs at the same time waits here until the first one commits or rolls back. Raises
    `IdempotencyMismatch` where the key was used for another request.
    """
    row = {"team_id": team, "key": key, "request_sha256": request_sha256, "made": made}
    session.execute(insert(IdempotencyKey).values(row).on_conflict_do_nothing(index_elements=["team_id", "key"]))
    query = select(IdempotencyKey.request_sha256, IdempotencyKey.made).where(
        IdempotencyKey.team_id == team, IdempotencyKey.key == key
    )
    first = session.execute(query).one()
    if first.request_sha256 != request_sha256:
        raise IdempotencyMismatch
    answer: UUID = first.made
    return answer
