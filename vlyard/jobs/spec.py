"""What every job's specification and result have in common, and how one job names another one's output."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic.json_schema import WithJsonSchema

if TYPE_CHECKING:
    from vlyard.jobs.view import Job

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"  # of an entry of a batch, and of an output
_UUID = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_ENTRY_FORM, _JOB_FORM = f"ref:({NAME})/({NAME})", f"job:({_UUID})/({NAME})"

_LARGEST, _DEEPEST = 2**63, 64
_HALF_A_SURROGATE = re.compile("[\ud800-\udfff]")

_PLAIN = str | int | float | None

Value = TypeVar("Value")


class NoArtefact(ValueError):
    """What stands where an artefact is meant, and names none: a path, say."""


class Reference(UUID):
    """An output of another job, where that output's id is not known yet.

    It stands in for the id while a specification is checked, is written as its text, and no handler ever meets one:
    the job is blocked until each has given way to the id that it stands for. Raises `ValueError` for other texts.
    """

    text: str
    entry: str | None  # the name of an entry of the same batch, or
    job: UUID | None  # an earlier job of the team
    output: str  # the output's name in that job's `result.artefacts`

    def __init__(self, text: str) -> None:
        by_entry, by_job = re.fullmatch(_ENTRY_FORM, text), re.fullmatch(_JOB_FORM, text)
        found = by_entry or by_job
        if found is None:
            raise ValueError("an output is named as ref:<entry>/<output> or job:<job id>/<output>")
        super().__init__(int=uuid5(NAMESPACE_URL, text).int)
        facts = {"text": text, "entry": by_entry and found[1], "job": by_job and UUID(found[1]), "output": found[2]}
        vars(self).update(facts)  # past UUID's own guard: its instances never change, and neither does this one

    def __str__(self) -> str:
        return self.text

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self


def _id_or_reference(value: Any, plain: ValidatorFunctionWrapHandler) -> UUID:
    if isinstance(value, Reference):
        return value
    if isinstance(value, str) and value.startswith(("ref:", "job:")):
        return Reference(value)
    try:
        checked: UUID = plain(value)
    except ValidationError:
        raise NoArtefact("this is no artefact's id, and no output of a job, such as job:<job id>/<output>") from None
    return checked


ArtefactId = Annotated[
    UUID,
    WrapValidator(_id_or_reference),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema({
        "anyOf": [
            {"type": "string", "format": "uuid"},
            {"type": "string", "pattern": f"^{_JOB_FORM}$"},
            {"type": "string", "pattern": f"^{_ENTRY_FORM}$"},
        ],
        "description": "The id of an artefact of your team, or an output that a job will have: `job:<job id>/<output>`"
        " of an earlier job, or in a batch `ref:<entry>/<output>` of another entry.",
    }),
    Field(description="The id of an artefact of your team, or another job's output."),
]  # fmt: skip


def storable(value: Value, depth: int = 0) -> Value:
    """The value, where it can be kept as JSON for whoever reads it; raises `ValueError` that says what cannot.

    Whole numbers have 64 bits, others are finite, texts are Unicode, and nothing is nested more deeply than anybody
    would write it.
    """
    if depth > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
    if isinstance(value, str | int | float):  # what most are comes first: to ask for a model takes ten times as long
        _insist_on_storable(value)
    elif isinstance(value, list | tuple):
        for each in value:
            storable(each, depth + 1)
    elif isinstance(value, BaseModel):
        for _, each in value:
            storable(each, depth + 1)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            storable(name)
            storable(each, depth + 1)
    return value


def _insist_on_storable(value: str | int | float) -> None:
    if isinstance(value, str):
        if not value.isascii() and _HALF_A_SURROGATE.search(value):
            raise ValueError("the text holds half a surrogate pair, which is no character")
    elif isinstance(value, int):
        if not -_LARGEST <= value < _LARGEST:
            raise ValueError("a whole number has 64 bits at most")
    elif not math.isfinite(value):
        raise ValueError("a number must be finite")


class Spec(BaseModel):
    """What a job is to do: the HTTP body, the stored JSON and the handler's argument, all three.

    Every kind's specification narrows `kind` to `Literal["<its name>"]`, by which the union is told apart.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str

    @field_validator("*")
    @classmethod
    def _storable(cls, value: Value) -> Value:
        return storable(value)

    def inputs(self) -> tuple[UUID, ...]:
        """The artefacts that the job reads: they must be the team's own, and are handed to the worker."""
        return ()

    def trees(self) -> tuple[UUID, ...]:
        """Those of its inputs that may be directories."""
        return ()

    def split_up(self, new: Callable[[], UUID]) -> Mapping[UUID, "Spec"]:  # noqa: ARG002
        """The jobs that share the work, by ids that `new` makes; none where one job does it."""
        return {}

    def gathering(self, jobs: Sequence[UUID]) -> "Spec":  # noqa: ARG002
        """What is left to do once those jobs, made of `split_up`, have done their share."""
        return self

    def references(self) -> Iterator[tuple[str, Reference]]:
        """Every field that names another job's output, by its JSON pointer."""
        return ((pointer, id) for pointer, id in _ids(self, "") if isinstance(id, Reference))

    def place_of(self, artefact: UUID) -> str:
        """The JSON pointer of the first field that names the artefact; empty where none does as an id of its own."""
        return next((pointer for pointer, id in _ids(self, "") if id == artefact), "")


def _ids(value: object, pointer: str) -> Iterator[tuple[str, UUID]]:
    if isinstance(value, UUID):
        yield pointer, value
        return
    steps: Any = ()
    if isinstance(value, BaseModel):
        steps = iter(value)
    elif isinstance(value, Mapping):
        steps = value.items()
    elif isinstance(value, list | tuple):
        steps = enumerate(value)
    for step, each in steps:
        if isinstance(each, _PLAIN):
            continue
        yield from _ids(each, f"{pointer}/{str(step).replace('~', '~0').replace('/', '~1')}")


@dataclass(frozen=True)
class _Origin:
    """The job that a result is of; no part of what it says: two jobs may bring equal results."""

    job: "Job | None" = field(default=None, compare=False)


class Result(BaseModel):
    """What a job brought back. `artefacts` maps the name of each output to its artefact's id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artefacts: dict[str, UUID] = {}
    _origin: _Origin = PrivateAttr(_Origin())

    @property
    def job(self) -> "Job | None":
        """The job that brought it, where a client returned it."""
        return self._origin.job

    def of(self, job: "Job") -> Self:
        """The same, as the result of that job."""
        copy = self.model_copy()
        copy._origin = _Origin(job)
        return copy
