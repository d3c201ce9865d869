"""Webhooks and the messages to them: made in the transaction that ends a job, leased to be sent, settled."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Insert,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import Session

from db.clock import from_now
from db.models import DeliveryState, Job, Webhook, WebhookDelivery
from db.owned import owned, owned_row
from vlyard.errors import Conflict


@dataclass(frozen=True)
class Due:
    """A message that this process may send until its lease ends. `tries` counts this one."""

    id: UUID
    tries: int
    payload: Mapping[str, Any]
    webhook: UUID
    url: str
    secret: str = field(repr=False)


def enqueue(session: Session, jobs: Iterable[UUID]) -> None:
    """Store one message for each of these ended jobs and each webhook that wants to know of it.

    One statement, in the transaction that ended the jobs. It locks the keys of the webhooks that it names, so that one
    that is being deleted is passed over, and never fails the end of a job.
    """
    session.connection().execute(_ENQUEUE, {"ended": list(jobs)})


def lease_due(
    session: Session, lease_seconds: float, *, each: int, limit: int, but: Collection[UUID] = ()
) -> Sequence[Due]:
    """Messages that are due, at most `each` for one webhook, so that a slow receiver delays no other team's.

    None to the webhooks in `but`.

    Nobody else is given them before the lease ends: their time has moved so far, and no lock outlives the transaction.
    """
    due = (WebhookDelivery.state == DeliveryState.PENDING, WebhookDelivery.next_at <= func.now())
    place = func.row_number().over(partition_by=WebhookDelivery.webhook_id, order_by=WebhookDelivery.next_at)
    ranked = (
        select(WebhookDelivery.id, place.label("place"))
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        .where(*due, Webhook.disabled_at.is_(None), Webhook.id.not_in(list(but)))
        .subquery()
    )
    first = select(ranked.c.id).where(ranked.c.place <= each).order_by(ranked.c.place).limit(limit)
    locked = select(WebhookDelivery.id).where(WebhookDelivery.id.in_(first), *due).with_for_update(skip_locked=True)
    statement = (
        update(WebhookDelivery)
        .where(WebhookDelivery.id.in_(locked), Webhook.id == WebhookDelivery.webhook_id)
        .values(tries=WebhookDelivery.tries + 1, next_at=from_now(lease_seconds))
        .returning(
            WebhookDelivery.id, WebhookDelivery.tries, WebhookDelivery.payload, Webhook.id, Webhook.url, Webhook.secret
        )
    )
    return [Due(*row) for row in session.execute(statement)]


def settle(
    session: Session,
    message: Due,
    *,
    state: DeliveryState,
    status: int | None,
    error: str | None,
    again_in: float | None = None,
) -> None:
    """Record how a try went, and when the next one is; nothing where the message has been leased anew meanwhile."""
    values: dict[str, Any] = {"state": state, "last_status": status, "last_error": error}
    if again_in is not None:
        values["next_at"] = from_now(again_in)
    session.execute(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.id == message.id,
            WebhookDelivery.tries == message.tries,
            WebhookDelivery.state == DeliveryState.PENDING,
        )
        .values(values)
    )


def give_back(session: Session, messages: Iterable[Due]) -> None:
    """Have messages be due again, as if they had not been leased, where nobody has leased them anew."""
    pairs = [(message.id, message.tries) for message in messages]
    statement = (
        update(WebhookDelivery)
        .where(tuple_(WebhookDelivery.id, WebhookDelivery.tries).in_(pairs))
        .where(WebhookDelivery.state == DeliveryState.PENDING)
        .values(tries=WebhookDelivery.tries - 1, next_at=func.now())
    )
    session.execute(statement.execution_options(synchronize_session=False))


def disable(session: Session, webhook: UUID, because: str) -> None:
    """Send nothing more to a webhook: what waits for it is given up."""
    session.execute(
        update(Webhook)
        .where(Webhook.id == webhook, Webhook.disabled_at.is_(None))
        .values(disabled_at=func.now(), disabled_because=because)
    )
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook, WebhookDelivery.state == DeliveryState.PENDING)
        .values(state=DeliveryState.EXHAUSTED)
    )


def enable(session: Session, team: UUID, webhook: UUID) -> Webhook:
    """Send messages to the team's webhook again; raises `NotFound`. What was given up meanwhile stays given up."""
    row = owned_row(session, Webhook, team, webhook, lock=True)
    row.disabled_at = row.disabled_because = None
    session.flush()
    return row


