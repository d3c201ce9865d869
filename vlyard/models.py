"""Named models as the API shows them: OpenAI's model object, and what VLyard knows besides; and when there is one."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from vlyard.errors import Complaint
from vlyard.jobs.generation import ModelVersion
from vlyard.jobs.spec import Spec

OUTPUT = "model"  # what makes a model calls it so, in `artefacts` and, once it has a name, in its result
_FROM_SPEC = ("dataset", "seed")  # what a version's manifest tells of the specification, besides the result
_MOST_NAMED = 10  # versions in a complaint


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class Model(_View):
    """A version of a model that a job of your team made. `id` is what specifications name."""

    id: str = Field(description="`<team>/<name>:<version>`.")
    object: Literal["model"] = "model"
    created: int = Field(description="Seconds since 1970.")
    owned_by: str = Field(description="The team.")
    name: str
    version: int = Field(description="From 1.")
    artefact: UUID = Field(description="The adapter or the weights, a directory.")
    base: str = Field(description="The model that learned.")
    base_artefact: UUID | None = Field(None, description="Of the base, where it is one.")
    job: UUID | None = Field(None, description="The job that made it.")
    manifest: dict[str, Any] = Field({}, description="How it came to be: its dataset, and what its job told.")


class Models(_View):
    """A slice of a list. `next_cursor` fetches what comes after it, and is null at the end."""

    object: Literal["list"] = "list"
    data: tuple[Model, ...]
    next_cursor: str | None = None


def named_in(spec: Spec) -> ModelVersion | None:
    """The version that a specification names as its model; None where it names none."""
    model = getattr(spec, "model", None)
    return ModelVersion.read(model) if isinstance(model, str) else None


def absent(version: ModelVersion, there: Sequence[ModelVersion], where: str) -> Complaint:
    """That there is no such version, among those that there are."""
    others = [str(each) for each in there if each[:2] == version[:2]][-_MOST_NAMED:]
    fix = f"choose from {', '.join(others)}" if others else "`vlyard models` lists those that your team has"
    return Complaint(where, f"there is no model {version}", fix)


def makes_version(result: Mapping[str, Any]) -> bool:
    """Whether a result, as JSON, has a model that has no name yet."""
    return result.get(OUTPUT, "") is None and OUTPUT in (result.get("artefacts") or {})


def manifest_of(spec: Mapping[str, Any], result: Mapping[str, Any]) -> Mapping[str, Any]:
    """How a version came to be, of its job's specification and result as JSON."""
    told = {name: spec[name] for name in _FROM_SPEC if name in spec}
    return told | {name: value for name, value in result.items() if name not in {"artefacts", OUTPUT}}
