"""The dispatcher: late, never more than fits, once for each attempt, and patient with Redis."""

import base64
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from control import lifecycle
from control.dispatcher import Dispatcher, Tick
from control.lifecycle import Ending
from control.queue import Doorbells
from control.rules import rules_from
from control.settings import Settings
from db import leases, workers
from db.clock import from_now
from db.models import Job, JobEvent, Outcome
from db.queue import Pair
from tests.db import rows
from tests.system import System, eventually
from vlyard.errors import Unavailable
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State

# Long times, so that nothing is silent, expired or unanswered unless a test makes it so.
pytestmark = pytest.mark.settings(LEASE_SECONDS="600", RING_AFTER_SECONDS="600")

NOTHING = Tick(reaped=0, rung=0)
CLOSED_REDIS = "redis://127.0.0.1:1/0"


def dispatcher(vlyard: System, **changes: Any) -> Dispatcher:
    settings: Settings = vlyard.settings.model_copy(update=changes)
    return Dispatcher(vlyard.database, Doorbells(settings), settings, rules_from(settings))


@pytest.fixture
def server(vlyard: System) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(vlyard.settings.redis_url.get_secret_value()) as connection:
        yield connection


@pytest.fixture
def team(vlyard: System) -> UUID:
    with vlyard.database.transaction() as session:
        return rows.team(session)


def hire(vlyard: System, **facts: Any) -> UUID:
    with vlyard.database.transaction() as session:
        return rows.worker(session, **facts)


def submit(vlyard: System, team: UUID, count: int = 1, **columns: Any) -> list[UUID]:
    with vlyard.database.transaction() as session:
        return [rows.queued(session, team, **columns) for _ in range(count)]


def states(vlyard: System) -> Counter[State]:
    with vlyard.database.transaction() as session:
        return Counter(session.scalars(select(Job.state)))


def events(vlyard: System, job: UUID) -> list[tuple[int, str, dict[str, Any]]]:
    with vlyard.database.transaction() as session:
        return rows.events(session, job)


def rung_long_ago(vlyard: System) -> None:
    with vlyard.database.transaction() as session:
        session.execute(update(Job).values(rung_at=from_now(-3600)))


def in_queue(vlyard: System, server: "redis.Redis", name: str = "cpu.default.noop") -> list[tuple[dict[str, Any], Any]]:
    """The messages that lie in a queue, the oldest last: (headers, body)."""
    lines: Any = server.lrange(f"{vlyard.settings.redis_prefix}{name}", 0, -1)
    found = [json.loads(line) for line in lines]
    return [(each["headers"], json.loads(base64.b64decode(each["body"]))) for each in found]


def messages(vlyard: System, server: "redis.Redis", name: str = "cpu.default.noop") -> list[tuple[str, list[Any]]]:
    """What they are about: (task, arguments)."""
    return [(headers["task"], arguments) for headers, (arguments, _, _) in in_queue(vlyard, server, name)]


def named_arguments(vlyard: System, server: "redis.Redis") -> Mapping[str, dict[str, Any]]:
    """What they say beside their jobs, by their names."""
    return {headers["id"]: named for headers, (_, named, _) in in_queue(vlyard, server)}


def task_ids(vlyard: System, server: "redis.Redis", name: str = "cpu.default.noop") -> set[str]:
    """Their names."""
    return {headers["id"] for headers, _ in in_queue(vlyard, server, name)}


def bundle_names(vlyard: System) -> set[str]:
    with vlyard.database.transaction() as session:
        return {f"bundle:{bundle}" for bundle in session.scalars(select(Job.bundle)) if bundle}


def finish(session: Session, vlyard: System, worker: UUID, pairs: Sequence[Pair]) -> None:
    endings = [Ending(pair, Outcome.SUCCEEDED, result={}) for pair in pairs]
    assert len(lifecycle.finish(session, worker, endings, rules_from(vlyard.settings))) == len(pairs)


def _run(vlyard: System, worker: UUID, members: Sequence[tuple[str, int]]) -> None:
    """What a worker does with a message."""
    pairs = [(UUID(job), attempt) for job, attempt in members]
    with vlyard.database.transaction() as session:
        lifecycle.claim(session, worker, pairs, rules_from(vlyard.settings))
        finish(session, vlyard, worker, pairs)


# --- when and where -------------------------------------------------------------------------------------------


def test_jobs_wait_in_the_database_while_no_worker_lives(vlyard: System, server: "redis.Redis", team: UUID) -> None:
    hire(vlyard, seconds_silent=3600)
    hire(vlyard, pool="elsewhere")
    submit(vlyard, team, 3)
    assert dispatcher(vlyard).tick() == NOTHING
    assert states(vlyard) == {State.QUEUED: 3}
    assert messages(vlyard, server) == []


