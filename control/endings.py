"""What follows from the end of a job, in the same transaction: whoever waits for it learns of it, whatever happens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from vlyard.jobs.state import State


@dataclass(frozen=True)
class Ended:
    """A job that has just reached a state that it will not leave."""

    job: UUID
    team: UUID
    state: State


FOLLOW_UPS: tuple[Callable[[Session, Sequence[Ended]], None], ...] = ()


def follow_up(session: Session, ended: Sequence[Ended]) -> None:
    """Do everything that follows from the ends of these jobs."""
    if ended:
        for each in FOLLOW_UPS:
            each(session, ended)
