"""Named models: a version is made when a job that makes one succeeds, and found where a specification names it.

A version is written `<team>/<name>:<version>`; an alias, which stands for one, `<team>/<name>@<alias>`. Another team's
is as if it did not exist, unless it is shared. An alias is followed when a job is submitted: the job has the version.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from control.accounts import Caller
from db import artefacts, jobs, registry, removals
from db.models import Model
from db.owned import owned_row
from db.registry import Known, NewVersion
from vlyard.errors import Complaint, Conflict, Forbidden, InvalidInput, NotFound
from vlyard.jobs.generation import ModelAlias, ModelVersion
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.spec import Reference, Spec
from vlyard.models import OUTPUT, absent, alias_in, manifest_of, named_in

_MOST_USERS = 10  # jobs that are named when they keep a version from being deleted

# --- naming ---------------------------------------------------------------------------------------------------


def pointed_at(session: Session, wanted: Iterable[tuple[UUID, Spec]]) -> Mapping[tuple[UUID, ModelAlias], str]:
    """By team and alias, the versions for which those stand now that the team's specifications name."""
    aliases: dict[UUID, set[ModelAlias]] = {}
    for team, spec in wanted:
        if alias := alias_in(spec):
            aliases.setdefault(team, set()).add(alias)
    found = ((team, registry.pointed_at(session, team, of_team)) for team, of_team in aliases.items())
    return {(team, alias): str(version) for team, known in found for alias, version in known.items()}


def existing(session: Session, wanted: Iterable[tuple[UUID, Spec]]) -> Mapping[UUID, Sequence[ModelVersion]]:
    """By team, all versions of the models of which the team's specifications name one."""
    names: dict[UUID, set[str]] = {}
    for team, spec in wanted:
        if name := named_in(spec) or alias_in(spec):
            names.setdefault(team, set()).add(name.name)
    return {team: registry.versions_of(session, team, of_team) for team, of_team in names.items()}


def complaints(spec: Spec, where: str, there: Sequence[ModelVersion]) -> Iterator[Complaint]:
    """What is wrong with the version that a specification names, given those that there are; an alias is followed."""
    name = named_in(spec) or alias_in(spec)
    if name is None or name in there:
        return
    yield absent(name, there, f"{where}/spec/model")


def hold(session: Session, wanted: Iterable[tuple[UUID, Spec]]) -> None:
    """Keep the versions that the teams' specifications name from being deleted until their jobs are stored.

    Who deletes one waits for that, and then sees the jobs. Who comes while one is deleted waits, and finds it gone.
    """
    asked: dict[UUID, tuple[set[ModelVersion], set[UUID], set[UUID]]] = {}
    for team, spec in wanted:
        version, weights = named_in(spec), _weights(spec)
        makers = {each.job for _, each in spec.references() if each.job} if weights else set()
        if version or weights:
            names, artefacts_of, jobs_of = asked.setdefault(team, (set(), set(), set()))
            names.update([version] if version else [])
            artefacts_of.update(id for id in weights if not isinstance(id, Reference))
            jobs_of.update(makers)
    for team, named in asked.items():
        registry.hold(session, team, *named)


def version_of(session: Session, team: UUID, model: UUID | str) -> ModelVersion | None:
    """The version that a specification names, by its name or by its artefact; None where that is none."""
    if isinstance(model, UUID):
        return next((each.name for each in registry.known(session, team, (), [model])), None)
    return ModelVersion.read(model)


def look(session: Session, team: UUID, text: str) -> tuple[str, Model]:
    """The version that is called so, with its team's name; raises `NotFound` with those that there are."""
    try:
        return registry.one(session, team, text)
    except NotFound as error:
        name = ModelVersion.read(text) or ModelAlias.read(text)
        there = registry.versions_of(session, team, [name.name]) if name else ()
        others = [each for each in there if name and each[:2] == name[:2]]
        raise NotFound(error.message, [absent(name, others, "/path/model")] if name and others else ()) from None


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
    return spec.trees() if "model" in vars(spec) else ()