def test_a_message_carries_a_job_and_an_attempt_and_nothing_else(
    vlyard: System, server: "redis.Redis", team: UUID
) -> None:
    hire(vlyard)
    [job] = submit(vlyard, team)
    assert dispatcher(vlyard).tick() == Tick(reaped=0, rung=1)
    assert messages(vlyard, server) == [("noop", [[[str(job), 1]]])]


def test_no_more_jobs_are_dispatched_than_slots_are_free(vlyard: System, team: UUID) -> None:
    # given a worker with two slots, and five long jobs
    worker = hire(vlyard, kinds=["conversion"], slots=2)
    submit(vlyard, team, 5, kind="conversion")
    one = dispatcher(vlyard)
    # when both slots are taken, nothing more is dispatched
    assert one.tick().rung == 2
    assert one.tick() == NOTHING
    with vlyard.database.transaction() as session:
        pair = session.execute(select(Job.id, Job.attempt).where(Job.state == State.DISPATCHED).limit(1)).one()
        leases.claim(session, worker, [(pair.id, pair.attempt)], 600)
    assert one.tick() == NOTHING
    # then one that ends makes room for one
    with vlyard.database.transaction() as session:
        done = Ending((pair.id, pair.attempt), Outcome.SUCCEEDED, result={})
        lifecycle.finish(session, worker, [done], rules_from(vlyard.settings))
    assert one.tick().rung == 1
    assert states(vlyard) == {State.SUCCEEDED: 1, State.DISPATCHED: 2, State.QUEUED: 2}


def test_a_gpu_kind_never_reaches_a_cpu_queue(vlyard: System, server: "redis.Redis", team: UUID) -> None:
    hire(vlyard, kinds=["noop", "conversion"], slots=8)
    submit(vlyard, team, kind="inference")
    submit(vlyard, team, kind="noop")
    one = dispatcher(vlyard)
    assert one.tick().rung == 1
    assert one.tick() == NOTHING
    hire(vlyard, kinds=["inference"], device=Device.GPU)
    assert one.tick().rung == 1
    assert [task for task, _ in messages(vlyard, server, "gpu.default.inference")] == ["inference"]
    assert [task for task, _ in messages(vlyard, server, "cpu.default.noop")] == ["noop"]
    assert messages(vlyard, server, "cpu.default.inference") == []


def test_each_pools_jobs_go_to_its_own_workers(vlyard: System, server: "redis.Redis", team: UUID) -> None:
    hire(vlyard, pool="east")
    hire(vlyard, pool="west")
    [east], [west] = submit(vlyard, team, pool="east"), submit(vlyard, team, pool="west")
    assert dispatcher(vlyard).tick().rung == 2
    assert messages(vlyard, server, "cpu.east.noop") == [("noop", [[[str(east), 1]]])]
    assert messages(vlyard, server, "cpu.west.noop") == [("noop", [[[str(west), 1]]])]


def test_jobs_that_were_sent_to_a_worker_that_left_hold_up_no_other_kind(vlyard: System, team: UUID) -> None:
    # given four conversions that were dispatched to a worker that ended before it claimed them
    leaving = hire(vlyard, kinds=["conversion"], slots=4)
    submit(vlyard, team, 4, kind="conversion")
    one = dispatcher(vlyard)
    assert one.tick().rung == 4
    with vlyard.database.transaction() as session:
        workers.end(session, leaving)
    # when a smaller worker is left for conversions, and one for other jobs
    hire(vlyard, kinds=["conversion"], slots=1)
    hire(vlyard, kinds=["noop"], slots=2)
    submit(vlyard, team, kind="noop")
    # then the other job does not wait for the conversions
    assert one.tick().rung == 1


def test_an_expired_attempt_is_closed_and_the_next_one_dispatched_in_the_same_tick(vlyard: System, team: UUID) -> None:
    worker = hire(vlyard)
    with vlyard.database.transaction() as session:
        job, _ = rows.running(session, team, worker, lease=-1)
    assert dispatcher(vlyard).tick() == Tick(reaped=1, rung=1)
    assert (vlyard.job(job).state, vlyard.job(job).attempt) == (State.DISPATCHED, 2)


# --- short jobs -----------------------------------------------------------------------------------------------


