"""What every job's specification and result have in common."""

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

ArtefactId = Annotated[UUID, Field(description="The id of an artefact of your team.")]


class Spec(BaseModel):
    """What a job is to do: the HTTP body, the stored JSON and the handler's argument, all three.

    Every kind's specification narrows `kind` to `Literal["<its name>"]`, by which the union is told apart.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str

    def inputs(self) -> tuple[UUID, ...]:
        """The artefacts that the job reads: they must be the team's own, and are handed to the worker."""
        return ()


class Result(BaseModel):
    """What a job brought back. `artefacts` maps the name of each output to its artefact's id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artefacts: dict[str, ArtefactId] = {}
