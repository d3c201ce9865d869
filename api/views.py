"""Rows of the database as the API shows them."""

from sqlalchemy.orm import Session

from control.artefacts import ArtefactStore
from control.trees import manifest_link
from control.uploads import stored
from db import jobs
from db.jobs import NewJob
from db.models import Artefact, ArtefactState, Attempt, Job
from vlyard.files import ArtefactKind
from vlyard.jobs import view


def job_view(session: Session, row: Job) -> view.Job:
    """A job with all its attempts."""
    return _job(row, tuple(_attempt(attempt, worker) for attempt, worker in jobs.attempts(session, row.id)))


def job_row_view(row: Job) -> view.Job:
    """A job as a list shows it, without its attempts."""
    return _job(row, ())


def submitted_view(row: Job | NewJob) -> view.Job:
    """A job in the answer to its submission."""
    if isinstance(row, Job):
        return job_row_view(row)
    return view.Job(
        id=row.id,
        kind=row.kind,
        state=row.state,
        pool=row.pool,
        device=row.device,
        priority=row.priority,
        spec=dict(row.spec),
        attempt=0,
        labels=dict(row.labels),
        part_of=row.part_of,
        cloned_from=row.cloned_from,
        expires_at=row.expires_at,
        max_runtime=row.max_runtime_seconds,
        created_at=row.created_at,
    )


def artefact_view(
    row: Artefact, store: ArtefactStore, upload: view.Upload | None = None, parts: view.Parts | None = None
) -> view.Artefact:
    """An artefact, with a link to its content or its manifest once that is there."""
    is_ready, is_tree = row.state is ArtefactState.READY, row.kind is ArtefactKind.TREE
    return view.Artefact(
        id=row.id,
        kind=row.kind,
        name=row.name,
        media_type=row.media_type,
        bytes=row.bytes,
        sha256=row.sha256,
        state=row.state.value,
        job=row.job_id,
        created_at=row.created_at,
        download_url=store.download_link(stored(row)) if is_ready and not is_tree else None,
        manifest_url=manifest_link(store, stored(row)) if is_ready and is_tree else None,
        upload=upload,
        parts=parts,
    )


def _job(row: Job, attempts: tuple[view.Attempt, ...]) -> view.Job:
    return view.Job(
        id=row.id,
        kind=row.kind,
        state=row.state,
        pool=row.pool,
        device=row.device,
        priority=row.priority,
        spec=row.spec,
        result=row.result,
        error=view.Failure.model_validate(row.error) if row.error else None,
        progress=view.Progress.model_validate(row.progress) if row.progress else None,
        attempt=row.attempt,
        attempts=attempts,
        cancel_requested=row.cancel_requested_at is not None,
        labels=row.labels,
        part_of=row.part_of,
        cloned_from=row.cloned_from,
        expires_at=row.expires_at,
        max_runtime=row.max_runtime_seconds,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _attempt(row: Attempt, worker: str) -> view.Attempt:
    return view.Attempt(
        number=row.number,
        worker=worker,
        started_at=row.started_at,
        ended_at=row.ended_at,
        outcome=row.outcome.value if row.outcome else None,
        error=view.Failure.model_validate(row.error) if row.error else None,
    )
