"""Teams and API keys. A key is shown once, when it is made; what is stored is its digest."""

import hashlib
import hmac
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from db import accounts
from vlyard.errors import NotFound, Unauthenticated
from vlyard.teams import KEY_MARK, KEY_SHAPE, Role, prefix_of

_PREFIX_BYTES, _SECRET_BYTES = 6, 32


@dataclass(frozen=True)
class Caller:
    """Who makes a request."""

    team: UUID
    role: Role


@dataclass(frozen=True)
class NewSecret:
    """A key at its birth: what its owner gets, and what is stored."""

    key: str  # `vly_<prefix>_<secret>`
    prefix: str
    sha256: bytes


def new_secret(prefix: str = "") -> NewSecret:
    """A key that nobody has had before; with a prefix, another one of that prefix."""
    prefix = prefix or secrets.token_hex(_PREFIX_BYTES)
    key = f"{KEY_MARK}_{prefix}_{secrets.token_hex(_SECRET_BYTES)}"
    return NewSecret(key, prefix, _digest(key))


def issue_key(session: Session, team: str, role: Role) -> str:
    """Make a key for a team, which is made where it does not exist; returns the key, `vly_<prefix>_<secret>`."""
    new, owner = new_secret(), accounts.team_named(session, team)
    accounts.add_key(session, uuid7(), team=owner, prefix=new.prefix, sha256=new.sha256, role=role)
    return new.key


def authenticate(session: Session, key: str) -> Caller:
    """Who a key belongs to; raises `Unauthenticated` for one that is unknown, revoked or malformed."""
    caller = authenticate_each(session, {key}).get(key)
    if caller is None:
        raise Unauthenticated
    return caller


def authenticate_each(session: Session, keys: Collection[str]) -> Mapping[str, Caller]:
    """Who each key belongs to, in one statement; what is unknown, revoked or malformed is not in the answer."""
    prefixes = {key: shape[1] for key in keys if (shape := KEY_SHAPE.fullmatch(key))}
    found = accounts.keys_with_prefixes(session, set(prefixes.values()))
    callers = {}
    for key, prefix in prefixes.items():
        team, sha256, role = found.get(prefix, (None, b"", Role.MEMBER))
        if team is not None and hmac.compare_digest(sha256, _digest(key)):
            callers[key] = Caller(team, role)
    return callers


def revoke_key(session: Session, name: str) -> None:
    """Take back the key with this visible prefix (or the whole key); raises `NotFound`."""
    prefix = prefix_of(name)
    if not accounts.revoke(session, prefix):
        raise NotFound(f"there is no such key, or it was taken back before: {prefix!r}")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