def test_short_jobs_travel_together_and_two_messages_wait_for_each_slot_or_four_full_ones(
    vlyard: System, server: "redis.Redis", team: UUID
) -> None:
    # given more short jobs than 2 messages of 32 at work and 8 that wait hold
    worker = hire(vlyard, slots=2)
    submitted = submit(vlyard, team, 11 * 32 + 5)
    one = dispatcher(vlyard)
    # when two messages are on their way to the slots, and eight wait behind them, that is all
    assert one.tick().rung == 10
    assert one.tick() == NOTHING
    published = messages(vlyard, server)
    assert [len(pairs) for _, [pairs] in published] == [32] * 10
    assert {job for _, [pairs] in published for job, _ in pairs} == set(map(str, submitted[: 10 * 32]))
    assert task_ids(vlyard, server) == bundle_names(vlyard)
    # then a message whose jobs have not all ended still takes its slot
    pairs = [(UUID(job), attempt) for job, attempt in published[0][1][0]]
    with vlyard.database.transaction() as session:
        lifecycle.claim(session, worker, pairs, rules_from(vlyard.settings))
        finish(session, vlyard, worker, pairs[:-1])
    assert one.tick() == NOTHING
    # and one whose jobs have makes room for the next
    with vlyard.database.transaction() as session:
        finish(session, vlyard, worker, pairs[-1:])
    assert one.tick().rung == 1
    assert states(vlyard) == {State.SUCCEEDED: 32, State.DISPATCHED: 10 * 32, State.QUEUED: 5}
    # and what fills no message waits in the line until no more than three are under way for each slot
    for _, [members] in published[1:5]:
        _run(vlyard, worker, members)
        assert one.tick() == NOTHING
    _run(vlyard, worker, published[5][1][0])
    assert one.tick().rung == 1
    assert states(vlyard) == {State.SUCCEEDED: 6 * 32, State.DISPATCHED: 5 * 32 + 5}


def test_two_teams_short_jobs_never_share_a_message(vlyard: System, server: "redis.Redis", team: UUID) -> None:
    hire(vlyard, slots=4)
    with vlyard.database.transaction() as session:
        others = rows.team(session)
    ours, theirs = set[str](), set[str]()
    for _ in range(10):
        ours |= set(map(str, submit(vlyard, team, 2)))
        theirs |= set(map(str, submit(vlyard, others, 2)))
    dispatcher(vlyard).tick()
    travelling = [{job for job, _ in pairs} for _, [pairs] in messages(vlyard, server)]
    assert all(jobs <= ours or jobs <= theirs for jobs in travelling)
    assert set().union(*travelling) == {*ours, *theirs}


def test_jobs_that_were_lost_together_are_dispatched_by_themselves(
    vlyard: System, server: "redis.Redis", team: UUID
) -> None:
    # given three jobs that were lost in one message, and six that have done nothing yet
    worker = hire(vlyard, slots=2)
    with vlyard.database.transaction() as session:
        lost = [job for job, _ in rows.running_bundle(session, team, worker, 3, lease=-1)]
    fresh = submit(vlyard, team, 6)
    # when they are dispatched again, on two slots with two seats behind each
    assert dispatcher(vlyard).tick() == Tick(reaped=3, rung=6)
    # then each of the three has a message of its own, and the others still travel together
    travelling = [[UUID(job) for job, _ in pairs] for _, [pairs] in messages(vlyard, server)]
    assert sorted(jobs for jobs in travelling if len(jobs) == 1) == sorted([job] for job in lost)
    assert sorted(job for jobs in travelling if len(jobs) == 2 for job in jobs) == sorted(fresh)
    assert {attempt for _, [pairs] in messages(vlyard, server) for job, attempt in pairs if UUID(job) in lost} == {2}
    assert {f"{job}:2" for job in lost} < task_ids(vlyard, server)
    # and theirs say that nothing may run beside them
    told = named_arguments(vlyard, server)
    assert {name for name, named in told.items() if named == {"alone": True}} == {f"{job}:2" for job in lost}
    assert {str(named) for name, named in told.items() if name.startswith("bundle:")} == {"{}"}


def test_a_bundle_that_nobody_answered_is_rung_again_whole(vlyard: System, server: "redis.Redis", team: UUID) -> None:
    hire(vlyard)
    submit(vlyard, team, 5)
    dispatcher(vlyard).tick()
    rung_long_ago(vlyard)
    before, names = messages(vlyard, server), task_ids(vlyard, server)
    assert dispatcher(vlyard).tick().rung == len(before)
    again = messages(vlyard, server)
    assert Counter(frozenset(map(tuple, pairs)) for _, [pairs] in again) == Counter(
        frozenset(map(tuple, pairs)) for _, [pairs] in before * 2
    )
    assert task_ids(vlyard, server) == names


# --- bells that nobody hears ----------------------------------------------------------------------------------


