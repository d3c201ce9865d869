"""Jobs that are done in shares: the jobs that do them, and their end when nobody waits for them any more."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from uuid import UUID

from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from control.dependencies import Wanted
from db import jobs, removals
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.state import State

_MAKERS = tuple(kind.name for kind in KINDS.values() if kind.makes_model)


def with_shares(wanted: Iterable[Wanted]) -> list[Wanted]:
    """The wanted jobs, each that is to be shared behind the jobs that do its shares: it gathers what they make."""
    everyone = []
    for each in wanted:
        shares = [
            Wanted(id, each.submission.model_copy(update={"spec": spec}), each.where, part_of=each.id)
            for id, spec in each.submission.spec.split_up(uuid7).items()
        ]
        everyone += shares
        if shares:
            gathering = each.submission.spec.gathering([share.id for share in shares])
            each = replace(each, submission=each.submission.model_copy(update={"spec": gathering}))  # noqa: PLW2901
        everyone.append(each)
    return everyone


def stop_shares(session: Session, given_up: Sequence[UUID]) -> Sequence[tuple[UUID, UUID]]:
    """Cancel what does a share of these jobs, which ended without success, and take back the models that shares made.

    Nobody shall use one that was not proved.
    Returns the (job, team) of those that have ended with that; the others are stopped by their workers.
    """
    removals.withdraw(session, given_up, _MAKERS)
    ended = []
    for job, team in jobs.lock_shares(session, given_up):
        if jobs.cancel_waiting(session, team, job):
            ended.append((job, team))
        else:
            jobs.request_cancel(session, team, job)
    return ended


def is_given_up(state: State) -> bool:
    """Whether a job in that final state needs its shares no more."""
    return state in {State.FAILED, State.CANCELLED}
