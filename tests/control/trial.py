"""A queue on trial: each act is done by the real parts, and its effect compared with what the rows said before.

The dispatcher's ticks are real ones, and the doorbells are read from the Redis that it rings. Nothing here chooses
what happens; whoever does, does it in any order.
"""

import base64
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import delete, update
from uuid_utils.compat import uuid7

from control import lifecycle, operations, submit
from control.accounts import Caller
from control.dispatcher import Dispatcher
from control.failures import failure_of
from control.lifecycle import Ending, Rules
from control.queue import Doorbells, queue_name
from control.retrying import Backoff
from db import artefacts, leases, queue
from db.clock import from_now
from db.models import Artefact, Attempt, Job, JobDependency, JobEvent, Outcome
from db.queue import Pair
from tests.control import promises
from tests.control.promises import Row, Seen, look
from tests.db import rows
from tests.system import System
from vlyard.errors import Blame, Conflict, InvalidInput, VLyardError
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.state import TERMINAL, State
from vlyard.jobs.view import Batch
from vlyard.teams import Role

LEASE_SECONDS = 600.0
# A slot for each kind, for short jobs four messages more that wait for it, and for shares a second one.
SEATS = {"noop": 5, "conversion": 1, "prediction": 2}
RULES = Rules(LEASE_SECONDS, Backoff(600, 600), Random(1))  # so that a pause ends when the test says so

_LONG = timedelta(minutes=30)  # longer than a doorbell is waited for; what passes is twice that

Told = tuple[Outcome, VLyardError | None]  # how a worker says that an attempt ended


