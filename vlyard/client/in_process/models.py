"""The named models of a VLyard in memory: made when a job that makes one succeeds, and called so. Knows no HTTP."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

from vlyard.errors import Complaint, Conflict, InvalidInput, NotFound
from vlyard.jobs.generation import ALIAS, ModelAlias, ModelVersion
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.spec import Result, Spec
from vlyard.jobs.view import Job
from vlyard.models import OUTPUT, Deleted, Model, absent, alias_in, makes_version, manifest_of, named_in
from vlyard.models import Models as Page


class Models:
    """Every version of the only team."""

    def __init__(self, team: str) -> None:
        self._team = team
        self._made: dict[UUID, Model] = {}  # the oldest first
        self._given: Counter[str] = Counter()  # numbers, by name: none is given twice
        self._aliases: dict[ModelAlias, UUID] = {}

    def named(self, job: Job, result: Result) -> Result:
        """The result of a job with the name of the version that it made, where its kind makes one."""
        told, spec = result.model_dump(mode="json"), job.model_dump(mode="json")["spec"]
        if not (KINDS[job.kind].makes_model and spec["name"] and makes_version(told)):
            return result
        self._given[spec["name"]] += 1
        number = self._given[spec["name"]]
        version = ModelVersion(self._team, spec["name"], number)
        self._made[uuid4()] = Model(
            id=str(version),
            created=int(datetime.now(UTC).timestamp()),
            owned_by=self._team,
            name=version.name,
            version=number,
            artefact=told["artefacts"][OUTPUT],
            base=str(told["base"]),
            job=job.id,
            manifest=dict(manifest_of(spec, told)),
        )
        return result.model_copy(update={OUTPUT: str(version)})

    def look(self, name: str) -> Model:
        """The version that is called so, by its number or by an alias. Raises `NotFound`."""
        return self._with_aliases(self._key(name))

    def point(self, name: str, alias: str) -> Model:
        """Have an alias stand for a version from now on. Raises `InvalidInput` where no alias is written so."""
        key = self._key(name)
        whole = ModelAlias(self._team, self._made[key].name, alias)
        if ModelAlias.read(str(whole)) is None:
            fault = Complaint("/path/alias", f"{alias!r} is no alias", f"write one that matches {ALIAS}")
            raise InvalidInput(complaints=[fault])
        self._aliases[whole] = key
        return self._with_aliases(key)

    def unpoint(self, name: str, alias: str) -> None:
        """Forget an alias of a version. Raises `Conflict` where it does not stand for that."""
        key = self._key(name)
        whole = ModelAlias(self._team, self._made[key].name, alias)
        if self._aliases.get(whole) != key:
            raise Conflict(f"{whole} does not stand for {self._made[key].id}")
        del self._aliases[whole]

    def delete(self, name: str) -> Deleted:
        """Delete a version. Raises `Conflict` where an alias stands for it."""
        key = self._key(name)
        if held := [each for each, version in self._aliases.items() if version == key]:
            fix = "have it stand for another version, or delete it"
            users = [Complaint(str(each), "the alias stands for the model", fix) for each in held]
            raise Conflict(f"{name} is in use", users)
        return Deleted(id=self._made.pop(key).id)

    def with_version(self, spec: Spec) -> Spec:
        """The specification with the version for which the alias stands that it names."""
        alias = alias_in(spec)
        if alias is None or alias not in self._aliases:
            return spec
        return spec.model_copy(update={"model": self._made[self._aliases[alias]].id})

    def page(self, cursor: UUID | None, limit: int) -> Page:
        """The youngest versions, or those that are older than the cursor's."""
        every = list(reversed(self._made.items()))
        before = next((at + 1 for at, (id, _) in enumerate(every) if id == cursor), 0)
        found = every[before : before + limit]
        more = str(found[-1][0]) if len(every) > before + limit else None
        return Page(data=tuple(self._with_aliases(key) for key, _ in found), next_cursor=more)

    def faults(self, spec: Spec, where: str) -> Iterator[Complaint]:
        """What is wrong with the version that a specification names."""
        name = named_in(spec) or alias_in(spec)
        there = [known for each in self._made.values() if (known := ModelVersion.read(each.id))]
        if name is not None and name not in there:
            yield absent(name, there, f"{where}/spec/model")

    def _key(self, name: str) -> UUID:
        alias = ModelAlias.read(name)
        if alias and alias in self._aliases:
            return self._aliases[alias]
        for key, each in self._made.items():
            if each.id == name:
                return key
        raise NotFound(f"there is no model {name}")

    def _with_aliases(self, key: UUID) -> Model:
        aliases = sorted(str(each) for each, version in self._aliases.items() if version == key)
        return self._made[key].model_copy(update={"aliases": tuple(aliases)})
