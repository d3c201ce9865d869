"""What is stored: every table, one class each, in the order in which they depend on each other."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column
from uuid_utils.compat import uuid7

from db.columns import ArtefactState, DeliveryState, Outcome, Table
from vlyard.files import ArtefactKind
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State
from vlyard.teams import Role

__all__ = [
    "ApiKey", "Artefact", "ArtefactState", "Attempt", "Checkpoint", "DeliveryState", "IdempotencyKey", "Job",
    "JobDependency", "JobEvent", "JobLog", "Model", "ModelAlias", "ModelName", "OpenUpload", "Outcome", "Pool",
    "Removal", "Share", "Table", "Team", "Webhook", "WebhookDelivery", "Worker",
]  # fmt: skip


class Team(Table):
    """Who owns jobs and artefacts, and among whom the pools are shared."""

    __tablename__ = "teams"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(Table):
    """A key's digest, never the key itself; the visible prefix finds the row."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id"))
    prefix: Mapped[str] = mapped_column(unique=True)
    sha256: Mapped[bytes]
    role: Mapped[Role]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    revoked_at: Mapped[datetime | None]


class Pool(Table):
    """A set of workers that teams share. Its row is what a dispatcher locks while it decides."""

    __tablename__ = "pools"

    name: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Share(Table):
    """What a team is due of a pool. A team without a row has weight 1 and no limits."""

    __tablename__ = "shares"

    pool: Mapped[str] = mapped_column(ForeignKey("pools.name"), primary_key=True)
    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id"), primary_key=True)
    weight: Mapped[float] = mapped_column(server_default=text("1"))
    max_running: Mapped[int | None]
    max_queued: Mapped[int | None]
    guaranteed: Mapped[int] = mapped_column(server_default=text("0"))

    __table_args__ = (CheckConstraint("weight > 0", name="weight_is_positive"),)


class Worker(Table):
    """A worker process, from its start to its end; it is alive while its heartbeat is fresh."""

    __tablename__ = "workers"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    name: Mapped[str]
    pool: Mapped[str] = mapped_column(ForeignKey("pools.name"))
    device: Mapped[Device]
    kinds: Mapped[list[str]]
    slots: Mapped[int]
    gpus: Mapped[list[str]]
    self_test: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # what it found at its start
    draining: Mapped[bool] = mapped_column(server_default=text("false"))
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]

    __table_args__ = (Index("ix_workers_alive", "pool", "device", postgresql_where=text("ended_at IS NULL")),)


_IN_LINE = text("state = 'queued' AND rung_at IS NULL")
# What a model's history tells of: many jobs ask models, few of them change or measure one.
_ON_A_MODEL = text("kind IN ('training', 'training_check', 'evaluation', 'export', 'verification')")


