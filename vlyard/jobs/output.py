"""What the API says of what a job brings forth besides its result. The client reads the same classes."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from vlyard.jobs.view import Artefact


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class LogPiece(_View):
    """Whole lines that an attempt's handler said one after the other. An attempt's pieces are numbered from 1."""

    seq: int = Field(description="Its number among the pieces of the attempt's log.")
    at: datetime
    text: str


class LogPage(_View):
    """An attempt's log in its order. `next_after` asks for what comes after it, now or later."""

    attempt: int
    data: tuple[LogPiece, ...]
    next_after: int
    ended: bool = Field(description="The attempt has ended, and these are the last of its lines.")


class Artefacts(_View):
    """The files that a job made, oldest first."""

    data: tuple[Artefact, ...]
