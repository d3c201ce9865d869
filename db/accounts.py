"""Teams, their API keys and the pools."""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from sqlalchemy import ARRAY, Text, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from db.models import ApiKey, Pool, Team
from vlyard.errors import NotFound
from vlyard.teams import Role


def team_named(session: Session, name: str) -> UUID:
    """The id of the team with this name, which is made where there is none."""
    session.execute(insert(Team).values(name=name).on_conflict_do_nothing(index_elements=[Team.name]))
    return session.scalars(select(Team.id).where(Team.name == name)).one()


def add_key(session: Session, identity: UUID, *, team: UUID, prefix: str, sha256: bytes, role: Role) -> ApiKey:
    """Store the digest of a new key."""
    key = ApiKey(id=identity, team_id=team, prefix=prefix, sha256=sha256, role=role)
    session.add(key)
    session.flush()
    session.refresh(key)
    return key


def key(session: Session, identity: UUID) -> ApiKey:
    """The key with this id, which there is."""
    return session.scalars(select(ApiKey).where(ApiKey.id == identity).with_for_update()).one()


_KEYS = select(ApiKey.prefix, ApiKey.team_id, ApiKey.sha256, ApiKey.role).where(
    ApiKey.prefix == func.any(bindparam("prefixes", type_=ARRAY(Text))), ApiKey.revoked_at.is_(None)
)


def keys_with_prefixes(session: Session, prefixes: Collection[str]) -> Mapping[str, tuple[UUID, bytes, Role]]:
    """The (team, digest, role) of each unrevoked key that has one of these visible prefixes, by the prefix."""
    if not prefixes:
        return {}
    rows = session.connection().execute(_KEYS, {"prefixes": list(prefixes)})
    return {row.prefix: (row.team_id, row.sha256, row.role) for row in rows}


def teams(session: Session) -> Sequence[Team]:
    """All teams, by name."""
    return session.scalars(select(Team).order_by(Team.name)).all()


def add_team(session: Session, identity: UUID, name: str) -> Team | None:
    """Store a new team; None where there is one of that name."""
    new = insert(Team).values(id=identity, name=name).on_conflict_do_nothing(index_elements=[Team.name])
    return session.scalars(new.returning(Team)).one_or_none()


def team(session: Session, named: str) -> Team:
    """The team with that id or else that name; raises `NotFound`."""
    by_id = select(Team).where(Team.id == _uuid(named))
    found = session.scalar(by_id) or session.scalar(select(Team).where(Team.name == named))
    if found is None:
        raise NotFound(f"there is no team {named!r}")
    return found


def keys(session: Session, team: UUID) -> Sequence[ApiKey]:
    """A team's keys, oldest first."""
    return session.scalars(select(ApiKey).where(ApiKey.team_id == team).order_by(ApiKey.id)).all()


def revoke(session: Session, prefix: str) -> bool:
    """Take the key with this prefix back; false where there is none."""
    revoked = update(ApiKey).where(ApiKey.prefix == prefix, ApiKey.revoked_at.is_(None)).values(revoked_at=func.now())
    return session.execute(revoked.returning(ApiKey.id)).one_or_none() is not None


def pools(session: Session) -> Sequence[Pool]:
    """All pools, by name."""
    return session.scalars(select(Pool).order_by(Pool.name)).all()


def add_pool(session: Session, name: str) -> Pool | None:
    """Store a new pool; None where there is one of that name."""
    return session.scalars(insert(Pool).values(name=name).on_conflict_do_nothing().returning(Pool)).one_or_none()


def pool(session: Session, name: str) -> Pool:
    """The pool with this name, which there is."""
    return session.scalars(select(Pool).where(Pool.name == name)).one()


def ensure_pool(session: Session, name: str) -> None:
    """Make the pool where there is none."""
    session.execute(insert(Pool).values(name=name).on_conflict_do_nothing())


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
