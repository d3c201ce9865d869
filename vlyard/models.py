"""Named models as the API shows them: OpenAI's model object, and what VLyard knows besides; and when there is one."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from vlyard.errors import Complaint
from vlyard.jobs.generation import ModelAlias, ModelVersion
from vlyard.jobs.spec import Spec

OUTPUT = "model"  # what makes a model calls it so, in `artefacts` and, once it has a name, in its result
# What a version's manifest tells of its job's specification, besides the result, and how it calls that.
_FROM_SPEC: Mapping[str, Mapping[str, str]] = {
    "training": {"dataset": "dataset", "seed": "seed"},
    "export": {"model": "source", "adapter": "adapter", "dataset": "dataset"},
    "import": {"source": "source", "hub": "hub"},
}
_MOST_NAMED = 10  # versions in a complaint


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class Model(_View):
    """A version of a model that a job of your team made, or that is shared with it. Specifications name its `id`."""

    id: str = Field(description="`<team>/<name>:<version>`.")
    object: Literal["model"] = "model"
    created: int = Field(description="Seconds since 1970.")
    owned_by: str = Field(description="The team.")
    name: str
    version: int = Field(description="From 1.")
    shared: bool = Field(False, description="Whether every team may use it.")
    aliases: tuple[str, ...] = Field((), description="What else it is called now: `<team>/<name>@<alias>`.")
    artefact: UUID = Field(description="The adapter or the weights, a directory.")
    base: str = Field(description="The model that learned, or that was taken out or brought in.")
    base_artefact: UUID | None = Field(None, description="Of the base that it needs, where that is one.")
    job: UUID | None = Field(None, description="The job that made it.")
    manifest: dict[str, Any] = Field({}, description="How it came to be: its dataset, and what its job told.")


class Models(_View):
    """A slice of a list. `next_cursor` fetches what comes after it, and is null at the end."""

    object: Literal["list"] = "list"
    data: tuple[Model, ...]
    next_cursor: str | None = None


class Deleted(_View):
    """That a version is no more, as OpenAI's API says it."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


def alias_in(spec: Spec) -> ModelAlias | None:
    """The alias that a specification names as its model; None where it names none."""
    model = _model_in(spec)
    return ModelAlias.read(model) if isinstance(model, str) else None


def named_in(spec: Spec) -> ModelVersion | None:
    """The version that a specification names as its model; None where it names none."""
    model = _model_in(spec)
    return ModelVersion.read(model) if isinstance(model, str) else None


def _model_in(spec: Spec) -> object:
    return vars(spec).get("model")  # to be told of a pydantic model that it has no such field takes 30 times as long


def absent(name: ModelVersion | ModelAlias, there: Sequence[ModelVersion], where: str) -> Complaint:
    """That there is no such version or alias, among the versions that there are."""
    others = [str(each) for each in there if each[:2] == name[:2]][-_MOST_NAMED:]
    fix = f"choose from {', '.join(others)}" if others else "`vlyard models` lists those that your team has"
    return Complaint(where, f"there is no model {name}", fix)


def makes_version(result: Mapping[str, Any]) -> bool:
    """Whether a result, as JSON, has a model that has no name yet."""
    return result.get(OUTPUT, "") is None and OUTPUT in (result.get("artefacts") or {})


def manifest_of(spec: Mapping[str, Any], result: Mapping[str, Any]) -> Mapping[str, Any]:
    """How a version came to be, of its job's specification and result as JSON."""
    names = _FROM_SPEC.get(str(spec.get("kind")), {})
    told = {name: spec[field] for field, name in names.items() if spec.get(field) is not None}
    return told | {name: value for name, value in result.items() if name not in {"artefacts", OUTPUT}}
