"""Teams, their API keys and the pools."""

from collections.abc import Collection, Mapping
from uuid import UUID

from sqlalchemy import ARRAY, Text, bindparam, func, select, update
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


_KEYS = select(ApiKey.prefix, ApiKey.team_id, ApiKey.sha256, ApiKey.role).where(
    ApiKey.prefix == func.any(bindparam("prefixes", type_=ARRAY(Text))), ApiKey.revoked_at.is_(None)
)


def keys_with_prefixes(session: Session, prefixes: Collection[str]) -> Mapping[str, tuple[UUID, bytes, Role]]:
    """The (team, digest, role) of each unrevoked key that has one of these visible prefixes, by the prefix."""
    if not prefixes:
        return {}
    rows = session.connection().execute(_KEYS, {"prefixes": list(prefixes)})
    return {row.prefix: (row.team_id, row.sha256, row.role) for row in rows}


def revoke(session: Session, prefix: str) -> bool:
    """Take the key with this prefix back; false where there is none."""
    revoked = update(ApiKey).where(ApiKey.prefix == prefix, ApiKey.revoked_at.is_(None)).values(revoked_at=func.now())
    return session.execute(revoked.returning(ApiKey.id)).one_or_none() is not None


def ensure_pool(session: Session, name: str) -> None:
    """Make the pool where there is none."""
    session.execute(insert(Pool).values(name=name).on_conflict_do_nothing())
