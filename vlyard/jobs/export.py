"""Taking a model out: its adapter merged into its base, as one complete folder that loads everywhere."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from vlyard.jobs.conversion import NAME_PATTERN
from vlyard.jobs.generation import ModelId
from vlyard.jobs.spec import ArtefactId, Result, Spec

MODEL = "model"  # the output's name


class ExportSpec(Spec):
    kind: Literal["export"] = "export"
    model: ModelId = Field(
        description="What is taken out: `<team>/<name>:<version>`, what a training made (`job:<id>/model`), `demo`, "
        "`hub:<owner>/<name>`, or a checkpoint as an artefact. An adapter that a training made is merged into its base."
    )
    adapter: ArtefactId | None = Field(None, description="An adapter, as PEFT saves it, to merge into `model`.")
    name: Annotated[str, StringConstraints(pattern=NAME_PATTERN)] | None = Field(
        None, description="Make the export a version of a model that is called so."
    )
    dtype: Literal["bf16", "fp16", "fp32"] | None = Field(None, description="Of the weights. Default: the base's own.")
    shard_bytes: int = Field(5_000_000_000, ge=1_000_000, description="The largest file of weights.")
    folder: str | None = Field(
        None, pattern=NAME_PATTERN, description="Also put it into a new folder of the operator's export directory."
    )

    def inputs(self) -> tuple[UUID, ...]:
        return tuple(each for each in (self.model, self.adapter) if isinstance(each, UUID))

    def trees(self) -> tuple[UUID, ...]:
        return self.inputs()


class ExportResult(Result):
    model: str | None = Field(None, description="The version that it became, where it was given a name.")
    base: str = Field(description="The model that was named; of a hub's with the revision that it was.")
    merged: bool = Field(description="Whether an adapter was merged in.")
    dtype: str = Field(description="Of the weights: one type, or `mixed`.")
    parameters: int = Field(description="Of the model.")
    bytes: int = Field(description="Of the weights.")
    files: dict[str, str] = Field(description="The SHA-256 of each file of the export.")
    folder: str | None = Field(None, description="Where it was put in the operator's export directory.")