def test_a_bell_that_nobody_answered_is_rung_again_with_the_same_attempt(
    vlyard: System, server: "redis.Redis", team: UUID
) -> None:
    hire(vlyard)
    [job] = submit(vlyard, team)
    one = dispatcher(vlyard)
    one.tick()
    assert dispatcher(vlyard).tick() == NOTHING  # a new one looks at everything at once: not yet
    rung_long_ago(vlyard)
    eventually(lambda: one.tick().rung == 1, what="the second ring")
    assert dispatcher(vlyard).tick() == NOTHING
    assert messages(vlyard, server) == [("noop", [[[str(job), 1]]])] * 2
    assert [data["state"] for _, _, data in events(vlyard, job)] == ["queued", "dispatched"]


def test_jobs_are_kept_while_redis_is_away_and_rung_when_it_is_back(
    vlyard: System, server: "redis.Redis", team: UUID
) -> None:
    hire(vlyard, kinds=["conversion"], slots=2)
    submitted = submit(vlyard, team, 3, kind="conversion")
    with pytest.raises(Unavailable, match="Redis"):
        dispatcher(vlyard, redis_url=type(vlyard.settings.redis_url)(CLOSED_REDIS)).tick()
    assert states(vlyard) == {State.DISPATCHED: 2, State.QUEUED: 1}
    # when Redis is back, and the bells are due again
    rung_long_ago(vlyard)
    assert dispatcher(vlyard).tick().rung == 2
    rung = messages(vlyard, server, "cpu.default.conversion")
    assert sorted(rung) == sorted(("conversion", [[[str(job), 1]]]) for job in submitted[:2])


# --- many, and for long ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "slots", "seats"), [("conversion", 25, 25), ("noop", 2, 10)])
def test_two_dispatchers_ring_each_job_once_and_never_exceed_the_slots(
    vlyard: System, server: "redis.Redis", team: UUID, kind: str, slots: int, seats: int
) -> None:
    # given 200 jobs, a worker with few slots (and four more seats for each where jobs are short), two dispatchers
    worker = hire(vlyard, kinds=[kind], slots=slots)
    submitted = submit(vlyard, team, 200, kind=kind)
    rules, over = rules_from(vlyard.settings), threading.Event()

    def dispatch(_: int) -> int:
        one, rung = dispatcher(vlyard), 0
        while not over.is_set():
            rung += one.tick().rung
        return rung

    def work() -> int:
        """Run what is dispatched; returns the most messages that were ever under way."""
        most = 0
        while True:
            with vlyard.database.transaction() as session:
                rung = select(Job.id, Job.attempt, Job.bundle).where(Job.state == State.DISPATCHED)
                waiting = session.execute(rung).all()
                most = max(most, len({row.bundle or row.id for row in waiting}))
                pairs = [(row.id, row.attempt) for row in waiting]
                for claimed in lifecycle.claim(session, worker, pairs, rules) if pairs else []:
                    done = Ending((claimed.job, claimed.attempt), Outcome.SUCCEEDED, result={})
                    lifecycle.finish(session, worker, [done], rules)
                if not session.scalar(select(func.count()).where(Job.state != State.SUCCEEDED)):
                    return most

    with ThreadPoolExecutor(2) as threads:
        rung = [threads.submit(dispatch, number) for number in range(2)]
        try:
            most = work()
        finally:
            over.set()
        # then each job was rung once, by one of them, and the slots were used and never exceeded
        published = messages(vlyard, server, f"cpu.default.{kind}")
        assert sum(future.result() for future in rung) == len(published)
    assert Counter(job for _, [pairs] in published for job, _ in pairs) == Counter(map(str, submitted))
    assert 1 < most <= seats
    with vlyard.database.transaction() as session:
        moves = session.execute(
            select(JobEvent.job_id, func.count())
            .where(JobEvent.data["state"].astext == "dispatched")
            .group_by(JobEvent.job_id)
        ).all()
    assert {count for _, count in moves} == {1}


def test_a_running_dispatcher_hears_of_jobs_and_outlives_an_outage_of_redis(
    vlyard: System, server: "redis.Redis", team: UUID
) -> None:
    hire(vlyard)
    # given a dispatcher that never looks by itself, and has no Redis
    one = dispatcher(vlyard, poll_seconds=3600.0, redis_url=type(vlyard.settings.redis_url)(CLOSED_REDIS))
    thread = threading.Thread(target=one.run)
    thread.start()
    # when a job is submitted
    vlyard.submit()
    # then it is dispatched because of the wake-up, and the outage ends nothing
    eventually(lambda: states(vlyard)[State.DISPATCHED], what="the dispatch")
    assert thread.is_alive()
    one.stop()
    thread.join(30)
    assert not thread.is_alive()