class Job(Table):
    """A job's whole truth. `attempt` is the fencing token: a write that carries another number is refused."""

    __tablename__ = "jobs"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id"))
    kind: Mapped[str]
    pool: Mapped[str] = mapped_column(ForeignKey("pools.name"))
    device: Mapped[Device]
    priority: Mapped[int] = mapped_column(server_default=text("0"))
    spec: Mapped[dict[str, Any]]
    state: Mapped[State]
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    max_attempts: Mapped[int]
    failures: Mapped[int] = mapped_column(server_default=text("0"))  # the attempts that count toward max_attempts
    worker_id: Mapped[UUID | None] = mapped_column(ForeignKey("workers.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    available_at: Mapped[datetime] = mapped_column(server_default=func.now())  # later than now while backing off
    dispatched_at: Mapped[datetime | None]
    rung_at: Mapped[datetime | None]  # set in a queued job while it backs off, out of the line
    claimed_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    progress: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    last_event: Mapped[int] = mapped_column(server_default=text("0"))  # the sequence number of its newest event
    labels: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # the owner's own names and values
    expires_at: Mapped[datetime | None]  # not worth starting any more after this
    max_runtime_seconds: Mapped[float | None]  # shorter than its kind's time limit
    part_of: Mapped[UUID | None]  # the job that waits for this one's share of its work
    cloned_from: Mapped[UUID | None]  # the job whose specification it repeats, as it was or changed
    bundle: Mapped[UUID | None]  # the message that it shares with others, while it is dispatched or running
    alone: Mapped[bool] = mapped_column(server_default=text("false"))  # it was lost in company, and is on probation

    __table_args__ = (
        # One index for each question the queue asks, holding only the rows that the question is about.
        Index("ix_jobs_queued", "pool", "kind", "team_id", text("priority DESC"), "id", postgresql_where=_IN_LINE),
        Index("ix_jobs_delayed", "available_at", postgresql_where=text("state = 'queued' AND rung_at IS NOT NULL")),
        Index("ix_jobs_dispatched", "rung_at", postgresql_where=text("state = 'dispatched'")),
        Index("ix_jobs_running", "lease_until", postgresql_where=text("state = 'running'")),
        Index("ix_jobs_held", "pool", postgresql_where=text("state IN ('dispatched', 'running')")),
        Index("ix_jobs_expiring", "expires_at", postgresql_where=text("state IN ('blocked', 'queued', 'dispatched')")),
        Index("ix_jobs_team", "team_id", text("id DESC")),
        Index("ix_jobs_parts", "part_of", postgresql_where=text("part_of IS NOT NULL")),
        Index("ix_jobs_model", "team_id", text("(spec ->> 'model')"), text("id DESC"), postgresql_where=_ON_A_MODEL),
        Index(
            "ix_jobs_adapter", "team_id", text("(spec ->> 'adapter')"), text("id DESC"), postgresql_where=_ON_A_MODEL
        ),
        Index(
            "ix_jobs_labels",
            "labels",
            postgresql_using="gin",
            postgresql_ops={"labels": "jsonb_path_ops"},
            postgresql_where=text("labels <> '{}'::jsonb"),  # most jobs have none, and move often
        ),
    )


class JobDependency(Table):
    """A job that waits for another one's output, and where in its specification that output goes."""

    __tablename__ = "job_dependencies"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    needs_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    output: Mapped[str] = mapped_column(primary_key=True)  # the name of the output in the other job's result
    pointer: Mapped[str] = mapped_column(primary_key=True)  # the JSON pointer of the field, such as /source

    __table_args__ = (Index("ix_job_dependencies_needs", "needs_id"),)


_SWEPT_ONCE = text("outcome = 'lost' AND swept AND NOT swept_again")


class Attempt(Table):
    """One try at a job by one worker."""

    __tablename__ = "attempts"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    worker_id: Mapped[UUID] = mapped_column(ForeignKey("workers.id"))
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    outcome: Mapped[Outcome | None]
    error: Mapped[dict[str, Any] | None]
    gpu_seconds: Mapped[float] = mapped_column(server_default=text("0"))
    swept: Mapped[bool] = mapped_column(server_default=text("false"))  # what it left in the store has been removed
    swept_again: Mapped[bool] = mapped_column(server_default=text("false"))  # so has what a worker left after that

    __table_args__ = (
        Index("ix_attempts_unswept", "ended_at", postgresql_where=text("outcome <> 'succeeded' AND NOT swept")),
        Index("ix_attempts_swept_once", "ended_at", postgresql_where=_SWEPT_ONCE),
        Index("ix_attempts_lost", "worker_id", "ended_at", postgresql_where=text("outcome = 'lost'")),
    )


class JobEvent(Table):
    """What happened to a job, in order; rows are only ever added."""

    __tablename__ = "job_events"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    type: Mapped[str]
    data: Mapped[dict[str, Any]]


class JobLog(Table):
    """What an attempt's handler said, in pieces, in the order in which it said it."""

    __tablename__ = "job_logs"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    text: Mapped[str]


class Artefact(Table):
    """A file or a tree of files in S3 that a team uploaded or a job made."""

    __tablename__ = "artefacts"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id"))
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id"))
    attempt: Mapped[int | None]
    name: Mapped[str]
    media_type: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    key: Mapped[str] = mapped_column(unique=True)  # of a tree: its manifest's, beside which its files lie
    kind: Mapped[ArtefactKind] = mapped_column(server_default=text("'file'"))
    state: Mapped[ArtefactState]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    asked_at: Mapped[datetime] = mapped_column(server_default=func.now())  # when its uploader was last heard of

    __table_args__ = (
        Index("ix_artefacts_team", "team_id", text("id DESC")),
        Index("ix_artefacts_job", "job_id"),
        Index("ix_artefacts_pending", "asked_at", postgresql_where=text("state = 'pending'")),
        Index("ix_artefacts_resumable", "team_id", "sha256", postgresql_where=text("state = 'pending'")),
    )


class Checkpoint(Table):
    """What the next attempt at a job goes on from. What lies in the store is one only once a row here names it."""

    __tablename__ = "checkpoints"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    key: Mapped[str]  # of its tree's manifest
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Model(Table):
    """A version of a team's named model: what a job made, and on which base."""

    __tablename__ = "models"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id"))
    name: Mapped[str]
    version: Mapped[int]
    artefact_id: Mapped[UUID] = mapped_column(ForeignKey("artefacts.id"))
    base: Mapped[str]  # as the job named it
    base_artefact_id: Mapped[UUID | None] = mapped_column(ForeignKey("artefacts.id"))
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id"))
    manifest: Mapped[dict[str, Any]]
    shared: Mapped[bool] = mapped_column(server_default=text("false"))  # every team may use it
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        UniqueConstraint("team_id", "name", "version"),
        Index("ix_models_artefact", "artefact_id"),
        Index("ix_models_base", "base_artefact_id", postgresql_where=text("base_artefact_id IS NOT NULL")),
        Index("ix_models_shared", "id", postgresql_where=text("shared")),
    )


class ModelName(Table):
    """What a team calls a model, and the last number that was given for it: none is given twice, also when deleted."""

    __tablename__ = "model_names"

    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    last_version: Mapped[int]


class ModelAlias(Table):
    """A name of a team's for one of the versions of a model, which it may point to another one."""

    __tablename__ = "model_aliases"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id"))
    name: Mapped[str]  # the model's
    alias: Mapped[str]
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"))
    moved_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (UniqueConstraint("team_id", "name", "alias"), Index("ix_model_aliases_model", "model_id"))


class Removal(Table):
    """What an artefact that was deleted has left in the store, until the sweeper has removed it."""

    __tablename__ = "removals"

    key: Mapped[str] = mapped_column(primary_key=True)  # of a tree: its manifest's
    kind: Mapped[ArtefactKind]
    asked_at: Mapped[datetime] = mapped_column(server_default=func.now())


class OpenUpload(Table):
    """An object that comes in parts, and is not put together yet: S3's own name for that upload."""

    __tablename__ = "uploads"

    key: Mapped[str] = mapped_column(primary_key=True)
    artefact_id: Mapped[UUID] = mapped_column(ForeignKey("artefacts.id"))
    upload: Mapped[str]
    part_bytes: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (Index("ix_uploads_artefact", "artefact_id"),)


class IdempotencyKey(Table):
    """A request that was carried out, so that its retry gets the same answer instead of a second job."""

    __tablename__ = "idempotency_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id"))
    key: Mapped[str]
    request_sha256: Mapped[str]
    made: Mapped[UUID]  # the id of the job or artefact that the request made
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (UniqueConstraint("team_id", "key"),)


