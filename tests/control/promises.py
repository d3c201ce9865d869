"""What the rows of a queue promise, at any moment and from one moment to the next, whatever was done in between.

Reads and compares; knows neither workers nor dispatchers.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

from sqlalchemy import Table, func, select
from sqlalchemy.orm import Session

from db.models import Artefact, Attempt, Job, JobDependency, JobEvent, Outcome
from db.queue import Pair
from vlyard.jobs.state import MOVES, TERMINAL, State

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """Everything that the database says of jobs at one moment."""

    at: datetime
    jobs: Mapping[UUID, Row]
    attempts: Mapping[UUID, list[Row]]  # of each job, in their order; so are the events
    events: Mapping[UUID, list[Row]]
    made: Mapping[UUID, list[Row]]
    needs: Mapping[UUID, frozenset[UUID]]  # the jobs that another one waits for, or waited for
    shares: Mapping[UUID, list[UUID]]  # of each job that is done in shares, in their order

    def of(self, job: UUID) -> tuple[Any, ...]:
        """All there is about one job."""
        return self.jobs[job], self.attempts[job], self.events[job], self.made[job]

    def living(self) -> list[UUID]:
        """The jobs that have not ended."""
        return [job for job, row in self.jobs.items() if row["state"] not in TERMINAL]

    def concerned(self, jobs: Collection[UUID]) -> set[UUID]:
        """These jobs and all that wait for them, or work for them, directly or through others."""
        found = set(jobs)
        while more := self._next_to(found) - found:
            found |= more
        return found

    def _next_to(self, jobs: set[UUID]) -> set[UUID]:
        waiting = {job for job, needed in self.needs.items() if needed & jobs}
        return waiting.union(*(self.shares.get(job, ()) for job in jobs))

    def is_in_vain(self, job: UUID) -> bool:
        """Whether it is a share of a job that ended without success."""
        whole = self.jobs[job]["part_of"]
        return whole is not None and self.jobs[whole]["state"] in {State.FAILED, State.CANCELLED}

    def is_stopped(self, job: UUID) -> bool:
        """Whether it has ended, or its worker is told to stop."""
        row = self.jobs[job]
        return row["state"] in TERMINAL or (row["state"] is State.RUNNING and row["cancel_requested_at"] is not None)

    def is_charged(self, job: UUID) -> bool:
        """Whether it would be held against it that its worker is lost: it was on probation, or there was no other."""
        return self.jobs[job]["alone"] or not self._is_in_company(job)

    def _is_in_company(self, job: UUID) -> bool:
        """Whether its worker holds another job, too, or has lost one since it claimed this one."""
        row = self.jobs[job]
        others = (each for of, tries in self.attempts.items() if of != job for each in tries)
        return any(
            each["worker_id"] == row["worker_id"]
            and (each["ended_at"] is None or (each["outcome"] is Outcome.LOST and each["ended_at"] > row["claimed_at"]))
            for each in others
        )

    def is_current(self, pair: Pair, state: State) -> bool:
        """Whether this attempt is the job's newest, and the job is in that state."""
        row = self.jobs[pair[0]]
        return row["attempt"] == pair[1] and row["state"] is state


def look(session: Session) -> Seen:
    """What is there now; uploads, which no job made, apart."""
    jobs = {row["id"]: dict(row) for row in session.execute(select(Job.__table__).order_by(Job.id)).mappings()}
    needs: dict[UUID, set[UUID]] = defaultdict(set)
    for job, needed in session.execute(select(JobDependency.job_id, JobDependency.needs_id)):
        needs[job].add(needed)
    shares: dict[UUID, list[UUID]] = defaultdict(list)
    for job, row in sorted(jobs.items(), key=lambda each: each[1]["spec"].get("shard") or 0):
        if row["part_of"] is not None:
            shares[row["part_of"]].append(job)
    return Seen(
        session.scalars(select(func.now())).one(),
        jobs,
        _by_job(session, Attempt.__table__, "number"),
        _by_job(session, JobEvent.__table__, "seq"),
        _by_job(session, Artefact.__table__, "id"),
        {job: frozenset(needed) for job, needed in needs.items()},
        shares,
    )


def _by_job(session: Session, table: Any, order: str) -> Mapping[UUID, list[Row]]:
    assert isinstance(table, Table)
    found: dict[UUID, list[Row]] = defaultdict(list)
    for row in session.execute(select(table).where(table.c.job_id.is_not(None)).order_by(table.c[order])).mappings():
        found[row["job_id"]].append(dict(row))
    return found


# --- at any moment --------------------------------------------------------------------------------------------


def every_job_has_a_deadline_that_somebody_enforces(now: Seen, lease_seconds: float) -> None:
    for job, row in now.jobs.items():
        match row["state"]:
            case State.BLOCKED:
                needed = {now.jobs[each]["state"] for each in now.needs[job]}
                assert not needed & {State.FAILED, State.CANCELLED}, "it waits for what will never come"
                assert needed != {State.SUCCEEDED}, "it waits for what has come"
            case State.QUEUED:
                assert row["available_at"] <= now.at or row["rung_at"] is not None, "nobody admits it after its pause"
                assert "job:" not in str(row["spec"]), "it still names another job's output"
            case State.DISPATCHED:
                assert row["rung_at"] <= now.at
            case State.RUNNING:
                assert row["lease_until"] <= now.at + timedelta(seconds=lease_seconds)
            case _:
                assert row["finished_at"] <= now.at
        assert (row["lease_until"] is not None) == (row["state"] is State.RUNNING)
        assert (row["bundle"] is None) or row["state"] not in {State.QUEUED, State.BLOCKED, State.SUCCEEDED}


