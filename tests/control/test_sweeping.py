"""What nobody needs any more goes, what somebody needs stays, and an outage costs a round."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import select, update
from uuid_utils.compat import uuid7

from control import registry as models
from control import uploads
from control.accounts import Caller
from control.artefacts import ArtefactStore
from control.sweeping import Sweeper
from db import registry
from db.clock import from_now
from db.models import (
    Artefact,
    DeliveryState,
    IdempotencyKey,
    OpenUpload,
    Webhook,
    WebhookDelivery,
)
from db.registry import NewVersion
from tests.db import rows
from tests.system import System, eventually
from vlyard.errors import NotFound, Unavailable
from vlyard.jobs.view import NewArtefact, NewTree
from vlyard.trees import TreeFile, manifest_of

PART = 5 * 2**20
CONTENT = bytes(PART + 10)
DAYS = 86_400.0


@pytest.fixture
def sweeper(vlyard: System) -> Sweeper:
    vlyard.store.ensure_bucket()
    return Sweeper(vlyard.database, vlyard.store, vlyard.settings)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def begun(vlyard: System, caller: Caller, key: str | None = None) -> Artefact:
    """An upload in two parts, of which one has come."""
    new = NewArtefact(name="large.bin", bytes=len(CONTENT), sha256=digest(CONTENT))
    with vlyard.database.transaction() as session:
        row = uploads.announce(session, caller, new, key)
    first = pieces(vlyard, caller, row.id)[0]
    assert httpx.put(first.url, content=CONTENT[: first.bytes], headers=first.headers, trust_env=False).is_success
    return row


def pieces(vlyard: System, caller: Caller, artefact: UUID) -> Any:
    """What the API would say that is missing."""
    with vlyard.database.transaction() as session:
        upload = uploads.pending(session, caller, artefact)
    lack = uploads.lack(vlyard.store, upload, PART)
    fresh = uploads.begin(vlyard.store, upload, lack, 10)
    with vlyard.database.transaction() as session:
        opened = uploads.note_begun(session, caller, upload, lack, fresh)
    return uploads.missing(vlyard.store, upload, lack, opened, expires_in=60, limit=10).data


def tree(vlyard: System, caller: Caller) -> Artefact:
    """An announced directory, of which one file has come."""
    new = NewTree(name="street", files=(TreeFile(path="a", bytes=1, sha256=digest(b"a")),))
    with vlyard.database.transaction() as session:
        row = uploads.announce_tree(session, caller, new, None)
    vlyard.store.put_bytes(row.key, manifest_of(new.files), "application/json")
    [piece] = pieces(vlyard, caller, row.id)
    assert httpx.put(piece.url, content=b"a", headers=piece.headers, trust_env=False).is_success
    return row


def age(vlyard: System, *artefacts: UUID, seconds: float = 2 * DAYS) -> None:
    with vlyard.database.transaction() as session:
        session.execute(update(Artefact).where(Artefact.id.in_(artefacts)).values(asked_at=from_now(-seconds)))


def left(vlyard: System, prefix: str) -> list[str]:
    """Everything in the store below a prefix, parts among it."""
    found = [key for key, _ in vlyard.store.listed(prefix)]
    return found + [each.key for each in vlyard.store.multiparts(prefix)]


def unreachable(vlyard: System) -> ArtefactStore:
    return ArtefactStore(vlyard.settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:1"}))


def known(vlyard: System) -> set[UUID]:
    with vlyard.database.transaction() as session:
        return set(session.scalars(select(Artefact.id)))


# --- uploads --------------------------------------------------------------------------------------------------


def test_an_upload_that_nobody_goes_on_with_goes_with_all_that_came_of_it(vlyard: System, sweeper: Sweeper) -> None:
    # given a file and a directory that were begun two days ago
    caller = vlyard.caller()
    file, folder = begun(vlyard, caller), tree(vlyard, caller)
    age(vlyard, file.id, folder.id)
    assert len(left(vlyard, f"teams/{caller.team}/")) == 3  # the parts, the manifest and a file
    # when it is swept
    assert sweeper.sweep() == 2
    # then nothing is left of them anywhere
    assert left(vlyard, f"teams/{caller.team}/") == []
    assert known(vlyard) == set()
    with vlyard.database.transaction() as session:
        assert session.scalars(select(OpenUpload)).all() == []


def test_an_upload_whose_client_was_heard_of_stays_and_so_does_one_that_is_complete(
    vlyard: System, sweeper: Sweeper
) -> None:
    caller = vlyard.caller()
    fresh, old = begun(vlyard, caller), begun(vlyard, caller)
    ready = vlyard.upload(caller, "a.txt", b"a")
    age(vlyard, ready, old.id)
    pieces(vlyard, caller, old.id)  # its client asks what is missing
    before = left(vlyard, f"teams/{caller.team}/")
    sweeper.sweep()
    assert known(vlyard) == {fresh.id, old.id, ready}
    assert left(vlyard, f"teams/{caller.team}/") == before


def test_an_announcement_that_is_repeated_after_the_sweep_is_announced_anew(vlyard: System, sweeper: Sweeper) -> None:
    caller = vlyard.caller()
    first = begun(vlyard, caller, "key")
    age(vlyard, first.id)
    sweeper.sweep()
    again = begun(vlyard, caller, "key")
    assert (again.id, again.state) == (first.id, first.state)


def test_who_completes_an_upload_that_is_swept_meanwhile_is_told_that_there_is_none(
    vlyard: System, sweeper: Sweeper
) -> None:
    caller = vlyard.caller()
    row = tree(vlyard, caller)
    with vlyard.database.transaction() as session:
        upload = uploads.pending(session, caller, row.id)
    uploads.settle(vlyard.store, upload)
    age(vlyard, row.id)
    sweeper.sweep()
    with pytest.raises(NotFound), vlyard.database.transaction() as session:
        uploads.confirm(session, caller, row.id)


def test_an_upload_that_is_being_completed_is_not_swept(vlyard: System, sweeper: Sweeper) -> None:
    caller = vlyard.caller()
    row = tree(vlyard, caller)
    age(vlyard, row.id)
    with vlyard.database.transaction() as session:
        uploads.confirm(session, caller, row.id)
        assert sweeper.sweep() == 0
    assert sweeper.sweep() == 0
    assert len(left(vlyard, f"teams/{caller.team}/")) == 2


def test_an_outage_of_s3_leaves_the_rows_for_the_next_round(vlyard: System, sweeper: Sweeper) -> None:
    caller = vlyard.caller()
    row = begun(vlyard, caller)
    age(vlyard, row.id)
    with pytest.raises(Unavailable):
        Sweeper(vlyard.database, unreachable(vlyard), vlyard.settings).sweep()
    assert known(vlyard) == {row.id}
    assert sweeper.sweep() == 1


def test_sweepers_at_once_share_the_work(vlyard: System, sweeper: Sweeper) -> None:
    caller = vlyard.caller()
    trees = [tree(vlyard, caller).id for _ in range(4)]
    age(vlyard, *trees)
    with ThreadPoolExecutor(2) as threads:
        done = threads.map(lambda _: Sweeper(vlyard.database, vlyard.store, vlyard.settings).sweep(), range(2))
        assert sum(done) == 4
    assert known(vlyard) == set()


@pytest.mark.settings(S3_BUCKET="sweeping", UPLOAD_KEEP_SECONDS="2", PRESIGN_SECONDS="60")
def test_parts_that_no_upload_knows_go_and_those_of_living_uploads_stay(vlyard: System, sweeper: Sweeper) -> None:
    caller = vlyard.caller()
    live = begun(vlyard, caller)
    vlyard.store.open_multipart(f"teams/{caller.team}/uploads/{uuid4()}/unknown", "a/b")
    eventually(lambda: sweeper.sweep() == 1, what="the end of the unknown upload")
    assert [each.key for each in vlyard.store.multiparts("teams/")] == [live.key]


@pytest.mark.settings(SWEEP_SECONDS="0.05")
def test_a_round_that_an_outage_of_s3_ended_is_followed_by_others(vlyard: System) -> None:
    away = ArtefactStore(vlyard.settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:1"}))
    sweeper, caller = Sweeper(vlyard.database, away, vlyard.settings), vlyard.caller()
    sweeper.start()
    for _ in range(2):  # each round looks for keys first, and fails after
        with vlyard.database.transaction() as session:
            session.add(old_key(caller))
        eventually(lambda: not keys(vlyard), 60, "a round that forgot the key")
    sweeper.stop()


@pytest.mark.settings(SWEEP_SECONDS="0.2")
def test_a_dispatcher_sweeps(system: System) -> None:
    caller = system.caller()
    row = begun(system, caller)
    system.start_dispatcher()
    assert known(system) == {row.id}
    age(system, row.id)
    eventually(lambda: not known(system), 120, "the end of the upload")
    assert left(system, f"teams/{caller.team}/") == []


# --- what was deleted -----------------------------------------------------------------------------------------


def test_the_objects_of_a_deleted_model_go_and_those_beside_it_stay(vlyard: System, sweeper: Sweeper) -> None:
    # given two models, a file and a directory, that were made by the same job
    caller = vlyard.caller()
    job = vlyard.submit(caller, kind="noop")
    whole, weights, other = tree(vlyard, caller).id, *(vlyard.upload(caller, name, b"w") for name in ("one", "other"))
    with vlyard.database.transaction() as session:
        names = [
            registry.add(session, NewVersion(caller.team, "street", artefact, "demo", None, job, {}))
            for artefact in (whole, weights, other)
        ]
        kept = session.get_one(Artefact, other).key
        gone = [session.get_one(Artefact, id).key for id in (whole, weights)]
    before = set(left(vlyard, f"teams/{caller.team}/"))
    # when two are deleted
    for name in names[:2]:
        with vlyard.database.transaction() as session:
            models.delete(session, caller, name)
    # then nothing of them is found any more, and everything goes at the next sweep
    assert known(vlyard) == {other}
    assert set(left(vlyard, f"teams/{caller.team}/")) == before
    assert sweeper.sweep() == len(gone)
    assert left(vlyard, f"teams/{caller.team}/") == [kept]
    assert sweeper.sweep() == 0


def test_what_is_left_of_a_deleted_model_waits_for_the_store(vlyard: System, sweeper: Sweeper) -> None:
    caller = vlyard.caller()
    job, weights = vlyard.submit(caller, kind="noop"), vlyard.upload(caller, "one", b"w")
    with vlyard.database.transaction() as session:
        name = registry.add(session, NewVersion(caller.team, "street", weights, "demo", None, job, {}))
        models.delete(session, caller, name)
    with pytest.raises(Unavailable):
        Sweeper(vlyard.database, unreachable(vlyard), vlyard.settings).sweep()
    assert len(left(vlyard, f"teams/{caller.team}/")) == 1
    assert sweeper.sweep() == 1
    assert left(vlyard, f"teams/{caller.team}/") == []


def old_key(caller: Caller) -> IdempotencyKey:
    """A key of two days ago."""
    row = {"team_id": caller.team, "key": "old", "request_sha256": "", "made": uuid4()}
    return IdempotencyKey(id=UUID(int=uuid7().int - (int(2 * DAYS * 1000) << 80)), **row)


def keys(vlyard: System) -> list[str]:
    with vlyard.database.transaction() as session:
        return list(session.scalars(select(IdempotencyKey.key)))


# --- records --------------------------------------------------------------------------------------------------


def test_old_idempotency_keys_are_forgotten_and_young_ones_are_not(vlyard: System, sweeper: Sweeper) -> None:
    caller = vlyard.caller()
    begun(vlyard, caller, "young")
    with vlyard.database.transaction() as session:
        session.add(old_key(caller))
    assert sweeper.sweep() == 1
    assert keys(vlyard) == ["young"]


def test_old_messages_to_webhooks_are_forgotten_once_they_are_over(vlyard: System, sweeper: Sweeper) -> None:
    with vlyard.database.transaction() as session:
        owner = rows.team(session)
        webhook = Webhook(team_id=owner, url="https://example.org", secret="whsec_", events=["job.failed"])
        session.add(webhook)
        session.flush()
        job = rows.queued(session, owner)
        own = {"webhook_id": webhook.id, "team_id": owner, "job_id": job, "type": "job.failed", "payload": {}}
        ages = [(DeliveryState.DELIVERED, 29), *((state, 31) for state in DeliveryState)]
        session.add_all(WebhookDelivery(**own, state=state, created_at=from_now(-days * DAYS)) for state, days in ages)
    assert sweeper.sweep() == 2
    with vlyard.database.transaction() as session:
        kept = sorted(session.scalars(select(WebhookDelivery.state)))
    assert kept == [DeliveryState.DELIVERED, DeliveryState.PENDING]
