"""Jobs that read what other jobs make: found when they are submitted, let go or given up when the others end.

The rule that keeps a job from being blocked for ever: whoever stores one holds the rows of what it needs, so that
none of them ends meanwhile, and whoever ends a job looks for those that wait for it, in the same transaction.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from pydantic import ValidationError
from sqlalchemy.orm import Session

from control.failures import failure_of
from db import artefacts, dependencies
from db.dependencies import Blocked, Needed
from vlyard.errors import Complaint, DependencyFailed
from vlyard.jobs.kinds import KINDS, Kind
from vlyard.jobs.spec import Reference
from vlyard.jobs.state import TERMINAL, State
from vlyard.jobs.view import Submission

log = structlog.get_logger()


@dataclass(frozen=True)
class Wanted:
    """A job that somebody asks for."""

    id: UUID
    submission: Submission
    where: str  # its place in the request: "", or "/jobs/3" in a batch
    cloned_from: UUID | None = None
    part_of: UUID | None = None  # the job whose work it shares


@dataclass(frozen=True)
class Link:
    """One field of a wanted job that another job's output shall fill."""

    job: UUID
    pointer: str  # of the field in the specification
    where: str  # of the field in the request
    reference: Reference
    needs: UUID | None  # None where no entry of the batch has that name


# --- when jobs are submitted ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What wanted jobs have to wait for."""

    links: Mapping[UUID, Sequence[Link]]
    needed: Mapping[UUID, Needed]  # the earlier jobs among what they need
    complaints: Sequence[Complaint]

    def start(self, job: UUID, spec: dict[str, Any]) -> tuple[State, dict[str, Any]]:
        """The state in which a job begins, and its specification with what is known already."""
        links = [(link, self.needed.get(link.needs)) for link in self.links.get(job, ()) if link.needs]
        if all(found and found.state is State.SUCCEEDED for _, found in links):
            for link, found in links:
                assert found is not None
                spec = filled(spec, link.pointer, found.artefacts[link.reference.output])
            return State.QUEUED, spec
        for link, _ in links:  # an entry's name means nothing outside of its batch
            spec = filled(spec, link.pointer, f"job:{link.needs}/{link.reference.output}")
        return State.BLOCKED, spec

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `job_dependencies`."""
        return [
            {"job_id": job, "needs_id": link.needs, "output": link.reference.output, "pointer": link.pointer}
            for job, links in self.links.items()
            for link in links
        ]


def plan(session: Session, team: UUID, wanted: Sequence[Wanted], names: Mapping[str, UUID]) -> Plan:
    """Find what wanted jobs need, and lock it; `names` are the entries of their batch.

    What is wrong is in the plan's `complaints`: unknown names, cycles, and jobs that are not the team's or will never
    have the output.
    """
    links = {each.id: _links(each, names) for each in wanted}
    flat = [link for each in links.values() for link in each]
    if not flat:
        return Plan({}, {}, ())
    own = {each.id: KINDS[each.submission.spec.kind] for each in wanted}
    needed = dependencies.lock_needed(
        session, team, (link.needs for link in flat if link.needs and link.needs not in own)
    )
    complaints = [*_unusable(flat, own, needed), *_deleted(session, team, flat, needed), *_cycles(links)]
    return Plan(links, needed, complaints)


def _links(wanted: Wanted, names: Mapping[str, UUID]) -> list[Link]:
    return [
        Link(
            wanted.id,
            pointer,
            f"{wanted.where}/spec{pointer}",
            reference,
            reference.job or names.get(reference.entry or ""),
        )
        for pointer, reference in wanted.submission.spec.references()
    ]


def _unusable(links: Iterable[Link], own: Mapping[UUID, Kind], needed: Mapping[UUID, Needed]) -> Iterator[Complaint]:
    for link in links:
        if link.needs is None:
            fix = "name an entry of the same batch, or an earlier job as job:<id>/<output>"
            yield Complaint(link.where, f"there is no entry {link.reference.entry!r} in this request", fix)
        elif link.needs in own:
            if why := own[link.needs].never_makes(link.reference.output):
                yield Complaint(link.where, why, "name one of these")
        else:
            found = needed.get(link.needs)
            if found is None:
                yield Complaint(link.where, f"there is no job {link.needs}", "name a job of your team")
            elif why := _never(found, link.reference.output):
                yield Complaint(link.where, why, "name a job that can still have it, or its artefact's id")


def _deleted(session: Session, team: UUID, links: Iterable[Link], needed: Mapping[UUID, Needed]) -> Iterator[Complaint]:
    """A complaint at each field that names what a job made and is not there any more."""
    made: dict[Link, UUID] = {}
    for link in links:
        found = needed.get(link.needs) if link.needs else None
        if found and found.state is State.SUCCEEDED and link.reference.output in found.artefacts:
            made[link] = UUID(found.artefacts[link.reference.output])
    there = {file.id for file in artefacts.readable(session, team, made.values())} if made else set()
    for link, artefact in made.items():
        if artefact not in there:
            what = f"there is no artefact {artefact} any more, which job {link.needs} made as {link.reference.output!r}"
            yield Complaint(link.where, what, "name another one")


def _cycles(links: Mapping[UUID, Sequence[Link]]) -> Iterator[Complaint]:
    """A complaint at each field of a job that cannot start because it needs itself, directly or through others."""
    open_needs = {job: {link.needs for link in each if link.needs in links} for job, each in links.items()}
    needed_by: dict[UUID | None, list[UUID]] = {}
    for job, needs in open_needs.items():
        for need in needs:
            needed_by.setdefault(need, []).append(job)
    ready = [job for job, needs in open_needs.items() if not needs]
    while ready:
        done = ready.pop()
        del open_needs[done]
        for job in needed_by.get(done, ()):
            open_needs[job].discard(done)
            if not open_needs[job]:
                ready.append(job)
    for job in open_needs:
        for link in links[job]:
            if link.needs in open_needs:
                what = (
                    f"the entry {link.reference.entry!r} is part of a circle, or waits for one: none of them can start"
                )
                yield Complaint(link.where, what, "break the circle")


# --- when jobs end --------------------------------------------------------------------------------------------


def settle(session: Session, ended: Iterable[UUID]) -> Sequence[tuple[UUID, UUID]]:
    """Queue what waited for these jobs and has all that it needs; fail what will never have it.

    Returns the (job, team) of those that failed: they have ended, too, and others may wait for them.
    """
    specs: dict[UUID, Mapping[str, Any]] = {}
    errors: dict[UUID, Mapping[str, Any]] = {}
    failed = []
    for blocked in dependencies.lock_waiting_for(session, ended):
        try:
            spec = _resolved(blocked)
        except Exception as error:  # whatever is wrong with one that waits, what it waited for has ended
            if not isinstance(error, DependencyFailed):
                log.exception("a job that waited cannot go on", job=str(blocked.job))
            errors[blocked.job] = failure_of(error).model_dump(mode="json")
            failed.append((blocked.job, blocked.team))
            continue
        if spec is not None:
            specs[blocked.job] = spec
    dependencies.release(session, specs)
    dependencies.give_up(session, errors)
    return failed


def _resolved(blocked: Blocked) -> Mapping[str, Any] | None:
    """The specification with what it waited for, or None as long as something is missing."""
    for pointer, output, needed in blocked.needs:
        if why := _never(needed, output):
            what = f"the job needs the output {output!r} of another one: {why}"
            raise DependencyFailed(what, [Complaint(pointer, why), *_its_complaints(needed)])
    if any(needed.state is not State.SUCCEEDED for _, _, needed in blocked.needs):
        return None
    spec = dict(blocked.spec)
    for pointer, output, needed in blocked.needs:
        spec = filled(spec, pointer, needed.artefacts[output])
    try:
        KINDS[blocked.kind].spec.model_validate(spec)
    except ValidationError as error:
        raise DependencyFailed(f"what the job waited for does not fit it: {error}") from error
    return spec


def _never(needed: Needed, output: str) -> str:
    """Why a job will never have an output; empty where it has it, or may have it yet."""
    if needed.state is State.SUCCEEDED:
        if output in needed.artefacts:
            return ""
        outputs = ", ".join(sorted(needed.artefacts)) or "none"
        return f"job {needed.job} has no output {output!r} (its outputs: {outputs})"
    if needed.state not in TERMINAL:
        kind = KINDS.get(needed.kind)  # of a newer version of this program, it is not known
        return kind.never_makes(output) if kind else ""
    said = f": {needed.error['message']}" if needed.error else ""
    return f"job {needed.job} is {needed.state}{said}"


def _its_complaints(needed: Needed) -> Iterator[Complaint]:
    """What was wrong with the job that failed, so that whoever waited for it need not look for it there."""
    for each in (needed.error or {}).get("complaints", ()):
        yield Complaint(each["where"], each["what"], each["fix"])


def filled(spec: Any, pointer: str, value: str) -> Any:
    """A copy of a specification's JSON with the value at the JSON pointer."""
    if not pointer:
        return value
    first, _, rest = pointer[1:].partition("/")
    below = f"/{rest}" if rest else ""
    if isinstance(spec, list):
        index = int(first)
        return [filled(each, below, value) if at == index else each for at, each in enumerate(spec)]
    key = first.replace("~1", "/").replace("~0", "~")
    return {**spec, key: filled(spec[key], below, value)}
