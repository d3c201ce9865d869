"""Webhooks as the API shows them and is asked for them: being told of the ends of jobs instead of asking.

They follow Standard Webhooks (https://www.standardwebhooks.com): what receivers need to check a message is there.
"""

from datetime import datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator


class EventType(StrEnum):
    """What a webhook can be told: the end of a job, named by the state in which it ended."""

    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class NewWebhook(BaseModel):
    """Where to send messages, and which."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(min_length=1, max_length=2048, description="An https:// URL that answers POST with 2xx.")
    events: tuple[EventType, ...] = Field(description="The types of message to send there; at least one.")

    @field_validator("events")
    @classmethod
    def _each_once(cls, events: tuple[EventType, ...]) -> tuple[EventType, ...]:
        if not events:
            raise ValueError("a webhook wants at least one type of message")
        return tuple(dict.fromkeys(events))


class Webhook(_View):
    """Where a team is told of the ends of its jobs."""

    id: UUID
    url: str
    events: tuple[EventType, ...]
    created_at: datetime
    disabled_at: datetime | None = Field(None, description="From then on nothing is sent there.")
    disabled_because: str | None = None
    secret: str | None = Field(None, description="The key of the signatures; only in the answer that made it.")


class Webhooks(_View):
    """All webhooks of a team."""

    data: tuple[Webhook, ...]


class Delivery(_View):
    """One message to one webhook. Its id is the same in every try: the `webhook-id` of each."""

    id: UUID
    type: EventType
    job: UUID
    state: Literal["pending", "delivered", "exhausted"]
    tries: int
    next_at: datetime | None = Field(None, description="When it is tried next; null once it is settled.")
    last_status: int | None = Field(None, description="The HTTP status of the last answer.")
    last_error: str | None = Field(None, description="Why the last try did not arrive.")
    created_at: datetime


class Deliveries(_View):
    """A slice of the messages to a webhook, newest first. `next_cursor` fetches what comes after it."""

    data: tuple[Delivery, ...]
    next_cursor: str | None = None


class Ping(_View):
    """How the receiver answered a message of the type `ping`."""

    id: UUID
    delivered: bool
    status: int | None = None
    error: str | None = None
