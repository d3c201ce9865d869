"""Named models: a version is made when a job that makes one succeeds, and found where a specification names it.

A version is written `<team>/<name>:<version>`. Another team's is as if it did not exist.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from db import artefacts, jobs, registry
from db.registry import Known, NewVersion
from vlyard.errors import Complaint
from vlyard.jobs.generation import ModelVersion
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.spec import Spec
from vlyard.models import OUTPUT, absent, manifest_of, named_in

# --- naming ---------------------------------------------------------------------------------------------------


def existing(session: Session, wanted: Iterable[tuple[UUID, Spec]]) -> Mapping[UUID, Sequence[ModelVersion]]:
    """By team, all versions of the models of which the team's specifications name one."""
    names: dict[UUID, set[str]] = {}
    for team, spec in wanted:
        if version := named_in(spec):
            names.setdefault(team, set()).add(version.name)
    return {team: registry.versions_of(session, team, of_team) for team, of_team in names.items()}


def complaints(spec: Spec, where: str, there: Sequence[ModelVersion]) -> Iterator[Complaint]:
    """What is wrong with the version that a specification names, given those that there are."""
    version = named_in(spec)
    if version is None or version in there:
        return
    yield absent(version, there, f"{where}/spec/model")


# --- what belongs to a job ------------------------------------------------------------------------------------


def families(session: Session, wanted: Iterable[tuple[UUID, Spec]]) -> Mapping[UUID, Sequence[Known]]:
    """By team, the versions that its specifications name, by name or by artefact, and those that these stand on."""
    names: dict[UUID, set[ModelVersion]] = {}
    weights: dict[UUID, set[UUID]] = {}
    for team, spec in wanted:
        if version := named_in(spec):
            names.setdefault(team, set()).add(version)
        if own := _weights(spec):
            weights.setdefault(team, set()).update(own)
    return {
        team: _with_bases(session, team, names.get(team, set()), weights.get(team, set()))
        for team in names.keys() | weights.keys()
    }


def family_of(spec: Spec, there: Sequence[Known]) -> Sequence[Known]:
    """Of all versions of a team's family, those that one specification names, and those that these stand on."""
    version, asked = named_in(spec), set(_weights(spec))
    found: list[Known] = []
    fresh = [each for each in there if each.name == version or each.artefact in asked]
    while fresh:
        found += fresh
        bases = {each.base_artefact for each in fresh}
        fresh = [each for each in there if each.artefact in bases and each not in found]
    return found


def _with_bases(session: Session, team: UUID, names: set[ModelVersion], weights: set[UUID]) -> Sequence[Known]:
    found: dict[ModelVersion, Known] = {}
    while names or weights:
        fresh = [each for each in registry.known(session, team, names, weights) if each.name not in found]
        found |= {each.name: each for each in fresh}
        names, weights = set(), {each.base_artefact for each in fresh if each.base_artefact}
    return list(found.values())


def _weights(spec: Spec) -> Sequence[UUID]:
    """The artefacts of a specification among which models are."""
    return spec.trees() if hasattr(spec, "model") else ()


# --- making ---------------------------------------------------------------------------------------------------


def add(session: Session, team: UUID, job: UUID, result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Store the version that a job made, where its kind makes any; returns the result with the version's name."""
    [row] = jobs.in_order(session, team, [job])
    if not KINDS[row.kind].makes_model or row.spec["name"] is None:
        return result
    model = str(row.spec.get("model") or row.spec["source"])
    new = NewVersion(
        team=team,
        name=row.spec["name"],
        artefact=UUID(str(result["artefacts"][OUTPUT])),
        base=str(result.get("base") or model),
        base_artefact=_artefact_of(session, team, model),
        job=job,
        manifest=manifest_of(row.spec, result),
    )
    return {**result, OUTPUT: registry.add(session, new)}


def _artefact_of(session: Session, team: UUID, model: str) -> UUID | None:
    """The artefact that a model's name stands for; None where it stands for none, such as a hub's."""
    if version := ModelVersion.read(model):
        return next((each.artefact for each in registry.known(session, team, {version})), None)
    with suppress(ValueError):
        return next((row.id for row in artefacts.ready(session, team, [UUID(model)])), None)
    return None
