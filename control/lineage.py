"""Where a model comes from and what was done with it, and two of them side by side, as far as their team may see it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy.orm import Session

from control import registry
from db import lineage as stored
from db.models import Artefact, Job, Model
from vlyard.errors import NotFound
from vlyard.jobs.export import ExportSpec, Provenance, Stage
from vlyard.jobs.generation import ModelVersion
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.spec import Spec
from vlyard.lineage import Difference, Lineage, Measured, Piece, Step, differences, figures_of

Named: TypeAlias = tuple[str, Model]  # with its team's name

_SHOWN = 3  # evaluations, the newest, on the card of an export
_EVALUATIONS = 50  # of each of two models, the newest, among which the same questions are looked for
# What two evaluations may differ in and yet have asked the same: the model.
_OWN = frozenset({"model", "adapter"})


class Comparison(NamedTuple):
    """In what two versions differ."""

    spec: tuple[Difference, ...]  # of the jobs that made them
    manifest: tuple[Difference, ...]
    evaluation: Measured | None


def history(session: Session, team: UUID, text: str, before: UUID | None, limit: int) -> Lineage:
    """What a version was made of, and the newest `limit` jobs that used it, older than `before`. Raises `NotFound`."""
    owner, row = registry.look(session, team, text)
    name = str(ModelVersion(owner, row.name, row.version))
    maker = _job(session, team, row.job_id)
    check = _job(session, team, _maker(session, team, _named(maker, "checked")))
    dataset = next(iter(_pieces(session, team, [_named(maker, "dataset")])), None)
    conversion = _job(session, team, dataset.job_id if dataset else None)
    sources = _pieces(session, team, _spec_of(conversion).inputs() if conversion else ())
    uses = list(stored.uses(session, team, row, name, before=before, limit=limit + 1))
    names = stored.made_by(session, team, [job.id for job in (*uses, maker) if job])
    given = str(maker.spec.get("model", "")) if maker else ""
    return Lineage(
        id=name,
        base=row.base,
        base_model=given if ModelVersion.read(given) else None,
        made_by=_step(maker, names),
        checked_by=_step(check, names),
        dataset=_piece(dataset) if dataset else None,
        converted_by=_step(conversion, names),
        sources=tuple(map(_piece, sources)),
        uses=tuple(_told(job, names) for job in uses[:limit]),
        next_cursor=str(uses[limit - 1].id) if len(uses) > limit else None,
    )


def with_lineage(session: Session, team: UUID, spec: Spec) -> Spec:
    """The specification of an export with where the version comes from that it takes out; others as they are."""
    if not isinstance(spec, ExportSpec):
        return spec
    name = str(registry.version_of(session, team, spec.model) or "")
    try:
        told = history(session, team, name, None, _EVALUATIONS)
    except NotFound:
        return spec
    evaluations = [step for step in told.uses if step.kind == "evaluation" and step.figures][:_SHOWN]
    steps = (told.converted_by, told.checked_by, told.made_by, *reversed(evaluations))
    stages = tuple(Stage(kind=step.kind, job=step.job, figures=step.figures) for step in steps if step)
    return spec.model_copy(update={"lineage": Provenance(model=name, base=told.base, stages=stages)})


def side_by_side(session: Session, team: UUID, left: Named, right: Named) -> Comparison:
    """In what two versions differ, each given with its team's name."""
    pair = (left, right)
    jobs = {job.id: job.spec for job in stored.jobs(session, team, [row.job_id for _, row in pair if row.job_id])}
    specs = [jobs.get(row.job_id, {}) if row.job_id else {} for _, row in pair]
    return Comparison(
        spec=differences(*specs),
        manifest=differences(left[1].manifest, right[1].manifest),
        evaluation=_measured(*(_evaluations(session, team, each) for each in pair)),
    )


def _measured(ours: Sequence[Job], theirs: Sequence[Job]) -> Measured | None:
    """The newest pair of evaluations that asked both the same."""
    for job in ours:
        for other in theirs:
            if _question(job) == _question(other):
                return Measured(dataset=UUID(job.spec["dataset"]), left=_told(job, {}), right=_told(other, {}))
    return None


def _evaluations(session: Session, team: UUID, found: Named) -> Sequence[Job]:
    owner, row = found
    return stored.evaluations(session, team, row, str(ModelVersion(owner, row.name, row.version)), _EVALUATIONS)


def _question(job: Job) -> Mapping[str, Any]:
    return {field: value for field, value in job.spec.items() if field not in _OWN}


def _job(session: Session, team: UUID, id: UUID | None) -> Job | None:
    return next(iter(stored.jobs(session, team, [id])), None) if id else None


def _pieces(session: Session, team: UUID, ids: Iterable[UUID | None]) -> Sequence[Artefact]:
    return stored.pieces(session, team, [id for id in ids if id])


def _maker(session: Session, team: UUID, artefact: UUID | None) -> UUID | None:
    return next((row.job_id for row in _pieces(session, team, [artefact])), None)


def _named(job: Job | None, field: str) -> UUID | None:
    """The artefact that a field of a job's specification names."""
    value = job.spec.get(field) if job else None
    return UUID(value) if value else None


def _spec_of(job: Job) -> Spec:
    return KINDS[job.kind].spec.model_validate(job.spec)


def _step(job: Job | None, names: Mapping[UUID, ModelVersion]) -> Step | None:
    return _told(job, names) if job else None


def _told(job: Job, names: Mapping[UUID, ModelVersion]) -> Step:
    return Step(
        job=job.id,
        kind=job.kind,
        state=job.state,
        finished_at=job.finished_at,
        dataset=_named(job, "dataset"),
        model=str(names[job.id]) if job.id in names else None,
        figures=figures_of(job.kind, job.result or {}),
    )


def _piece(row: Artefact) -> Piece:
    return Piece(artefact=row.id, name=row.name, bytes=row.bytes, job=row.job_id)
