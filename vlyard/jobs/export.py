"""Taking a model out: its adapter merged in, one complete folder that loads everywhere, proved to be the same model.

An export that is verified is three jobs: one that writes the folder, a verification that looks at it, and the one that
was asked for, which ends well when both did, and then brings the folder to where it was to go. `control/sharding.py`
makes them when it is submitted.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from vlyard.jobs.conversion import NAME_PATTERN
from vlyard.jobs.generation import MODEL_REPOSITORY, ModelId
from vlyard.jobs.spec import ArtefactId, Reference, Result, Spec
from vlyard.jobs.verification import REPORT, Checked, VerificationSpec

MODEL, SUMMARY = "model", "summary"  # the outputs' names, beside the verification's report
Format = Literal["safetensors", "int8", "int4", "gguf"]
Dtype = Literal["bf16", "fp16", "fp32"]


class Stage(BaseModel):
    """A job of the history of a model."""

    model_config = ConfigDict(frozen=True)

    kind: str
    job: UUID
    figures: dict[str, float] = Field({}, description="The most telling numbers of its result.")


class Provenance(BaseModel):
    """Where a version of a model comes from, as its card tells it."""

    model_config = ConfigDict(frozen=True)

    model: str = Field(description="The version.")
    base: str = Field(description="What it was made of.")
    stages: tuple[Stage, ...] = Field((), description="From the conversion of its dataset to its evaluations.")


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
    format: Format = Field(
        "safetensors", description="What the weights are: whole, weight-only in 8 or 4 bits, or for llama.cpp."
    )
    dtype: Dtype | None = Field(None, description="Of whole weights. Default: the base's own.")
    shard_bytes: int = Field(5_000_000_000, ge=1_000_000, description="The largest file of weights.")

    dataset: ArtefactId | None = Field(
        None,
        description="A converted dataset, about whose pictures both models are asked; default: the one that the model "
        "learned from where that is still there, else drawn pictures.",
    )
    samples: int = Field(8, ge=1, le=1_000, description="How many questions that takes.")
    verify: bool = Field(True, description="Do not succeed before the export was loaded and compared.")

    folder: str | None = Field(
        None, pattern=NAME_PATTERN, description="Also put it into a new folder of the operator's export directory."
    )
    push_to: Literal["huggingface", "modelscope"] | None = Field(
        None, description="Also send it to a hub, with the token that the operator gave the workers."
    )
    repository: str | None = Field(
        None, pattern=f"^{MODEL_REPOSITORY}$", max_length=200, description="Where on the hub: `<owner>/<name>`."
    )
    private: bool = Field(True, description="Make the repository a private one, where it has to be made.")

    lineage: Provenance | None = Field(None, description="Set by VLyard: where the version comes from, for its card.")
    written: ArtefactId | None = Field(None, description="Set by VLyard: what another job has written.")
    summary: ArtefactId | None = Field(None, description="Set by VLyard: what that job said of it.")
    verified: ArtefactId | None = Field(None, description="Set by VLyard: the report of what was written.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.push_to is None) != (self.repository is None):
            raise ValueError("push_to and repository belong together: give both or neither")
        if self.dtype is not None and self.format != "safetensors":
            raise ValueError("dtype is for format safetensors: the other formats have their own")
        if self.name is not None and self.format != "safetensors":
            raise ValueError("only whole weights (format safetensors) become a version that jobs can use: give no name")
        return self

    def inputs(self) -> tuple[UUID, ...]:
        if self.written is not None:
            return tuple(each for each in (self.written, self.summary, self.verified) if each is not None)
        return tuple(each for each in (self.model, self.adapter) if isinstance(each, UUID))

    def trees(self) -> tuple[UUID, ...]:
        return tuple(each for each in self.inputs() if each not in {self.summary, self.verified})

    def split_up(self, new: Callable[[], UUID]) -> Mapping[UUID, Spec]:
        if not self.verify or self.written is not None:
            return {}
        writing, verifying = new(), new()
        verification = VerificationSpec(
            export=Reference(f"job:{writing}/{MODEL}"),
            model=self.model,
            adapter=self.adapter,
            dataset=self.dataset,
            samples=self.samples,
            dtype=(self.dtype or "base") if self.format == "safetensors" else self.format,
            summary=Reference(f"job:{writing}/{SUMMARY}"),
        )
        return {writing: self.model_copy(update={"name": None}), verifying: verification}

    def gathering(self, jobs: Sequence[UUID]) -> "ExportSpec":
        writing, verifying = jobs
        outputs = {"written": (writing, MODEL), "summary": (writing, SUMMARY), "verified": (verifying, REPORT)}
        return self.model_copy(
            update={field: Reference(f"job:{job}/{output}") for field, (job, output) in outputs.items()}
        )


class ExportResult(Result):
    model: str | None = Field(None, description="The version that it became, where it was given a name.")
    base: str = Field(description="The model that was named; of a hub's with the revision that it was.")
    merged: bool = Field(description="Whether an adapter was merged in.")
    format: Format
    dtype: str = Field(description="Of the weights: one type, or `mixed`.")
    parameters: int = Field(description="Of the model.")
    bytes: int = Field(description="Of all files of the export together.")
    files: dict[str, str] = Field(description="The SHA-256 of each file of the export.")
    verification: tuple[Checked, ...] = Field((), description="What was compared; none where it was not verified.")
    folder: str | None = Field(None, description="Where it was put in the operator's export directory.")
    pushed: str | None = Field(None, description="Where it was sent: `hub:<owner>/<name>` with the revision.")
