"""Making webhooks: where a team wants to be told of the ends of its jobs, and the secret that it checks them with."""

import base64
import hashlib
import secrets
from uuid import UUID

from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from control.accounts import Caller
from control.addresses import addresses_of, checked_url, listed
from control.settings import Settings
from db import idempotency, webhooks
from db.models import Webhook, WebhookDelivery
from db.owned import owned_row
from vlyard.errors import Conflict
from vlyard.webhooks import NewWebhook

_SECRET_MARK, _SECRET_BYTES = "whsec_", 32
_MOST = 20  # for one team: every end of a job stores a message for each


def check(new: NewWebhook, settings: Settings) -> None:
    """Refuse a URL that must not be spoken to; raises `InvalidInput`. Blocks while the name is resolved."""
    allowed = listed(settings.webhook_hosts)
    addresses_of(checked_url(new.url, allowed), allowed)


def make(session: Session, caller: Caller, new: NewWebhook, idempotency_key: str | None) -> Webhook:
    """Store a webhook with a new secret, or find the one that an earlier try of the same request stored."""
    identity = uuid7()
    made = first_made(session, caller, idempotency_key, f"webhook{new.model_dump_json()}", identity)
    if made != identity:
        return owned_row(session, Webhook, caller.team, made)
    if len(webhooks.webhooks(session, caller.team)) >= _MOST:
        raise Conflict(f"the team has {_MOST} webhooks already: delete one first")
    row = Webhook(id=identity, team_id=caller.team, url=new.url, secret=new_secret(), events=list(new.events))
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def enable(session: Session, caller: Caller, webhook: UUID, idempotency_key: str | None) -> Webhook:
    """Send to a webhook again; a request that was carried out already changes nothing more. Raises `NotFound`."""
    mark = uuid7()  # such a request makes nothing, so this says which try was the first
    if first_made(session, caller, idempotency_key, f"enable {webhook}", mark) != mark:
        return owned_row(session, Webhook, caller.team, webhook)
    return webhooks.enable(session, caller.team, webhook)


def rotate(session: Session, caller: Caller, webhook: UUID, idempotency_key: str | None) -> Webhook:
    """Give a webhook another secret, or find the one that an earlier try of the same request gave it.

    What is sent from now on is signed with it, also what was tried before. Raises `NotFound`.
    """
    mark = uuid7()
    row = owned_row(session, Webhook, caller.team, webhook, lock=True)
    if first_made(session, caller, idempotency_key, f"rotate {webhook}", mark) == mark:
        row.secret = new_secret()
        session.flush()
    return row


def redeliver(session: Session, caller: Caller, delivery: UUID, idempotency_key: str | None) -> WebhookDelivery:
    """Send a message again at once, with the id that it had; a request that was carried out already sends nothing more.

    Raises `NotFound`, and `Conflict` where its webhook is disabled.
    """
    mark = uuid7()
    if first_made(session, caller, idempotency_key, f"redeliver {delivery}", mark) != mark:
        return owned_row(session, WebhookDelivery, caller.team, delivery)
    return webhooks.redeliver(session, caller.team, delivery)


def first_made(session: Session, caller: Caller, idempotency_key: str | None, request: str, made: UUID) -> UUID:
    """What the first try of a request made: `made` where this one is it, or where tries are not told apart."""
    if idempotency_key is None:
        return made
    digest = hashlib.sha256(request.encode()).hexdigest()
    return idempotency.remember(session, caller.team, idempotency_key, digest, made)


def new_secret() -> str:
    """A secret as Standard Webhooks writes it: `whsec_` and 32 random bytes in base64."""
    return _SECRET_MARK + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def key_of(secret: str) -> bytes:
    """The key of the signatures, out of the secret's text."""
    return base64.b64decode(secret.removeprefix(_SECRET_MARK))