class Trial:
    """Two teams and two workers on a VLyard of a test's own."""

    def __init__(self, vlyard: System) -> None:
        self.vlyard = vlyard
        self.doorbells = Doorbells(vlyard.settings)
        self.redis = redis.Redis.from_url(vlyard.settings.redis_url.get_secret_value())
        self.workers: list[UUID] = []
        with vlyard.database.transaction() as session:
            self.callers = [Caller(rows.team(session), Role.ADMIN) for _ in range(2)]
            for kind in SEATS:  # whose messages may come to any of them
                slots = 2 if kind == "prediction" else 1
                worker = rows.worker(session, kinds=[kind], device=KINDS[kind].device, slots=slots)
                self.workers.append(worker)
            self.uploads = {caller.team: uuid7() for caller in self.callers}
            artefacts.insert_ready(session, [{"team_id": team, **_file(id)} for team, id in self.uploads.items()])
        self.begin()

    def begin(self) -> None:
        """Forget all jobs."""
        self.rung: list[list[Pair]] = []  # every message that was ever sent, answered or not
        self.claimed: list[tuple[UUID, Pair]] = []  # all that a worker ever held, and may think it holds
        self.accepted: dict[UUID, int] = {}  # whose result was taken
        self.late: set[UUID] = set()  # shares that were being ended while a dispatcher looked
        with self.vlyard.database.transaction() as session:
            for table in (JobEvent, Attempt, JobDependency):
                session.execute(delete(table))
            session.execute(delete(Artefact).where(Artefact.job_id.is_not(None)))
            session.execute(delete(Job))
            self.seen = look(session)

    def see(self) -> Seen:
        """Look again: what is promised holds, by itself and compared with the look before, which is returned."""
        before = self.seen
        with self.vlyard.database.transaction() as session:
            now = look(session)
        promises.every_job_has_a_deadline_that_somebody_enforces(now, LEASE_SECONDS)
        promises.no_attempt_runs_beside_another(now)
        promises.only_what_was_accepted_is_a_result(now, self.accepted)
        promises.events_tell_every_move_and_have_no_gap(now)
        promises.slots_are_not_exceeded(now, SEATS)
        promises.jobs_in_shares_end_after_them(now, self.late)
        promises.what_has_ended_never_changes(before, now)
        promises.nothing_goes_back(before, now)
        self.seen = now
        return before

    # --- owners -----------------------------------------------------------------------------------------------

    def submit(self, caller: Caller, jobs: Sequence[Mapping[str, Any]], max_attempts: int) -> None:
        with self.vlyard.database.transaction() as session:
            made = [job.id for job in submit.submit_batch(session, caller, Batch.model_validate({"jobs": jobs}), None)]
            all_of_them = Job.id.in_(made) | Job.part_of.in_(made)
            session.execute(update(Job).where(all_of_them).values(max_attempts=max_attempts))
        self.see()

    def owner(self, job: UUID) -> Caller:
        return next(caller for caller in self.callers if caller.team == self.seen.jobs[job]["team_id"])

    def output_of(self, job: UUID) -> str:
        """What its output is called that others may wait for."""
        return "predictions" if self.seen.jobs[job]["kind"] == "prediction" else "dataset"

    def can_have_output_of(self, job: UUID) -> bool:
        """Whether another job may still wait for this one's output, or have it at once."""
        row = self.seen.jobs[job]
        if row["state"] is State.SUCCEEDED:
            return self.output_of(job) in row["result"]["artefacts"]
        return row["state"] not in TERMINAL

    def cancel(self, job: UUID) -> None:
        state = self.seen.jobs[job]["state"]
        with self._refused(Conflict if state in TERMINAL else None), self.vlyard.database.transaction() as session:
            row = operations.cancel(session, self.owner(job), job, None)
            assert row.state is (State.RUNNING if state is State.RUNNING else State.CANCELLED)
            assert row.cancel_requested_at is not None
        self.see()

    def retry(self, job: UUID, key: str) -> None:
        """Asked twice with the same key, as a client does whose connection broke."""
        row = self.seen.jobs[job]
        needed = self.seen.needs.get(job, frozenset()) if "job:" in row["spec"].get("source", "") else frozenset()
        wrong: type[VLyardError] | None = None if row["state"] in TERMINAL else Conflict
        if not wrong and not all(map(self.can_have_output_of, needed)):
            wrong = InvalidInput
        with self._refused(wrong), self.vlyard.database.transaction() as session:
            new = operations.retry(session, self.owner(job), job, key)
            assert operations.retry(session, self.owner(job), job, key).id == new.id != job
            ready = needed <= self.accepted.keys() and job not in self.seen.shares  # it is shared anew
            assert new.state is (State.QUEUED if ready else State.BLOCKED)
        self.see()

    def reprioritise(self, job: UUID, priority: int) -> None:
        waiting = self.seen.jobs[job]["state"] in {State.QUEUED, State.BLOCKED}
        with self._refused(None if waiting else Conflict), self.vlyard.database.transaction() as session:
            assert operations.reprioritise(session, self.owner(job), job, priority, None).priority == priority
        self.see()

    @contextmanager
    def _refused(self, error: type[VLyardError] | None) -> Iterator[None]:
        """The block raises this error, or none."""
        if error is None:
            yield
            return
        with pytest.raises(error):
            yield

    # --- dispatchers ------------------------------------------------------------------------------------------

    def tick(self, busy: Collection[UUID] = ()) -> None:
        """One look of a dispatcher that has just started; it neither touches `busy` jobs nor waits for them."""
        Dispatcher(self.vlyard.database, self.doorbells, self.vlyard.settings, RULES).tick()
        messages = self._read_messages()
        self.rung += messages
        before, now = self.see(), self.seen
        concerned = now.concerned(busy)
        for job, row in before.jobs.items():
            if job in busy or row["state"] in TERMINAL or _is_held_well(before, row):
                assert now.of(job) == before.of(job) or _is_only_told_to_stop(before, now, job)
            elif job not in concerned:
                _is_where_a_tick_leaves_it(before, now, job)
            if job in self.late and not busy and row["state"] in {State.DISPATCHED, State.RUNNING}:
                assert now.is_stopped(job) or not before.is_in_vain(job)
        due = {(job, row["attempt"]) for job, row in now.jobs.items() if _is_rung(before, job, row)}
        rung = [pair for pairs in messages for pair in pairs]
        assert sorted(rung) == sorted(due), f"{set(rung) ^ due}: {len(rung)} of {len(due)}"

    def dispatch(self, jobs: Sequence[UUID]) -> None:
        """A dispatcher that was frozen after it had chosen finds that its jobs have moved on."""
        with self.vlyard.database.transaction() as session:
            assert queue.dispatch(session, [jobs]) == []
        promises.nothing_changed(self.see(), self.seen)

    def _read_messages(self) -> list[list[Pair]]:
        found = []
        for kind in SEATS:
            name = f"{self.vlyard.settings.redis_prefix}{queue_name(KINDS[kind].device, 'default', kind)}"
            lines: Any = self.redis.lrange(name, 0, -1)
            self.redis.delete(name)
            for line in lines:
                [pairs], _, _ = json.loads(base64.b64decode(json.loads(line)["body"]))
                found.append(sorted((UUID(job), attempt) for job, attempt in pairs))
        return sorted(found)

    # --- workers ----------------------------------------------------------------------------------------------

    def claim(self, worker: UUID, message: Sequence[Pair]) -> None:
        with self.vlyard.database.transaction() as session:
            claimed = lifecycle.claim(session, worker, message, RULES)
        before = self.see()
        taken = [(each.job, each.attempt) for each in claimed]
        assert taken == [pair for pair in message if before.is_current(pair, State.DISPATCHED)]
        promises.nothing_changed(before, self.seen, but={job for job, _ in taken})
        self.claimed += [(worker, pair) for pair in taken]

    def held(self, worker: UUID, pairs: Sequence[Pair]) -> list[Pair]:
        """Those of the attempts that are the worker's now."""
        mine = [pair for pair in pairs if self.seen.is_current(pair, State.RUNNING)]
        return [pair for pair in mine if self.seen.jobs[pair[0]]["worker_id"] == worker]

    def renew(self, worker: UUID, pairs: Sequence[Pair]) -> None:
        """A worker's beat, for whatever it thinks it holds."""
        held = self.held(worker, pairs)
        with self.vlyard.database.transaction() as session:
            renewed = leases.renew(session, worker, pairs, LEASE_SECONDS)
            leases.note_starts(session, worker, dict.fromkeys(pairs, 1.0))
            for pair in pairs:
                leases.record_progress(session, worker, pair, {"text": f"attempt {pair[1]}"})
        before, now = self.see(), self.seen
        asked = {pair: before.jobs[pair[0]]["cancel_requested_at"] is not None for pair in held}
        assert {(each.job, each.attempt): each.cancel_requested for each in renewed} == asked
        promises.nothing_changed(before, now, but={job for job, _ in held})
        for job, attempt in held:
            assert now.jobs[job]["lease_until"] > now.at
            assert now.jobs[job]["progress"] == {"text": f"attempt {attempt}"}

    def finish(self, worker: UUID, told: Mapping[Pair, Told], *, amid_a_tick: bool = False) -> None:
        """A worker records how attempts ended, also those that it has lost; a dispatcher may look before it commits."""
        endings = [_ending(pair, *how) for pair, how in told.items()]
        held = self.held(worker, list(told))
        ending = {job for job, _ in held}
        with self.vlyard.database.transaction() as session:
            done = lifecycle.finish(session, worker, endings, RULES)
            if amid_a_tick and not self._has_overdue_company(ending):
                self.late |= {job for job in ending if self.seen.jobs[job]["part_of"]}
                self.tick(busy=ending)
        self.accepted |= {job: attempt for (job, attempt), state in done.items() if state is State.SUCCEEDED}
        before, now = self.see(), self.seen
        assert done == {pair: _target(before, pair, *told[pair]) for pair in held}
        promises.nothing_changed(before, now, but={job for job, _ in held})
        for (job, attempt), state in done.items():
            assert now.jobs[job]["state"] in _may_be_after(now, job, state)
            if told[job, attempt][0] is Outcome.RELEASED:  # as if it had never been begun
                assert now.jobs[job]["failures"] == before.jobs[job]["failures"]

    def _has_overdue_company(self, jobs: Collection[UUID]) -> bool:
        """Whether a tick would close another share of the same job, and wait for who ends these to have moved that."""
        families = {self.seen.jobs[job]["part_of"] for job in jobs} - {None}
        others = (
            self.seen.jobs[share] for family in families for share in self.seen.shares[family] if share not in jobs
        )
        return any(_is_overdue(self.seen, row) for row in others)

    # --- time -------------------------------------------------------------------------------------------------

    def pass_time(self, what: Any, jobs: Collection[UUID]) -> None:
        """A lease, a doorbell or the time in which a job is worth starting is long past, and nobody did anything."""
        moved = update(Job).where(Job.id.in_(jobs), what.is_not(None)).values({what: from_now(-3600)})
        with self.vlyard.database.transaction() as session:
            session.execute(moved)
            self.seen = replace(self.seen, jobs=look(session).jobs)


