"""Teams and API keys. A key is shown once, when it is made; what is stored is its digest."""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from db import accounts
from vlyard.errors import Unauthenticated
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
    shape = _SHAPE.fullmatch(key)
    found = accounts.key_with_prefix(session, shape[1]) if shape else None
    if found is None or not hmac.compare_digest(found[1], _digest(key)):
        raise Unauthenticated
    return Caller(team=found[0], role=found[2])


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
