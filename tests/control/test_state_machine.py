"""Whatever workers, dispatchers and owners do, in whatever order and however late: what a job's rows promise holds."""

from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from db.models import Job, Outcome
from db.queue import Pair
from tests.control.trial import LEASE_SECONDS, Told, Trial
from tests.system import System
from vlyard.errors import DiskFull, InvalidInput, OutOfMemory
from vlyard.jobs.state import State

MOST_LIVING = 7  # jobs: few, so that much happens to each, and more than there are seats
RECENT = 8  # messages and claims: what is older has little left to break

SUCCESS: Told = (Outcome.SUCCEEDED, None)
MISHAP: Told = (Outcome.FAILED, DiskFull())
TOLD = st.sampled_from([
    *[SUCCESS] * 3, *[MISHAP] * 3, (Outcome.FAILED, OutOfMemory()), (Outcome.FAILED, InvalidInput()),
    (Outcome.CANCELLED, None), (Outcome.RELEASED, None),
])  # fmt: skip
EXPIRING = [State.RUNNING, State.RUNNING, State.BLOCKED, State.QUEUED, State.DISPATCHED]
EXPIRES = st.sampled_from([True, True, False])


class Queue(RuleBasedStateMachine):
    """Everything that can be done to jobs; any worker may come late with anything. A subclass says where."""

    trial: Trial

    def __init__(self) -> None:
        super().__init__()
        self.keys = count()
        self.trial.begin()

    def living(self) -> list[UUID]:
        return self.trial.seen.living()

    def has_living(self) -> bool:
        return bool(self.living())

    def may_submit(self) -> bool:
        return len(self.living()) < MOST_LIVING

    def has_jobs(self) -> bool:
        return bool(self.trial.seen.jobs)

    def has_claims(self) -> bool:
        return bool(self.trial.claimed)

    @initialize(jobs=st.integers(2, 4), attempts=st.integers(2, 4))
    def begin_with_work(self, jobs: int, attempts: int) -> None:
        """Some jobs, of which both workers have taken some: or little could happen for long."""
        self.trial.submit(self.trial.callers[0], [_entry("noop", True)] * jobs, attempts)
        made = {"name": "make", **_entry("noop", True)}
        self.trial.submit(
            self.trial.callers[1], [made, _entry("conversion", False, source="ref:make/dataset")], attempts
        )
        self.trial.submit(
            self.trial.callers[0], [_shared(self.trial.uploads[self.trial.callers[0].team], 2, True)], attempts
        )
        self.trial.tick()
        for worker, message in zip(self.trial.workers, self.trial.rung, strict=False):
            self.trial.claim(worker, message)

    # --- what owners do ---------------------------------------------------------------------------------------

    @precondition(may_submit)
    @rule(team=st.sampled_from([0, 0, 1]), jobs=st.integers(1, 4), expires=EXPIRES, attempts=st.integers(1, 4))
    def submit_short_jobs(self, team: int, jobs: int, expires: bool, attempts: int) -> None:
        self.trial.submit(self.trial.callers[team], [_entry("noop", expires)] * jobs, attempts)

    @precondition(may_submit)
    @rule(data=st.data(), expires=EXPIRES, attempts=st.integers(1, 4))
    def submit_a_job_that_reads_a_file(self, data: st.DataObject, expires: bool, attempts: int) -> None:
        """An upload, what another entry of its batch will make, or what any job has made or will make."""
        needed = data.draw(st.sampled_from([None, *self.living() * 2, *list(self.trial.seen.jobs)[-2:]]))
        caller = self.trial.owner(needed) if needed else self.trial.callers[0]
        if needed:
            source = f"job:{needed}/{self.trial.output_of(needed)}"
        else:
            source = data.draw(st.sampled_from([str(self.trial.uploads[caller.team]), "ref:make/dataset"]))
        jobs = [_entry("conversion", expires, source=source)]
        if source.startswith("ref:"):
            jobs.append({"name": "make", **_entry("noop", expires)})
        if needed is None or self.trial.can_have_output_of(needed):
            self.trial.submit(caller, jobs, attempts)
        else:
            with pytest.raises(InvalidInput):
                self.trial.submit(caller, jobs, attempts)

    @precondition(may_submit)
    @rule(team=st.sampled_from([0, 0, 1]), shares=st.integers(2, 3), expires=EXPIRES, attempts=st.integers(1, 3))
    def submit_a_job_in_shares(self, team: int, shares: int, expires: bool, attempts: int) -> None:
        caller = self.trial.callers[team]
        self.trial.submit(caller, [_shared(self.trial.uploads[caller.team], shares, expires)], attempts)

    @precondition(has_jobs)
    @rule(data=st.data(), priority=st.integers(-3, 3), ask=st.sampled_from(["cancel", "retry", "reprioritise"]))
    def ask_something_of_a_job(self, data: st.DataObject, priority: int, ask: str) -> None:
        job = self.any_job(data)
        if ask == "cancel":
            self.trial.cancel(job)
        elif ask == "reprioritise":
            self.trial.reprioritise(job, priority)
        elif self.may_submit():
            self.trial.retry(job, f"{next(self.keys)} {uuid4()}")

    # --- what dispatchers do ----------------------------------------------------------------------------------

    @rule()
    def tick(self) -> None:
        self.trial.tick()

    @precondition(has_living)
    @rule(worker=st.sampled_from([0, 1]))
    def go_on(self, worker: int) -> None:
        """As it should be: a dispatcher looks, and a worker takes all that it sends."""
        sent = len(self.trial.rung)
        self.trial.tick()
        for message in self.trial.rung[sent:]:
            self.trial.claim(self.trial.workers[worker], message)

    @precondition(has_claims)
    @rule(data=st.data())
    def dispatch_too_late(self, data: st.DataObject) -> None:
        moved_on = [job for job, row in self.trial.seen.jobs.items() if row["state"] is not State.QUEUED]
        if moved_on:
            self.trial.dispatch(data.draw(st.lists(st.sampled_from(moved_on), min_size=1, max_size=4, unique=True)))

    # --- what workers do --------------------------------------------------------------------------------------

    @precondition(lambda self: self.trial.rung)
    @rule(data=st.data(), worker=st.sampled_from([0, 1]))
    def claim(self, data: st.DataObject, worker: int) -> None:
        """Messages come once, twice, late, and to anybody."""
        rung, jobs = self.trial.rung, self.trial.seen.jobs
        waiting = [pairs for pairs in rung if any(jobs[job]["state"] is State.DISPATCHED for job, _ in pairs)]
        message = data.draw(st.sampled_from([*waiting * 3, *rung[-RECENT:]]))
        self.trial.claim(self.trial.workers[worker], message)

    @precondition(has_claims)
    @rule(data=st.data(), worker=st.sampled_from([0, 1]))
    def renew(self, data: st.DataObject, worker: int) -> None:
        self.trial.renew(self.trial.workers[worker], self.claims_of(data, worker))

    @precondition(has_claims)
    @rule(data=st.data(), worker=st.sampled_from([0, 1]), amid_a_tick=st.booleans())
    def finish(self, data: st.DataObject, worker: int, amid_a_tick: bool) -> None:
        told = {pair: data.draw(TOLD) for pair in self.claims_of(data, worker)}
        if amid_a_tick:  # at the very moment at which they are given up
            held = self.trial.held(self.trial.workers[worker], list(told))
            self.trial.pass_time(Job.lease_until, [job for job, _ in held])
        self.trial.finish(self.trial.workers[worker], told, amid_a_tick=amid_a_tick)

    @precondition(has_claims)
    @rule(data=st.data())
    def fail_come_back_and_speak_of_the_past(self, data: st.DataObject) -> None:
        """One worker has two attempts at a job, hears and tells of the first one once more, and beats for it."""
        held = self.held()
        if not held:
            return
        worker, first = data.draw(st.sampled_from(held))
        second = (first[0], first[1] + 1)
        self.trial.finish(worker, {first: MISHAP})
        if first[0] in self.living():
            self.trial.pass_time(Job.available_at, [first[0]])
        self.trial.tick()
        for message in [each for each in self.trial.rung if second in each]:
            self.trial.claim(worker, [first])
            self.trial.claim(worker, message)
            self.trial.finish(worker, {first: SUCCESS})
            self.trial.renew(worker, [first])

    @precondition(has_claims)
    @rule(data=st.data(), told=st.sampled_from([MISHAP, (Outcome.RELEASED, None)]))
    def end_a_share_while_its_job_is_given_up(self, data: st.DataObject, told: Told) -> None:
        """Whoever gives the job up finds the share held by who ends it, and comes back once it is dispatched again."""
        jobs = self.trial.seen.jobs
        if shares := [each for each in self.held() if jobs[each[1][0]]["part_of"]]:
            worker, pair = data.draw(st.sampled_from(shares))
            self.trial.pass_time(Job.expires_at, [jobs[pair[0]]["part_of"]])
            self.trial.finish(worker, {pair: told}, amid_a_tick=True)
            self.trial.pass_time(Job.available_at, [pair[0]])
            for _ in range(2):
                self.trial.tick()

    # --- what time does ---------------------------------------------------------------------------------------

    @precondition(has_living)
    @rule(data=st.data(), is_seen=st.booleans())
    def leases_run_out(self, data: st.DataObject, is_seen: bool) -> None:
        self.pass_time(data, Job.lease_until, State.RUNNING, is_seen)

    @precondition(has_living)
    @rule(data=st.data(), is_seen=st.booleans())
    def pauses_are_over(self, data: st.DataObject, is_seen: bool) -> None:
        self.pass_time(data, Job.available_at, State.QUEUED, is_seen)

    @precondition(has_living)
    @rule(data=st.data(), is_seen=st.booleans())
    def nobody_hears_a_bell(self, data: st.DataObject, is_seen: bool) -> None:
        self.pass_time(data, Job.rung_at, State.DISPATCHED, is_seen)

    @precondition(has_living)
    @rule(data=st.data(), state=st.sampled_from(EXPIRING), is_seen=st.booleans())
    def jobs_are_not_worth_starting_any_more(self, data: st.DataObject, state: State, is_seen: bool) -> None:
        """Those that have started go on."""
        self.pass_time(data, Job.expires_at, state, is_seen)

    def pass_time(self, data: st.DataObject, clock: Any, state: State, is_seen: bool) -> None:
        jobs = [job for job, row in self.trial.seen.jobs.items() if row["state"] is state and row[clock.key]]
        if jobs:
            self.trial.pass_time(clock, data.draw(st.lists(st.sampled_from(jobs), min_size=1, max_size=4, unique=True)))
            if is_seen:
                self.trial.tick()

    def teardown(self) -> None:
        """Given time, and a worker that does its work, every job ends, whatever has happened to it."""
        worker = self.trial.workers[0]
        for _ in range(4 * MOST_LIVING):
            if not self.living():
                return
            for clock in (Job.lease_until, Job.rung_at, Job.available_at):
                self.trial.pass_time(clock, self.living())
            sent = len(self.trial.rung)
            self.trial.tick()
            for message in self.trial.rung[sent:]:
                self.trial.claim(worker, message)
                self.trial.finish(worker, dict.fromkeys(self.trial.held(worker, message), SUCCESS))
        raise AssertionError(f"jobs are stuck: {self.living()}")

    # --- what is chosen ---------------------------------------------------------------------------------------

    def any_job(self, data: st.DataObject) -> UUID:
        """One that has not ended, rather one that others do shares of, or one that has not long ago."""
        living, shares = self.living(), self.trial.seen.shares
        return data.draw(
            st.sampled_from([*living, *[job for job in living if job in shares] * 2, *list(self.trial.seen.jobs)[-3:]])
        )

    def held(self) -> list[tuple[UUID, Pair]]:
        """Every attempt that runs, after the worker whose it is."""
        return [(worker, pair) for worker, pair in self.trial.claimed if self.trial.held(worker, [pair])]

    def claims_of(self, data: st.DataObject, worker: int) -> list[Pair]:
        """What the worker holds, what it once held, and what another one holds."""
        mine = [pair for own, pair in self.trial.claimed if own == self.trial.workers[worker]]
        others = [pair for own, pair in self.trial.claimed if own != self.trial.workers[worker]]
        held = self.trial.held(self.trial.workers[worker], mine)
        known = [*held * 2, *mine[-RECENT:], *others[-2:]]
        return data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=4, unique=True))


def _entry(kind: str, expires: bool, **spec: Any) -> dict[str, Any]:
    return {"spec": {"kind": kind, **spec}, **({"expires_in": 86_400} if expires else {})}


def _shared(dataset: UUID, shares: int, expires: bool) -> dict[str, Any]:
    return _entry("prediction", expires, dataset=str(dataset), prompt="What is there?", shards=shares)


def run(vlyard: System, **chosen: Any) -> None:
    machine = type("OwnQueue", (Queue,), {"trial": Trial(vlyard)})
    how = settings(
        deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False,
        phases=[Phase.generate],  # shrinking would outlast the test's time
        **chosen,
    )  # fmt: skip
    run_state_machine_as_test(machine, settings=how)


pytestmark = pytest.mark.settings(LEASE_SECONDS=str(LEASE_SECONDS), RING_AFTER_SECONDS="600")


@pytest.mark.timeout(300)
def test_no_order_of_events_breaks_what_a_jobs_rows_promise(vlyard: System) -> None:
    run(vlyard, max_examples=25, stateful_step_count=40, derandomize=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_order_of_very_many_events_breaks_what_a_jobs_rows_promise(vlyard: System) -> None:
    run(vlyard, max_examples=300, stateful_step_count=60)