# --- what has to come of it -----------------------------------------------------------------------------------


def _is_where_a_tick_leaves_it(before: Seen, now: Seen, job: UUID) -> None:
    """A job that no worker holds well moves on as it has to, and only what was lost alone counts against it."""
    row, after = before.jobs[job], now.jobs[job]
    allowed = {state for each in _after_tick(before, row) for state in _may_be_after(now, job, each)}
    assert after["state"] in allowed, f"{row['state']} → {after['state']}"
    lost = row["state"] is State.RUNNING and not row["cancel_requested_at"]
    assert after["failures"] == row["failures"] + int(lost and before.is_charged(job))
    if lost and after["state"] is not State.FAILED:
        assert after["alone"]
        assert after["bundle"] is None


def _after_tick(before: Seen, row: Row) -> Collection[State]:
    waits = row["state"] is not State.RUNNING
    if _is_past(before, row["expires_at"]) and (waits or _is_tried_again(before, row)):
        return {State.FAILED}
    if not waits:
        lost = {State.QUEUED, State.DISPATCHED} if _is_tried_again(before, row) else {State.FAILED}
        return {State.CANCELLED} if row["cancel_requested_at"] else lost
    return {
        State.BLOCKED: {State.BLOCKED, State.FAILED},  # what it needs may have ended in the same tick
        State.QUEUED: {State.QUEUED, State.DISPATCHED},
        State.DISPATCHED: {State.DISPATCHED},
    }[row["state"]]


