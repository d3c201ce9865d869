"""Teams, their API keys and the pools."""

from uuid import UUID

from sqlalchemy import exists, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from db.models import ApiKey, Pool, Team
from vlyard.teams import Role


def team_named(session: Session, name: str) -> UUID:
    """The id of the team with this name, which is made where there is none."""
    session.execute(insert(Team).values(name=name).on_conflict_do_nothing(index_elements=[Team.name]))
    return session.scalars(select(Team.id).where(Team.name == name)).one()


def add_key(session: Session, team: UUID, *, prefix: str, sha256: bytes, role: Role) -> None:
    """Store the digest of a new key."""
    session.add(ApiKey(team_id=team, prefix=prefix, sha256=sha256, role=role))
    session.flush()


def key_with_prefix(session: Session, prefix: str) -> tuple[UUID, bytes, Role] | None:
    """The (team, digest, role) of the unrevoked key with this visible prefix."""
    query = select(ApiKey.team_id, ApiKey.sha256, ApiKey.role).where(
        ApiKey.prefix == prefix, ApiKey.revoked_at.is_(None)
    )
    row = session.execute(query).one_or_none()
    return None if row is None else (row.team_id, row.sha256, row.role)


def ensure_pool(session: Session, name: str) -> None:
    """Make the pool where there is none."""
    session.execute(insert(Pool).values(name=name).on_conflict_do_nothing())


def pool_exists(session: Session, name: str) -> bool:
    return bool(session.scalar(select(exists().where(Pool.name == name))))
