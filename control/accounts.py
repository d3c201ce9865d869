"""Teams and API keys. A key is shown once, when it is made; what is stored is its digest."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from db import accounts
from vlyard.errors import NotFound, Unauthenticated
from vlyard.teams import Role

_MARK = "vly"  # so that a key found in a log is recognised for what it is
_PREFIX_BYTES, _SECRET_BYTES = 6, 32
_SHAPE = re.compile(rf"{_MARK}_([0-9a-f]{{{2 * _PREFIX_BYTES}}})_[0-9a-f]{{{2 * _SECRET_BYTES}}}")


@dataclass(frozen=True)
class Caller:
    """Who makes a request."""

    team: UUID
    role: Role


def issue_key(session: Session, team: str, role: Role) -> str:
    """Make a key for a team, which is made where it does not exist; returns the key, `vly_<prefix>_<secret>`."""
    prefix = secrets.token_hex(_PREFIX_BYTES)
    key = f"{_MARK}_{prefix}_{secrets.token_hex(_SECRET_BYTES)}"
    accounts.add_key(session, accounts.team_named(session, team), prefix=prefix, sha256=_digest(key), role=role)
    return key


def authenticate(session: Session, key: str) -> Caller:
    """Who a key belongs to; raises `Unauthenticated` for one that is unknown, revoked or malformed."""
    caller = authenticate_each(session, {key}).get(key)
    if caller is None:
        raise Unauthenticated
    return caller


def authenticate_each(session: Session, keys: Collection[str]) -> Mapping[str, Caller]:
    """Who each key belongs to, in one statement; what is unknown, revoked or malformed is not in the answer."""
    prefixes = {key: shape[1] for key in keys if (shape := _SHAPE.fullmatch(key))}
    found = accounts.keys_with_prefixes(session, set(prefixes.values()))
    callers = {}
    for key, prefix in prefixes.items():
        team, sha256, role = found.get(prefix, (None, b"", Role.MEMBER))
        if team is not None and hmac.compare_digest(sha256, _digest(key)):
            callers[key] = Caller(team, role)
    return callers


def revoke_key(session: Session, name: str) -> None:
    """Take back the key with this visible prefix (or the whole key); raises `NotFound`."""
    shape = _SHAPE.fullmatch(name)
    if not accounts.revoke(session, shape[1] if shape else name):
        raise NotFound(f"there is no such key, or it was taken back before: {shape[1] if shape else name!r}")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
