"""/v1/webhooks: where a team wants to be told of the ends of its jobs."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api.cursors import Cursor, Limit, place_of
from api.desk import AtDesk, IdempotencyKey
from control import webhooks
from control.accounts import Caller
from control.delivering import ping, post
from db import webhooks as stored
from db.models import DeliveryState, Webhook, WebhookDelivery
from db.owned import owned_row
from vlyard import webhooks as view

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

_EXAMPLE = {"url": "https://example.org/vlyard", "events": ["job.succeeded", "job.failed"]}


@router.post("", status_code=201, summary="Make a webhook")
async def make_webhook(
    new: Annotated[view.NewWebhook, Body(examples=[_EXAMPLE])], desk: AtDesk, idempotency_key: IdempotencyKey = None
) -> view.Webhook:
    """Have messages sent to a URL. The answer holds the secret of their signatures, which is shown only now."""

    def make(session: Session, caller: Caller) -> view.Webhook:
        row = webhooks.make(session, caller, new, idempotency_key)
        return _webhook(row, row.secret)

    await desk.run(_nothing)  # strangers are turned away before any name is resolved for them
    await run_in_threadpool(webhooks.check, new, desk.house.settings)
    return await desk.run(make)


@router.get("", summary="List webhooks")
async def list_webhooks(desk: AtDesk) -> view.Webhooks:
    """Your team's webhooks, oldest first."""
    return await desk.run(
        lambda session, caller: view.Webhooks(data=tuple(map(_webhook, stored.webhooks(session, caller.team))))
    )


@router.get("/{webhook}", summary="Look at a webhook")
async def show_webhook(webhook: UUID, desk: AtDesk) -> view.Webhook:
    """A webhook, without its secret."""
    return await desk.run(lambda session, caller: _webhook(owned_row(session, Webhook, caller.team, webhook)))


@router.delete("/{webhook}", status_code=204, summary="Delete a webhook")
async def delete_webhook(webhook: UUID, desk: AtDesk) -> None:
    """Send nothing there any more, and forget what was sent."""
    await desk.run(lambda session, caller: stored.remove(session, caller.team, webhook))


@router.post("/{webhook}/test", summary="Send a ping to a webhook")
async def ping_webhook(webhook: UUID, desk: AtDesk, idempotency_key: IdempotencyKey = None) -> view.Ping:
    """Send a signed message of the type `ping` at once, and tell how the receiver answered.

    A retry with the same `Idempotency-Key` sends the same message, with the same id, so that it counts once.
    """
    message = await desk.run(lambda session, caller: ping(session, caller, webhook, idempotency_key))
    reply = await post(message, desk.house.settings)
    return view.Ping(id=message.id, delivered=reply.arrived, status=reply.status, error=reply.error)


@router.post("/{webhook}/enable", summary="Send to a webhook again")
async def enable_webhook(webhook: UUID, desk: AtDesk, idempotency_key: IdempotencyKey = None) -> view.Webhook:
    """Tell a disabled webhook of the jobs that end from now on; what was given up meanwhile is not sent."""
    return await desk.run(lambda session, caller: _webhook(webhooks.enable(session, caller, webhook, idempotency_key)))


@router.post("/{webhook}/rotate", summary="Give a webhook another secret")
async def rotate_webhook(webhook: UUID, desk: AtDesk, idempotency_key: IdempotencyKey = None) -> view.Webhook:
    """Sign what is sent from now on with a new secret, which is shown only now.

    What your server refuses until it knows the new secret is tried again, signed with that.
    """

    def rotate(session: Session, caller: Caller) -> view.Webhook:
        row = webhooks.rotate(session, caller, webhook, idempotency_key)
        return _webhook(row, row.secret)

    return await desk.run(rotate)


@router.get("/{webhook}/deliveries", summary="List the messages to a webhook")
async def list_deliveries(webhook: UUID, desk: AtDesk, *, cursor: Cursor = None, limit: Limit = 50) -> view.Deliveries:
    """The messages to a webhook, newest first, and how their tries went."""
    before = place_of(cursor)

    def read(session: Session, caller: Caller) -> view.Deliveries:
        owned_row(session, Webhook, caller.team, webhook)
        rows = stored.deliveries(session, caller.team, webhook, before=before, limit=limit + 1)
        more = str(rows[limit - 1].id) if len(rows) > limit else None
        return view.Deliveries(data=tuple(map(_delivery, rows[:limit])), next_cursor=more)

    return await desk.run(read)


@router.post("/deliveries/{delivery}/redeliver", summary="Send a message again")
async def redeliver(delivery: UUID, desk: AtDesk, idempotency_key: IdempotencyKey = None) -> view.Delivery:
    """Send a message again at once, whatever became of it; `delivery` is its id, the `webhook-id` of each try.

    A receiver that remembers the ids it has seen takes it once. One that had all its tries is tried this once more.
    """
    return await desk.run(
        lambda session, caller: _delivery(webhooks.redeliver(session, caller, delivery, idempotency_key))
    )


def _nothing(session: Session, caller: Caller) -> None:
    """For the sake of knowing that there is a caller."""


def _webhook(row: Webhook, secret: str | None = None) -> view.Webhook:
    return view.Webhook(
        id=row.id,
        url=row.url,
        events=tuple(map(view.EventType, row.events)),
        created_at=row.created_at,
        disabled_at=row.disabled_at,
        disabled_because=row.disabled_because,
        secret=secret,
    )


def _delivery(row: WebhookDelivery) -> view.Delivery:
    return view.Delivery(
        id=row.id,
        type=view.EventType(row.type),
        job=row.job_id,
        state=row.state.value,
        tries=row.tries,
        next_at=row.next_at if row.state is DeliveryState.PENDING else None,
        last_status=row.last_status,
        last_error=row.last_error,
        created_at=row.created_at,
    )