# --- making ---------------------------------------------------------------------------------------------------


def add(session: Session, team: UUID, job: UUID, result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Store the version that a job made, where its kind makes any and it has a name for one.

    Returns the result, with the version's name where there is one.
    """
    [row] = jobs.in_order(session, team, [job])
    if not KINDS[row.kind].makes_model or row.spec.get("name") is None:
        return result
    new = NewVersion(
        team=team,
        name=row.spec["name"],
        artefact=UUID(str(result["artefacts"][OUTPUT])),
        base=str(result.get("base") or row.spec["model"]),
        base_artefact=_base_of(session, team, row.spec),
        job=job,
        manifest=manifest_of(row.spec, result),
        shared=bool(row.spec.get("shared")),
    )
    return {**result, OUTPUT: registry.add(session, new)}


def _base_of(session: Session, team: UUID, spec: Mapping[str, Any]) -> UUID | None:
    """The artefact that what a job made needs as its base; None where that is none, such as a hub's model.

    What was taken out or brought in is whole, and needs none.
    """
    if spec["kind"] != "training":
        return None
    if version := ModelVersion.read(spec["model"]):
        return next((each.artefact for each in registry.known(session, team, {version})), None)
    with suppress(ValueError):
        return next((row.id for row in artefacts.readable(session, team, [UUID(spec["model"])])), None)
    return None


# --- aliases, and the end -------------------------------------------------------------------------------------


def point(session: Session, caller: Caller, text: str, alias: str) -> tuple[str, Model]:
    """Have an alias of a version's model stand for that version from now on; returns it with its team's name."""
    team, row = _own(session, caller, text)
    registry.point(session, row, alias)
    return team, row


def unpoint(session: Session, caller: Caller, text: str, alias: str) -> None:
    """Forget an alias; raises `Conflict` where it does not stand for this version."""
    team, row = _own(session, caller, text)
    if not registry.unpoint(session, row, alias):
        raise Conflict(f"{team}/{row.name}@{alias} does not stand for {ModelVersion(team, row.name, row.version)}")


def delete(session: Session, caller: Caller, text: str) -> str:
    """Delete a version, and its weights unless another version is the same; returns its name.

    Raises `Conflict`, naming them, where jobs that have not ended name it, aliases stand for it, or versions on it.
    """
    if ModelAlias.read(text):
        what = Complaint("/path/model", f"{text} is an alias", "name the version, or delete the alias")
        raise InvalidInput("Only a version can be deleted.", [what])
    team, row = _own(session, caller, text)
    name = str(ModelVersion(team, row.name, row.version))
    removals.lock(session, row)
    if users := [*_users(session, caller, row, name)]:
        raise Conflict(f"{name} is in use", users)
    removals.remove(session, row)
    return name


def _own(session: Session, caller: Caller, text: str) -> tuple[str, Model]:
    """The version that is called so, locked; raises `Forbidden` where it is another team's that is shared."""
    team, row = look(session, caller.team, text)
    if row.team_id != caller.team:
        raise Forbidden(f"{text} is the team {team}'s: only that can change it")
    return team, owned_row(session, Model, caller.team, row.id, lock=True)


def _users(session: Session, caller: Caller, row: Model, name: str) -> Iterator[Complaint]:
    """Why a version cannot go, other teams' reasons without their names.

    Jobs come first: one that ends meanwhile, and makes a version that stands on this one, is met at the second look.
    """
    for user in removals.open_jobs(session, row, name, _MOST_USERS):
        where = f"job {user.job}" if user.team == caller.team else "a job of another team"
        yield Complaint(where, "it names the model and has not ended", "wait for its end, or cancel it")
    for each in removals.dependents(session, row):
        where = str(each.name) if each.team == caller.team else "a model of another team"
        yield Complaint(where, "it stands on the model", "delete it first")
    for alias in registry.aliases_of(session, caller.team, [row.id]).get(row.id, ()):
        where = f"{name.rpartition(':')[0]}@{alias}"
        yield Complaint(where, "the alias stands for the model", "have it stand for another version, or delete it")
