"""What administrators do: teams, their keys, and pools."""

from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from control import accounts
from control.accounts import Caller, new_secret
from control.webhooks import first_made
from db import accounts as stored
from db.models import ApiKey, Pool, Team
from vlyard.errors import Conflict, Forbidden
from vlyard.pools import NewPool
from vlyard.teams import NewKey, NewTeam, Role, prefix_of


def admit(caller: Caller) -> None:
    """Raise `Forbidden` where the caller is no administrator."""
    if caller.role is not Role.ADMIN:
        raise Forbidden("only administrators may do that: use an administrator's key")


def make_team(session: Session, caller: Caller, new: NewTeam, idempotency_key: str | None) -> Team:
    """Store a team, or find the one that an earlier try of the same request stored."""
    admit(caller)
    identity = uuid7()
    made = first_made(session, caller, idempotency_key, f"team{new.model_dump_json()}", identity)
    if made != identity:
        return stored.team(session, str(made))
    team = stored.add_team(session, identity, new.name)
    if team is None:
        raise Conflict(f"there is a team {new.name!r} already")
    return team


def make_key(
    session: Session, caller: Caller, team: str, new: NewKey, idempotency_key: str | None
) -> tuple[Team, ApiKey, str]:
    """Store a new key of the team of that name or id; returns both, and the key itself.

    What is stored cannot be shown again, so a retry of the request gives that key another secret: the one in the
    answer that was lost opens nothing.
    """
    admit(caller)
    owner, identity = stored.team(session, team), uuid7()
    made = first_made(session, caller, idempotency_key, f"key {owner.id}{new.model_dump_json()}", identity)
    if made == identity:
        secret = new_secret()
        shown, digest = secret.prefix, secret.sha256
        row = stored.add_key(session, identity, team=owner.id, prefix=shown, sha256=digest, role=new.role)
        return owner, row, secret.key
    row = stored.key(session, made)
    if row.revoked_at is not None:
        raise Conflict("the key that this request made was taken back since: send a new Idempotency-Key")
    secret = new_secret(row.prefix)
    row.sha256 = secret.sha256
    session.flush()
    return owner, row, secret.key


def revoke_key(session: Session, caller: Caller, name: str, own_key: str) -> None:
    """Take the key of that prefix back. Raises `NotFound`, and `Conflict` for the one that the request carries."""
    admit(caller)
    if prefix_of(name) == prefix_of(own_key):
        raise Conflict("a key does not take itself back: use another administrator's key")
    accounts.revoke_key(session, name)


def make_pool(session: Session, caller: Caller, new: NewPool, idempotency_key: str | None) -> Pool:
    """Store a pool, or find the one that an earlier try of the same request stored."""
    admit(caller)
    mark = uuid7()  # a pool is known by its name, so this says which try was the first
    first = first_made(session, caller, idempotency_key, f"pool{new.model_dump_json()}", mark) == mark
    pool = stored.add_pool(session, new.name)
    if pool is None and first:
        raise Conflict(f"there is a pool {new.name!r} already")
    return pool or stored.pool(session, new.name)
