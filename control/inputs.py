"""What a claimed job reads: the artefacts that it names, the models that it names, and those that these stand on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from control import registry
from control.uploads import stored
from db import artefacts
from db.leases import Claimed
from db.registry import Known
from vlyard.errors import Complaint, InvalidInput
from vlyard.files import ArtefactKind, Stored
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.spec import Spec
from vlyard.jobs.verification import VerificationSpec
from vlyard.models import named_in


@dataclass(frozen=True)
class Inputs:
    """What the jobs of a message read."""

    specs: Mapping[UUID, Spec]  # by job; without what is no specification of its kind
    files: Mapping[tuple[UUID, UUID], Stored]  # by the team that reads and the artefact; without those that are gone
    models: Mapping[UUID, Sequence[Known]]  # by team


def inputs_of(session: Session, company: Sequence[Claimed]) -> Inputs:
    """What the claimed jobs of a message read, in one statement a team, and one more where they name models."""
    specs = {claimed.job: spec for claimed in company if (spec := _spec_of(claimed))}
    read = [(claimed.team, specs[claimed.job]) for claimed in company if claimed.job in specs]
    models = registry.families(session, read)
    wanted: dict[UUID, set[UUID]] = {}
    for team, spec in read:
        wanted.setdefault(team, set()).update(spec.inputs())
    for team, versions in models.items():
        belonging = (id for each in versions for id in (*_artefacts_of(each), each.dataset) if id is not None)
        wanted.setdefault(team, set()).update(belonging)
    found = [(team, row) for team, ids in wanted.items() if ids for row in artefacts.readable(session, team, ids)]
    return Inputs(specs, {(team, row.id): stored(row) for team, row in found}, models)


def checked_inputs(claimed: Claimed, spec: Spec, found: Inputs) -> Sequence[Stored]:
    """What a claimed job reads, in the order in which it names it, and after that what belongs to its models.

    Raises `InvalidInput` for what it names and is not there.
    """
    own = {identity: file for (team, identity), file in found.files.items() if team == claimed.team}
    wanted = spec.inputs()
    missing = [identity for identity in wanted if identity not in own]
    if missing:
        raise InvalidInput(f"the artefact {missing[0]} does not exist any more")
    trees = {identity for identity in wanted if own[identity].kind is ArtefactKind.TREE}
    if refused := trees - set(spec.trees()):
        # When the job was submitted this was an output that another job was yet to make.
        raise InvalidInput(f"the artefact {min(refused)} is a directory, and the job reads a file")
    family = _family_of(claimed, spec, found)
    belonging = [id for each in family for id in _artefacts_of(each) if id in own]
    if isinstance(spec, VerificationSpec) and spec.dataset is None:
        belonging += [each.dataset for each in family if each.dataset in own]  # which it asks both models about
    return [own[identity] for identity in dict.fromkeys((*wanted, *belonging))]


def names_of(claimed: Claimed, spec: Spec, found: Inputs) -> Mapping[str, UUID]:
    """Which artefact each version is that a claimed job names, and each that these stand on.

    Raises `InvalidInput` where there is no such version.
    """
    names = {str(each.name): each.artefact for each in _family_of(claimed, spec, found)}
    named = named_in(spec)
    if named is not None and str(named) not in names:
        raise InvalidInput(complaints=[Complaint("/spec/model", f"there is no model {named}")])
    return names


def _family_of(claimed: Claimed, spec: Spec, found: Inputs) -> Sequence[Known]:
    there = found.models.get(claimed.team)
    return registry.family_of(spec, there) if there else ()


def _artefacts_of(version: Known) -> Sequence[UUID]:
    return [id for id in (version.artefact, version.base_artefact) if id is not None]


def _spec_of(claimed: Claimed) -> Spec | None:
    try:
        return KINDS[claimed.kind].spec.model_validate(claimed.spec)
    except ValueError:  # its attempt will say so
        return None
