"""What a team owns is read through `db.owned`, which shows no team another's rows."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from db import artefacts, dependencies, jobs
from db.models import (
    Artefact,
    ArtefactState,
    DeliveryState,
    Job,
    Model,
    ModelAlias,
    Table,
    Webhook,
    WebhookDelivery,
)
from db.owned import owned, owned_row, usable
from db.session import Database
from tests.db import rows
from vlyard.errors import NotFound

ROOT = Path(__file__).parents[2]
# Tables with a team of which no row is ever shown, and the one file that reads each.
UNSHOWN = {"api_keys": "db/accounts.py", "idempotency_keys": "db/idempotency.py", "model_names": None, "shares": None}
# The files that read jobs for the queue, or what is to be removed, where the reader is the system and not a team.
QUEUE = {
    "db/checkpoints.py", "db/dependencies.py", "db/jobs.py", "db/queue.py", "db/leases.py", "db/removals.py",
    "db/sweeping.py", "db/webhooks.py",
}  # fmt: skip


def artefact(session: Session, team: UUID) -> UUID:
    row = Artefact(
        id=uuid7(), team_id=team, name="a", media_type="a/b", bytes=0, sha256="0" * 64, key=str(uuid7()),
        state=ArtefactState.READY,
    )  # fmt: skip
    session.add(row)
    session.flush()
    return row.id


def model(session: Session, team: UUID) -> UUID:
    row = Model(
        id=uuid7(), team_id=team, name="a", version=1, artefact_id=artefact(session, team), base="demo", manifest={}
    )
    session.add(row)
    session.flush()
    return row.id


def alias(session: Session, team: UUID) -> UUID:
    row = ModelAlias(id=uuid7(), team_id=team, name="a", alias="prod", model_id=model(session, team))
    session.add(row)
    session.flush()
    return row.id


def webhook(session: Session, team: UUID) -> UUID:
    row = Webhook(id=uuid7(), team_id=team, url="https://example.org", secret="whsec_", events=["job.failed"])
    session.add(row)
    session.flush()
    return row.id


def delivery(session: Session, team: UUID) -> UUID:
    row = WebhookDelivery(
        id=uuid7(), webhook_id=webhook(session, team), team_id=team, job_id=rows.queued(session, team),
        type="job.failed", payload={}, state=DeliveryState.PENDING,
    )  # fmt: skip
    session.add(row)
    session.flush()
    return row.id


MAKERS: dict[Any, Callable[[Session, UUID], UUID]] = {
    Job: rows.queued,
    Artefact: artefact,
    Model: model,
    ModelAlias: alias,
    Webhook: webhook,
    WebhookDelivery: delivery,
}


@pytest.mark.parametrize("entity", MAKERS)
def test_a_team_sees_its_own_rows_alone(database: Database, entity: Any) -> None:
    with database.transaction() as session:
        ours, theirs = rows.team(session), rows.team(session)
        mine, other = MAKERS[entity](session, ours), MAKERS[entity](session, theirs)
        assert [row.id for row in session.scalars(owned(entity, ours))] == [mine]
        assert owned_row(session, entity, ours, mine).id == mine
        with pytest.raises(NotFound, match=str(other)):
            owned_row(session, entity, ours, other)


def test_the_queries_that_answer_teams_show_none_anothers_rows(database: Database) -> None:
    with database.transaction() as session:
        ours, theirs = rows.team(session), rows.team(session)
        job, file = rows.queued(session, theirs), artefact(session, theirs)
        assert jobs.page(session, theirs, state=None, kind=None, before=None, limit=10)
        assert not jobs.page(session, ours, state=None, kind=None, before=None, limit=10)
        assert artefacts.ready(session, theirs, [file])
        assert not artefacts.ready(session, ours, [file])
        assert not jobs.cancel_waiting(session, ours, job)
        assert dependencies.lock_needed(session, theirs, [job])
        assert not dependencies.lock_needed(session, ours, [job])
        pair = rows.running(session, theirs, rows.worker(session))
        assert not jobs.request_cancel(session, ours, pair[0])


def test_a_team_may_use_what_is_shared_and_nothing_else_of_another_one(database: Database) -> None:
    with database.transaction() as session:
        ours, theirs = rows.team(session), rows.team(session)
        mine, other = model(session, ours), model(session, theirs)
        session.get_one(Model, other).name = "kept"  # and not shared
        shared = session.get_one(Model, model(session, theirs))
        shared.shared = True
        session.flush()
        assert {row.id for row in session.scalars(usable(Model, ours))} == {mine, shared.id}
        files = {session.get_one(Model, id).artefact_id for id in (mine, shared.id)}
        assert {row.id for row in session.scalars(usable(Artefact, ours))} == files
        assert {row.id for row in artefacts.readable(session, ours, [shared.artefact_id])} == {shared.artefact_id}
        assert not artefacts.ready(session, ours, [shared.artefact_id])


def test_every_table_with_a_team_is_owned_or_never_shown() -> None:
    with_team = {name for name, table in Table.metadata.tables.items() if "team_id" in table.columns}
    assert with_team == {entity.__tablename__ for entity in MAKERS} | set(UNSHOWN)


def reads(path: Path) -> Iterator[tuple[str, int]]:
    """The classes that a file selects or gets by hand, with the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name in {"select", "query", "get", "get_one", "exists"}:
            for argument in node.args:
                yield from ((inner.id, node.lineno) for inner in ast.walk(argument) if isinstance(inner, ast.Name))


def test_no_file_outside_the_queue_selects_owned_rows_by_hand() -> None:
    entities = {entity.__name__ for entity in MAKERS}
    found = [
        f"{path.relative_to(ROOT)}:{line} reads {name}: use db.owned"
        for folder in ("api", "control", "workers", "db")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if str(path.relative_to(ROOT)) not in QUEUE
        for name, line in reads(path)
        if name in entities
    ]
    assert found == []
