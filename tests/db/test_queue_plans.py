"""Each question that the queue asks is answered from its own partial index."""

import re
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.orm import Session

from db import dependencies, jobs, leases, lineage, queue
from db.models import Job, Model
from db.session import Database
from tests.db import rows

Question = Callable[[Session], Any]


def a_job(session: Session) -> Job:
    return session.scalars(select(Job).limit(1)).one()


QUESTIONS: dict[str, tuple[str, Question]] = {
    "waiting": ("ix_jobs_queued", lambda session: queue.waiting(session, "default", {"noop": 10, "conversion": 10})),
    "held": ("ix_jobs_held", lambda session: queue.held(session, "default", 30)),
    "unanswered": ("ix_jobs_dispatched", lambda session: queue.unanswered(session, "default", ["noop"], 5, 10)),
    "load": ("ix_jobs_queued", lambda session: queue.load(session, uuid4())),
    "first_of_team": ("ix_jobs_queued", lambda session: queue.first_of_team(session, a_job(session), ["noop"], 10)),
    "needs": ("pk_job_dependencies", lambda session: queue.needs(session, uuid4(), 10)),
    "admit": ("ix_jobs_delayed", lambda session: queue.admit(session, 10)),
    "expired": ("ix_jobs_running", lambda session: leases.expired(session, 10)),
    "company": ("ix_jobs_running", lambda session: leases.company(session, [uuid4()], 60)),
    "lost_company": ("ix_attempts_lost", lambda session: leases.company(session, [uuid4()], 60)),
    "expiring": ("ix_jobs_expiring", lambda session: jobs.expired(session, 10)),
    "orphans": ("ix_jobs_held", lambda session: jobs.orphans(session, 10)),
    "waiting_for": ("ix_job_dependencies_needs", lambda session: dependencies.lock_waiting_for(session, [uuid4()])),
    "capacity": ("ix_workers_alive", lambda session: queue.lock_pools(session, 30)),
    "page": (
        "ix_jobs_team",
        lambda session: jobs.page(session, rows.team(session, "t"), state=None, kind=None, before=None, limit=10),
    ),
}


def plan(session: Session, question: Question) -> str:
    """How PostgreSQL would answer the last statement that the question sends, with the parameters it sends."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    connection = session.connection()
    event.listen(connection, "before_cursor_execute", note)
    question(session)
    event.remove(connection, "before_cursor_execute", note)
    statement, parameters = sent[-1]
    cursor = connection.connection.cursor()
    cursor.execute(f"EXPLAIN {statement}", parameters)
    lines: Iterable[tuple[str]] = cursor.fetchall()
    return "\n".join(line for (line,) in lines)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_of_the_queue_is_answered_from_its_own_index(database: Database, name: str) -> None:
    index, question = QUESTIONS[name]
    with database.transaction() as session:
        rows.queued(session, rows.team(session, "t"))
        session.execute(text("SET LOCAL enable_seqscan = off"))
        explained = plan(session, question)
    assert re.search(rf"\b{index}\b", explained), explained
    assert "Seq Scan on jobs" not in explained


FEW = [uuid4() for _ in range(32)]
BY_ID: dict[str, Question] = {
    "dispatch": lambda session: queue.dispatch(session, [FEW]),
    "claim": lambda session: leases.claim(session, uuid4(), [(job, 1) for job in FEW], 30),
    "note_starts": lambda session: leases.note_starts(session, uuid4(), {(job, 1): 0.1 for job in FEW}),
    "lock_held": lambda session: leases.lock_held(session, uuid4(), [(job, 1) for job in FEW]),
    "lock_waiting_for": lambda session: dependencies.lock_waiting_for(session, FEW),
}


@pytest.mark.parametrize("name", BY_ID)
def test_few_jobs_are_found_by_their_ids_in_a_burst_after_the_statistics_of_an_empty_queue(
    database: Database, name: str
) -> None:
    # given statistics that say that there is next to nothing, and a burst of jobs since
    with database.transaction() as session:
        rows.queued(session, rows.team(session, "t"))
        session.execute(text("ANALYZE jobs"))
        columns = "team_id, kind, pool, device, spec, state, max_attempts"
        burst = f"SELECT gen_random_uuid(), {columns} FROM jobs, generate_series(1, 5000)"
        session.execute(text(f"INSERT INTO jobs (id, {columns}) {burst}"))
        # when some of them are asked for
        explained = plan(session, BY_ID[name])
    # then none of the indexes that hold the whole queue is read
    assert re.search(r"\bpk_jobs\b", explained), explained
    whole = r"\bix_jobs_(queued|dispatched|running|held|expiring)\b|Seq Scan on jobs"
    assert not re.search(whole, explained), explained


WEIGHTS = Model(artefact_id=uuid4())
HISTORY: dict[str, Callable[[Session, UUID], Any]] = {
    "uses": lambda session, team: lineage.uses(session, team, WEIGHTS, "a/b:1", before=None, limit=10),
    "evaluations": lambda session, team: lineage.evaluations(session, team, WEIGHTS, "a/b:1", 10),
}


@pytest.mark.parametrize("name", HISTORY)
def test_what_was_done_with_a_model_is_found_among_the_many_jobs_of_a_team(database: Database, name: str) -> None:
    with database.transaction() as session:
        team = rows.team(session, "t")
        rows.queued(session, team)
        columns = "team_id, pool, device, state, max_attempts"
        spec = "jsonb_build_object('model', 'a/b:' || number)"
        for kind, count in (("inference", 10_000), ("evaluation", 1_000)):
            numbers = f"jobs, generate_series(1, {count}) number WHERE kind = 'noop'"
            many = f"SELECT gen_random_uuid(), '{kind}', {spec}, {columns} FROM {numbers}"
            session.execute(text(f"INSERT INTO jobs (id, kind, spec, {columns}) {many}"))
        session.execute(text("ANALYZE jobs"))
        explained = plan(session, lambda session: HISTORY[name](session, team))
    assert re.search(r"\bix_jobs_model\b", explained), explained
    assert not re.search(r"\bix_jobs_team\b|Seq Scan on jobs", explained), explained