def remove(session: Session, team: UUID, webhook: UUID) -> None:
    """Delete the team's webhook and its messages; raises `NotFound`."""
    row = owned_row(session, Webhook, team, webhook)
    # Waits for the ends of jobs that are just storing messages to it; those that come later do not see it.
    session.refresh(row, with_for_update=True)
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook))
    session.execute(delete(Webhook).where(Webhook.id == webhook))


def webhooks(session: Session, team: UUID) -> Sequence[Webhook]:
    """The team's webhooks, oldest first."""
    return session.scalars(owned(Webhook, team).order_by(Webhook.id)).all()


def deliveries(
    session: Session, team: UUID, webhook: UUID, *, before: UUID | None, limit: int
) -> Sequence[WebhookDelivery]:
    """The newest messages to a webhook of the team, those that come after `before` in this order, newest first.

    None where that one is forgotten: so is what is older.
    """
    query = owned(WebhookDelivery, team).where(WebhookDelivery.webhook_id == webhook)
    if before is not None:
        last = session.scalar(query.where(WebhookDelivery.id == before))
        if last is None:
            return ()
        # Jobs that end in one transaction have one moment, and ids of messages do not grow.
        query = query.where(
            WebhookDelivery.created_at <= last.created_at,
            or_(
                WebhookDelivery.created_at < last.created_at,
                and_(WebhookDelivery.created_at == last.created_at, WebhookDelivery.id > last.id),
            ),
        )
    return session.scalars(query.order_by(WebhookDelivery.created_at.desc(), WebhookDelivery.id).limit(limit)).all()


def redeliver(session: Session, team: UUID, delivery: UUID) -> WebhookDelivery:
    """Have a message of the team be due now, whatever became of it; it keeps its id, and its tries count on.

    Raises `NotFound`, and `Conflict` where its webhook is disabled.
    """
    row = owned_row(session, WebhookDelivery, team, delivery, lock=True)
    if owned_row(session, Webhook, team, row.webhook_id).disabled_at is not None:
        raise Conflict(f"webhook {row.webhook_id} is disabled: enable it first")
    row.state, row.next_at = DeliveryState.PENDING, func.now()
    session.flush()
    session.refresh(row)
    return row


def _enqueue() -> Insert:
    type_ = literal("job.").concat(cast(Job.state, Text))
    data = func.jsonb_build_object(
        "id", Job.id, "kind", Job.kind, "state", cast(Job.state, Text), "attempt", Job.attempt,
        "error", Job.error.op("->>")("code"),
    )  # fmt: skip
    payload = func.jsonb_build_object("type", type_, "timestamp", func.now(), "data", data)
    messages = (
        select(
            func.gen_random_uuid(), Webhook.id, Job.team_id, Job.id, type_, payload,
            literal(DeliveryState.PENDING, WebhookDelivery.state.type),
        )
        .join(Webhook, Webhook.team_id == Job.team_id)
        .where(Job.id == func.any(bindparam("ended", type_=ARRAY(Uuid))))
        .where(Webhook.disabled_at.is_(None), type_ == any_(Webhook.events))
        .with_for_update(read=True, key_share=True, of=Webhook)
    )  # fmt: skip
    columns = ["id", "webhook_id", "team_id", "job_id", "type", "payload", "state"]
    return insert(WebhookDelivery).from_select(columns, messages, include_defaults=False)


_ENQUEUE = _enqueue()
