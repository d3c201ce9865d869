"""What the API says of what happened to a job. The client reads the same classes."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from vlyard.jobs.state import TERMINAL, State

STREAM_TYPE = "text/event-stream"  # https://html.spec.whatwg.org/multipage/server-sent-events.html
DONE = "done"  # the last message of a stream: the job has ended, and nothing will happen to it any more


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class Event(_View):
    """One thing that happened to a job. A job's events are numbered from 1, without gaps."""

    seq: int = Field(description="Its number among the job's events.")
    at: datetime
    type: str = Field(description="`state` (the job moved, or was asked to stop), `progress`, `metrics` or `priority`.")
    data: dict[str, Any]

    @property
    def ends(self) -> State | None:
        """The state in which this event ended the job; None where it goes on."""
        state = self.data.get("state") if self.type == "state" else None
        return State(state) if state in TERMINAL else None


class EventPage(_View):
    """A job's events in their order. `next_after` asks for what comes after them, now or later."""

    data: tuple[Event, ...]
    next_after: int
    ended: bool = Field(description="The job has ended, and these are the last of its events.")
