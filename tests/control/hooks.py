"""Webhooks and the messages to them, put into a database as a test needs them."""

from uuid import UUID

from sqlalchemy import update

from control import webhooks
from db.clock import from_now
from db.models import Webhook, WebhookDelivery
from db.owned import owned
from tests.system import System
from vlyard.webhooks import EventType, NewWebhook

EVERY = tuple(EventType)


def hook(vlyard: System, url: str, events: tuple[EventType, ...] = EVERY, team: str = "vision") -> Webhook:
    with vlyard.database.transaction() as session:
        return webhooks.make(session, vlyard.caller(team), NewWebhook(url=url, events=events), None)


def cancelled_job(vlyard: System, team: str = "vision") -> UUID:
    """A job that has ended."""
    caller = vlyard.caller(team)
    job = vlyard.submit(caller)
    vlyard.cancel(caller, job)
    return job


def messages(vlyard: System) -> list[WebhookDelivery]:
    with vlyard.database.transaction() as session:
        team = vlyard.caller().team
        return list(session.scalars(owned(WebhookDelivery, team).order_by(WebhookDelivery.created_at)))


def make_due(vlyard: System) -> None:
    """Let the time pass that a message waits for its next try, or for the end of its lease."""
    with vlyard.database.transaction() as session:
        session.execute(update(WebhookDelivery).values(next_at=from_now(-1)))
