"""Jobs of a VLyard in memory that need each other's outputs: who needs what, and what stands in the way. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from vlyard.errors import Complaint
from vlyard.jobs.spec import Spec
from vlyard.jobs.state import TERMINAL, State
from vlyard.jobs.view import Job


@dataclass(frozen=True)
class Need:
    """An output that a job's specification names in place of an artefact's id."""

    where: str  # its field in the request
    pointer: str  # and in the specification
    text: str  # as it stands there
    job: UUID | None  # that has it; None where a name of the request means nothing
    entry: str
    output: str


def needs_of(spec: Spec, where: str, names: Mapping[str, UUID]) -> Sequence[Need]:
    """What a specification needs; `names` are the entries of its request."""
    return [
        Need(
            where=f"{where}/spec{pointer}",
            pointer=pointer,
            text=reference.text,
            job=reference.job or names.get(reference.entry or ""),
            entry=reference.entry or "",
            output=reference.output,
        )
        for pointer, reference in spec.references()
    ]


def unusable(needs: Iterable[Need], new: Iterable[UUID], known: Mapping[UUID, Job]) -> Iterator[Complaint]:
    """What is wrong with needs: of jobs that there are not, or that will never have the output."""
    own = set(new)
    for need in needs:
        if need.job is None:
            fix = "name an entry of the same batch, or an earlier job as job:<id>/<output>"
            yield Complaint(need.where, f"there is no entry {need.entry!r} in this request", fix)
        elif need.job not in own and need.job not in known:
            yield Complaint(need.where, f"there is no job {need.job}", "name a job of your team")
        elif need.job not in own and (why := never(known[need.job], need.output)):
            yield Complaint(need.where, why, "name a job that can still have it, or its artefact's id")


def circular(needs: Mapping[UUID, Sequence[Need]]) -> Iterator[Complaint]:
    """A complaint at each need of a job that cannot start because it needs itself, directly or through others."""
    stuck = dict(needs)
    while free := [job for job, each in stuck.items() if stuck.keys().isdisjoint(need.job for need in each)]:
        for job in free:
            del stuck[job]
    for need in (need for each in stuck.values() for need in each if need.job in stuck):
        what = f"the entry {need.entry!r} is part of a circle, or waits for one: none of them can start"
        yield Complaint(need.where, what, "break the circle")


def never(job: Job, output: str) -> str:
    """Why a job will never have an output; empty where it has it, or may have it yet."""
    if job.state is State.SUCCEEDED:
        made = (job.result or {}).get("artefacts", {})
        outputs = ", ".join(sorted(made)) or "none"
        return "" if output in made else f"job {job.id} has no output {output!r} (its outputs: {outputs})"
    if job.state not in TERMINAL:
        return ""
    said = f": {job.error.message}" if job.error else ""
    return f"job {job.id} is {job.state}{said}"


def with_texts(spec: Spec, texts: Mapping[str, str]) -> Spec:
    """The specification with other texts in place of these, wherever they stand."""
    return type(spec).model_validate(_replaced(spec.model_dump(mode="json"), texts))


def _replaced(value: Any, texts: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _replaced(each, texts) for name, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, texts) for each in value]
    return texts.get(value, value) if isinstance(value, str) else value
