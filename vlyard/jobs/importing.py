"""Bringing weights in: looked at once, stored once, and from then on a named version for everybody who may use it."""

from typing import Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from vlyard.jobs.conversion import NAME_PATTERN
from vlyard.jobs.generation import ModelId
from vlyard.jobs.spec import Result, Spec

MODEL = "model"  # the output's name
HUB = "hub:"  # what the name of a hub's model begins with


class ImportSpec(Spec):
    kind: Literal["import"] = "import"
    source: ModelId = Field(
        description="Where the weights are: `hub:<owner>/<name>` with an optional `@<revision>`, the name of a folder "
        "in the worker's model directory, or an artefact: a directory, or a zip or tar of one."
    )
    hub: Literal["huggingface", "modelscope"] | None = Field(
        None, description="Which hub, or its mirror if the operator set one; default: the operator's choice."
    )
    name: str = Field(
        pattern=NAME_PATTERN, description="What the model is called: it becomes `<team>/<name>:<version>`."
    )

    shared: bool | None = Field(
        None,
        description="Let every team use it, which only an administrator may. Default: an administrator's imports are "
        "for every team, a member's for their own.",
    )

    @model_validator(mode="after")
    def _hub_has_it(self) -> Self:
        if self.hub is not None and not str(self.source).startswith(HUB):
            raise ValueError(f"{self.source} is not on a hub: leave hub out, or name the source hub:<owner>/<name>")
        return self

    def inputs(self) -> tuple[UUID, ...]:
        return (self.source,) if isinstance(self.source, UUID) else ()

    def trees(self) -> tuple[UUID, ...]:
        return self.inputs()


class ImportResult(Result):
    model: str | None = Field(None, description="The version that it became, `<team>/<name>:<version>`.")
    base: str = Field(description="Where it came from; of a hub's model with the revision that it was.")
    architecture: str = Field(description="As its config.json names it.")
    parameters: int = Field(description="Of the model.")
    dtype: str = Field(description="Of the weights: one type, or `mixed`.")
    bytes: int = Field(description="Of all files together.")
    files: dict[str, str] = Field(description="The SHA-256 of each file.")
