"""Pools as the API shows them and is asked for them: their workers, and what waits and runs there."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from vlyard.jobs.kinds import Device
from vlyard.jobs.view import POOL_PATTERN


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class NewPool(BaseModel):
    """A pool to be. Workers that name it join it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=POOL_PATTERN, description="Small letters, digits and `-`; 63 at most.")


class Worker(_View):
    """A living worker of a pool."""

    id: UUID
    name: str
    device: Device
    kinds: tuple[str, ...] = Field(description="The kinds of jobs that it runs.")
    slots: int = Field(description="How many messages it works on at once: a job each, or several short ones.")
    running: int = Field(description="How many jobs it runs now.")
    draining: bool = Field(description="It is given no more jobs.")
    silent_seconds: float = Field(description="Seconds since its last heartbeat.")
    started_at: datetime
    gpus: tuple[str, ...] = ()
    self_test: dict[str, Any] = Field({}, description="What it found out about itself at its start.")


class Load(_View):
    """How many jobs of one kind wait and run in a pool: your team's, and all teams' together."""

    kind: str
    queued: int
    running: int = Field(description="Those that a worker runs, or is about to.")
    queued_of_all: int
    running_of_all: int


class Pool(_View):
    """A set of workers that teams share."""

    name: str
    created_at: datetime
    workers: tuple[Worker, ...] = Field((), description="Those that are alive, by name.")
    load: tuple[Load, ...] = Field((), description="By kind; a kind of which nothing waits or runs is left out.")


class Pools(_View):
    """All pools, by name."""

    data: tuple[Pool, ...]