class Webhook(Table):
    """Where a team wants to be told of the ends of its jobs."""

    __tablename__ = "webhooks"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id"))
    url: Mapped[str]
    secret: Mapped[str]  # the key of the signatures; whoever signs must have it, so it cannot be a digest
    events: Mapped[list[str]]  # the types that are sent, such as job.succeeded
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    disabled_at: Mapped[datetime | None]
    disabled_because: Mapped[str | None]

    __table_args__ = (Index("ix_webhooks_team", "team_id"),)


class WebhookDelivery(Table):
    """One message to one webhook, until it has arrived or is given up. Its id stays the same over all tries."""

    __tablename__ = "webhook_deliveries"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    webhook_id: Mapped[UUID] = mapped_column(ForeignKey("webhooks.id"))
    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id"))
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    type: Mapped[str]
    payload: Mapped[dict[str, Any]]
    state: Mapped[DeliveryState]
    tries: Mapped[int] = mapped_column(server_default=text("0"))
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_status: Mapped[int | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        Index("ix_webhook_deliveries_due", "next_at", postgresql_where=text("state = 'pending'")),
        Index("ix_webhook_deliveries_of", "webhook_id", "created_at"),
        Index("ix_webhook_deliveries_over", "created_at", postgresql_where=text("state <> 'pending'")),
    )