def no_attempt_runs_beside_another(now: Seen) -> None:
    """Attempts follow each other, each claimed after the one before had ended, and only the newest may run."""
    for job, row in now.jobs.items():
        for before, after in pairwise(now.attempts[job]):
            assert before["number"] < after["number"]
            assert before["ended_at"] is not None
            assert before["ended_at"] <= after["started_at"]
        running = [(each["number"], each["worker_id"]) for each in now.attempts[job] if each["ended_at"] is None]
        assert running == ([(row["attempt"], row["worker_id"])] if row["state"] is State.RUNNING else [])
        assert row["failures"] <= row["max_attempts"]


def only_what_was_accepted_is_a_result(now: Seen, accepted: Mapping[UUID, int]) -> None:
    """Of each job one attempt's at most: its result, its files, its outcome, and nobody else's."""
    for job, row in now.jobs.items():
        winner = accepted.get(job)
        won = [each["number"] for each in now.attempts[job] if each["outcome"] is Outcome.SUCCEEDED]
        assert won == ([] if winner is None else [winner])
        assert {each["attempt"] for each in now.made[job]} == set(won)
        assert (row["state"] is State.SUCCEEDED) == (winner is not None)
        if row["state"] is State.CANCELLED:  # it may have what there was by then, and no file of it
            assert not (row["result"] or {}).get("artefacts")
        else:
            assert (row["result"] or {}).get("attempt") == winner


def events_tell_every_move_and_have_no_gap(now: Seen) -> None:
    """Their numbers run from 1, their states move as the table allows, and they end where the job is."""
    for job, row in now.jobs.items():
        assert [event["seq"] for event in now.events[job]] == list(range(1, row["last_event"] + 1))
        told = [event["data"] for event in now.events[job] if event["type"] == "state"]
        moves = [State(data["state"]) for data in told if not data.get("cancel_requested")]
        assert moves[0] in {State.QUEUED, State.BLOCKED}
        for before, after in pairwise(moves):
            assert after in MOVES[before], f"{before} → {after}"
        assert moves[-1] is row["state"]
        assert Counter(moves)[State.DISPATCHED] == row["attempt"]


def slots_are_not_exceeded(now: Seen, seats: Mapping[str, int]) -> None:
    """A message is one slot, from its being rung until the last of its jobs has ended."""
    held = {(row["kind"], row["bundle"] or job) for job, row in now.jobs.items() if _holds_a_slot(row)}
    for kind, count in Counter(kind for kind, _ in held).items():
        assert count <= seats[kind], f"{count} messages of kind {kind}"
    for bundle in {name for _, name in held} - now.jobs.keys():
        teams = {row["team_id"] for row in now.jobs.values() if row["bundle"] == bundle}
        assert len(teams) == 1, "two teams share a message"


def _holds_a_slot(row: Row) -> bool:
    return row["state"] in {State.DISPATCHED, State.RUNNING}


def jobs_in_shares_end_after_them(now: Seen, late: Collection[UUID]) -> None:
    """Each begins with what its shares made, fails with the first that fails, and leaves none at work when it fails.

    `late` are the shares that somebody was moving at that very moment: a dispatcher's next look is for them.
    """
    for job, shares in now.shares.items():
        row, states = now.jobs[job], {now.jobs[share]["state"] for share in shares}
        if row["state"] is State.BLOCKED:
            continue
        if row["state"] not in {State.FAILED, State.CANCELLED} or row["attempt"]:
            assert states == {State.SUCCEEDED}, "it has begun before its shares were done"
            made = [now.jobs[share]["result"]["artefacts"]["predictions"] for share in shares]
            assert row["spec"]["parts"] == made
        elif row["state"] is State.FAILED and row["error"]["code"] == "dependency_failed":
            assert any(_is_lacking(now.jobs[share]) for share in shares), "it was given up though all went well"
        for share in shares:
            assert share in late or not now.is_in_vain(share) or now.is_stopped(share), "it works for nobody"


def _is_lacking(row: Row) -> bool:
    """Whether a job has ended without the output that the one waits for whose share it is."""
    return row["state"] in TERMINAL and "predictions" not in (row["result"] or {}).get("artefacts", {})


# --- from one moment to the next ------------------------------------------------------------------------------


def what_has_ended_never_changes(before: Seen, now: Seen) -> None:
    for job in before.jobs.keys() - set(before.living()):
        assert now.of(job) == before.of(job)


def nothing_goes_back(before: Seen, now: Seen) -> None:
    for job, row in before.jobs.items():
        assert now.jobs[job]["attempt"] >= row["attempt"]
        assert now.jobs[job]["failures"] >= row["failures"]
        assert now.events[job][: len(before.events[job])] == before.events[job]


def nothing_changed(before: Seen, now: Seen, but: Collection[UUID] = ()) -> None:
    """Neither do those change that wait for something else than what is left out."""
    for job in before.jobs.keys() - before.concerned(but):
        assert now.of(job) == before.of(job)
