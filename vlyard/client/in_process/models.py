"""The named models of a VLyard in memory: made when a job that makes one succeeds. Knows no HTTP."""

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

from vlyard.errors import Complaint, NotFound
from vlyard.jobs.generation import ModelVersion
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.spec import Result, Spec
from vlyard.jobs.view import Job
from vlyard.models import OUTPUT, Model, absent, makes_version, manifest_of, named_in
from vlyard.models import Models as Page


class Models:
    """Every version of the only team."""

    def __init__(self, team: str) -> None:
        self._team = team
        self._made: dict[UUID, Model] = {}  # the oldest first

    def named(self, job: Job, result: Result) -> Result:
        """The result of a job with the name of the version that it made, where its kind makes one."""
        told, spec = result.model_dump(mode="json"), job.model_dump(mode="json")["spec"]
        if not (KINDS[job.kind].makes_model and spec["name"] and makes_version(told)):
            return result
        number = 1 + sum(each.name == spec["name"] for each in self._made.values())
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
        """The version that is called so. Raises `NotFound`."""
        found = next((each for each in self._made.values() if each.id == name), None)
        if found is None:
            raise NotFound(f"there is no model {name}")
        return found

    def page(self, cursor: UUID | None, limit: int) -> Page:
        """The youngest versions, or those that are older than the cursor's."""
        every = list(reversed(self._made.items()))
        before = next((at + 1 for at, (id, _) in enumerate(every) if id == cursor), 0)
        found = every[before : before + limit]
        more = str(found[-1][0]) if len(every) > before + limit else None
        return Page(data=tuple(model for _, model in found), next_cursor=more)

    def faults(self, spec: Spec, where: str) -> Iterator[Complaint]:
        """What is wrong with the version that a specification names."""
        version = named_in(spec)
        there = [known for each in self._made.values() if (known := ModelVersion.read(each.id))]
        if version is not None and version not in there:
            yield absent(version, there, f"{where}/spec/model")
