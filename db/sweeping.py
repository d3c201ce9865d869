"""What nobody needs any more: found and locked a little at a time, passing over what another process has locked."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnExpressionArgument, Select, and_, delete, func, select, tuple_, update
from sqlalchemy.orm import Session, aliased

from db.clock import from_now
from db.models import (
    Artefact,
    ArtefactState,
    Attempt,
    Checkpoint,
    DeliveryState,
    IdempotencyKey,
    Job,
    OpenUpload,
    Outcome,
    WebhookDelivery,
)
from db.queue import Pair
from vlyard.files import ArtefactKind
from vlyard.jobs.state import TERMINAL


@dataclass(frozen=True)
class Abandoned:
    """An upload that nobody goes on with."""

    id: UUID
    key: str
    kind: ArtefactKind


@dataclass(frozen=True)
class Leftover:
    """An attempt that did not succeed and may have left objects in the store."""

    pair: Pair
    team: UUID


def lock_abandoned(session: Session, older_than_seconds: float, limit: int) -> Sequence[Abandoned]:
    """Pending uploads whose clients were not heard of for so long."""
    query = (
        select(Artefact.id, Artefact.key, Artefact.kind)
        .where(Artefact.state == ArtefactState.PENDING, Artefact.asked_at < from_now(-older_than_seconds))
        .order_by(Artefact.asked_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [Abandoned(*row) for row in session.execute(query)]


def remove_abandoned(session: Session, artefact: UUID) -> None:
    """Forget a locked upload."""
    session.execute(delete(OpenUpload).where(OpenUpload.artefact_id == artefact))
    session.execute(delete(Artefact).where(Artefact.id == artefact))


def lock_leftovers(session: Session, older_than_seconds: float, limit: int) -> Sequence[Leftover]:
    """Attempts that ended so long ago without success, and were not swept yet."""
    return _lock_attempts(session, older_than_seconds, limit, Attempt.outcome != Outcome.SUCCEEDED, ~Attempt.swept)


def lock_latecomers(session: Session, older_than_seconds: float, limit: int) -> Sequence[Leftover]:
    """Attempts that were lost so long ago and swept once: their workers may have written after that."""
    was_lost = Attempt.outcome == Outcome.LOST
    return _lock_attempts(session, older_than_seconds, limit, was_lost, Attempt.swept, ~Attempt.swept_again)


def _lock_attempts(
    session: Session, older_than_seconds: float, limit: int, *which: ColumnExpressionArgument[bool]
) -> Sequence[Leftover]:
    query = (
        select(Attempt.job_id, Attempt.number, Job.team_id)
        .join(Job, Job.id == Attempt.job_id)
        .where(*which, Attempt.ended_at < from_now(-older_than_seconds))
        .order_by(Attempt.ended_at)
        .limit(limit)
        .with_for_update(skip_locked=True, of=Attempt)
    )
    return [Leftover((row.job_id, row.number), row.team_id) for row in session.execute(query)]


def note_swept(session: Session, pairs: Sequence[Pair], *, again: bool = False) -> None:
    """Store that nothing is left of these attempts but what the database names."""
    noted = {"swept_again": True} if again else {"swept": True}
    session.execute(update(Attempt).where(tuple_(Attempt.job_id, Attempt.number).in_(pairs)).values(noted))


def named_by(session: Session, pairs: Sequence[Pair]) -> Sequence[tuple[Pair, str, ArtefactKind]]:
    """The keys of the artefacts that these attempts have all the same, such as their logs."""
    query = select(Attempt.job_id, Attempt.number, Artefact.key, Artefact.kind).join(
        Artefact, and_(Artefact.job_id == Attempt.job_id, Artefact.attempt == Attempt.number)
    )
    rows = session.execute(query.where(tuple_(Attempt.job_id, Attempt.number).in_(pairs))).all()
    return [((job, number), key, kind) for job, number, key, kind in rows]


def kept_by(session: Session, pairs: Sequence[Pair]) -> Sequence[tuple[Pair, str, ArtefactKind]]:
    """The keys of the checkpoints that these attempts made, from which others may go on."""
    query = select(Checkpoint.job_id, Checkpoint.attempt, Checkpoint.key)
    rows = session.execute(query.where(tuple_(Checkpoint.job_id, Checkpoint.attempt).in_(pairs))).all()
    return [((job, number), key, ArtefactKind.TREE) for job, number, key in rows]


def lock_outlived(session: Session, older_than_seconds: float, limit: int) -> Sequence[tuple[UUID, UUID]]:
    """The (job, team) of jobs that ended so long ago and have checkpoints, which no attempt goes on from any more."""
    other = aliased(Checkpoint)
    last = select(func.max(other.step)).where(other.job_id == Checkpoint.job_id).scalar_subquery()
    query = (
        select(Checkpoint.job_id, Job.team_id)
        .join(Job, Job.id == Checkpoint.job_id)
        .where(Checkpoint.step == last, Job.state.in_(TERMINAL), Job.finished_at < from_now(-older_than_seconds))
        .limit(limit)
        .with_for_update(skip_locked=True, of=Checkpoint)  # one row for each job: two sweepers never share one
    )
    return [(row.job_id, row.team_id) for row in session.execute(query)]


def forget_checkpoints(session: Session, jobs: Sequence[UUID]) -> None:
    """Forget all checkpoints of these jobs."""
    session.execute(delete(Checkpoint).where(Checkpoint.job_id.in_(jobs)))


def known_uploads(session: Session, uploads: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those of these (key, S3's name) that an artefact's upload goes on with."""
    columns = (OpenUpload.key, OpenUpload.upload)
    return {(key, upload) for key, upload in session.execute(select(*columns).where(tuple_(*columns).in_(uploads)))}


def forget_deliveries(session: Session, older_than_seconds: float, limit: int) -> int:
    """Forget messages to webhooks that are over, of so long ago; returns how many."""
    return _forget(
        session,
        select(WebhookDelivery.id)
        .where(
            WebhookDelivery.state != DeliveryState.PENDING,
            WebhookDelivery.created_at < from_now(-older_than_seconds),
        )
        .order_by(WebhookDelivery.created_at)
        .limit(limit),
        WebhookDelivery,
    )


def forget_keys(session: Session, before: UUID, limit: int) -> int:
    """Forget the Idempotency-Keys whose rows are older than a UUIDv7, which begins with its time; returns how many."""
    oldest = select(IdempotencyKey.id).where(IdempotencyKey.id < before).order_by(IdempotencyKey.id).limit(limit)
    return _forget(session, oldest, IdempotencyKey)


def _forget(session: Session, chosen: Select[UUID], table: type[WebhookDelivery | IdempotencyKey]) -> int:
    rows = chosen.with_for_update(skip_locked=True).cte("chosen")
    return len(session.scalars(delete(table).where(table.id == rows.c.id).returning(table.id)).all())
