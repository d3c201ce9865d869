"""What follows from the end of a job, in the same transaction: whoever waits for it learns of it, whatever happens."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from control import dependencies
from control.sharding import is_given_up, stop_shares
from db import webhooks
from vlyard.jobs.state import State


@dataclass(frozen=True)
class Ended:
    """A job that has just reached a state that it will not leave."""

    job: UUID
    team: UUID
    state: State


def _tell_webhooks(session: Session, ended: Sequence[Ended]) -> None:
    webhooks.enqueue(session, [each.job for each in ended])


FOLLOW_UPS: tuple[Callable[[Session, Sequence[Ended]], None], ...] = (_tell_webhooks,)


def stop_orphans(session: Session, given_up: Collection[UUID]) -> int:
    """Stop what still does a share of these jobs, which have ended: somebody held it then; returns how many jobs."""
    stopped = stop_shares(session, list(given_up))
    follow_up(session, [Ended(job, team, State.CANCELLED) for job, team in stopped])
    return len(given_up)


def follow_up(session: Session, ended: Sequence[Ended]) -> None:
    """Do everything that follows from the ends of these jobs, and of those that end because of them."""
    while ended:
        for each in FOLLOW_UPS:
            each(session, ended)
        failed = dependencies.settle(session, [each.job for each in ended])
        given_up = [each.job for each in ended if is_given_up(each.state)]
        stopped = stop_shares(session, given_up) if given_up else ()
        ended = [
            *(Ended(job, team, State.FAILED) for job, team in failed),
            *(Ended(job, team, State.CANCELLED) for job, team in stopped),
        ]
