"""What is known of a job's place: who it waits for, who goes first, who could run it. The words are elsewhere."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sqlalchemy.orm import Session

from control import fairshare
from control.fairshare import Slots, Waiting
from db import queue, workers
from db.models import Job, Worker
from vlyard.jobs import view
from vlyard.jobs.state import State
from vlyard.jobs.why import FARTHEST, MOST_NAMED, Facts, Line, Need, Staff

_LOOKS = (32, 256, FARTHEST + 1)  # at so many jobs of each team and kind, until that tells the place


def facts_of(session: Session, row: Job, shown: view.Job, fresh_seconds: float) -> Facts:
    """What there is to say of a job's place; `shown` is the job as the API shows it.

    A worker is alive while its heartbeat is no older than so many seconds.
    """
    since = row.finished_at or row.started_at or row.claimed_at
    known = Facts(shown, row.max_attempts, queue.now(session), since, lease_until=row.lease_until)
    gather = _BY_STATE.get(row.state)
    return gather(session, row, known, fresh_seconds) if gather else known


def _blocked(session: Session, row: Job, known: Facts, _fresh_seconds: float) -> Facts:
    needs, lacking = queue.needs(session, row.id, MOST_NAMED)
    return replace(known, since=row.created_at, needs=[Need.model_validate(each) for each in needs], lacking=lacking)


def _queued(session: Session, row: Job, known: Facts, fresh_seconds: float) -> Facts:
    if row.rung_at is not None:  # until a dispatcher lets it stand in the line again
        return replace(known, since=row.rung_at, until=row.available_at)
    living = workers.living(session, row.pool, fresh_seconds)
    rivals = (each.kinds for each in living if row.kind in each.kinds and not each.draining)
    line = _line(session, row, frozenset([row.kind]).union(*rivals))
    return replace(known, since=row.available_at, staff=_staff(session, row, living, fresh_seconds), line=line)


def _dispatched(session: Session, row: Job, known: Facts, fresh_seconds: float) -> Facts:
    living = workers.living(session, row.pool, fresh_seconds)
    staff = _staff(session, row, living, fresh_seconds)
    return replace(known, since=row.dispatched_at, staff=staff, alone=row.alone)


_BY_STATE: Mapping[State, Callable[[Session, Job, Facts, float], Facts]] = {
    State.BLOCKED: _blocked,
    State.QUEUED: _queued,
    State.DISPATCHED: _dispatched,
}


def _staff(session: Session, row: Job, living: Sequence[Worker], fresh_seconds: float) -> Staff:
    """Who could run the job. A slot is free for it where the dispatcher could seat one job of its kind more."""
    serving = [each for each in living if row.kind in each.kinds]
    taking = [each for each in serving if not each.draining]
    slots = sum(each.slots for each in taking)
    return Staff(len(taking), len(serving) - len(taking), slots, slots - _free(session, row, living, fresh_seconds))


def _free(session: Session, row: Job, living: Sequence[Worker], fresh_seconds: float) -> int:
    groups = [Slots(frozenset(each.kinds), each.slots) for each in living if not each.draining]
    demand = Counter[str]()
    for _, kind, count in queue.held(session, row.pool, fresh_seconds):
        demand[kind] += count
    most = sum(group.count for group in groups if row.kind in group.kinds)
    return fairshare.seated(demand + Counter({row.kind: most}), groups) - fairshare.seated(demand, groups)


def _line(session: Session, row: Job, kinds: frozenset[str]) -> Line:
    """The jobs that go first, by the dispatcher's own rule, among those that the same workers could run."""
    own = queue.first_of_team(session, row, kinds, FARTHEST + 1)
    if own > FARTHEST:
        return Line(own)
    for most in _LOOKS:
        waiting = [Waiting(*each) for each in queue.waiting(session, row.pool, dict.fromkeys(kinds, most))]
        line = fairshare.choose(waiting, [], {}, {}, [Slots(kinds, FARTHEST + 1)])
        first = line[: _place(line, row)]
        if len(first) > FARTHEST or (len(first) < len(line) and not _cut_short(first, most)):
            break
    return Line(own, max(len(first) - own, 0))


def _place(line: Sequence[Waiting], row: Job) -> int:
    """Where in the line the job is; behind its end, where it is not in it."""
    return next((at for at, each in enumerate(line) if each.job == row.id), len(line))


def _cut_short(first: Sequence[Waiting], most: int) -> bool:
    """Whether somebody whose jobs all go first may have more of them than were looked at."""
    return max(Counter((each.team, each.kind) for each in first).values(), default=0) >= most