def _may_be_after(now: Seen, job: UUID, state: State) -> Collection[State]:
    """Where a job may be that was to go there: a share that still waits is cancelled with the job that is given up."""
    return {state, State.CANCELLED} if now.is_in_vain(job) and state not in TERMINAL else {state}


def _is_only_told_to_stop(before: Seen, now: Seen, job: UUID) -> bool:
    """Whether all that happened to a share is that its worker hears that nobody waits for it any more."""
    row, after = before.jobs[job], now.jobs[job]
    told = {"cancel_requested_at": after["cancel_requested_at"], "last_event": row["last_event"] + 1}
    return (
        now.is_in_vain(job) and row["cancel_requested_at"] is None and after == {**row, **told} and now.is_stopped(job)
    )


def _is_overdue(now: Seen, row: Row) -> bool:
    """Whether a dispatcher's next look closes it."""
    waits = row["state"] not in TERMINAL and row["state"] is not State.RUNNING
    return _is_past(now, row["lease_until"]) or (waits and _is_past(now, row["expires_at"]))


def _is_tried_again(before: Seen, row: Row) -> bool:
    """Whether a job that is lost may run once more."""
    if row["cancel_requested_at"]:
        return False
    return not before.is_charged(row["id"]) or row["failures"] + 1 < row["max_attempts"]


def _is_held_well(before: Seen, row: Row) -> bool:
    return row["state"] is State.RUNNING and not _is_past(before, row["lease_until"])


def _is_rung(before: Seen, job: UUID, row: Row) -> bool:
    """Whether a job that is dispatched now was sent a message since then."""
    if row["state"] is not State.DISPATCHED:
        return False
    return before.jobs[job]["attempt"] < row["attempt"] or _is_past(before, before.jobs[job]["rung_at"] + _LONG)


def _is_past(before: Seen, moment: Any) -> bool:
    return moment is not None and moment < before.at


def _target(before: Seen, pair: Pair, outcome: Outcome, error: VLyardError | None) -> State:
    """Where a job goes whose attempt ended so."""
    row = before.jobs[pair[0]]
    if outcome is Outcome.SUCCEEDED:
        return State.SUCCEEDED
    if row["cancel_requested_at"] or outcome is Outcome.CANCELLED:
        return State.CANCELLED
    if outcome is Outcome.RELEASED or error is None:
        return State.QUEUED
    failures = row["failures"] + 1
    again = any((attempt["error"] or {}).get("code") == error.code for attempt in before.attempts[pair[0]])
    hopeless = error.blame is Blame.USER or (error.blame is Blame.OOM and again)
    return State.FAILED if hopeless or failures >= row["max_attempts"] else State.QUEUED


def _ending(pair: Pair, outcome: Outcome, error: VLyardError | None) -> Ending:
    """With a file, also where no result may come of it; odd attempts make what others may wait for."""
    file = _file(uuid7())
    made = {"dataset": str(file["id"]), "predictions": str(file["id"])} if pair[1] % 2 else {}
    result = {"attempt": pair[1], "artefacts": made}
    return Ending(pair, outcome, result, failure_of(error) if error else None, [file])


def _file(identity: UUID) -> dict[str, Any]:
    return {
        "id": identity, "name": "dataset", "media_type": "application/zip", "key": f"tests/{identity}", "bytes": 2,
        "sha256": "0" * 64,
    }  # fmt: skip
