"""What attempts without success left in the store goes, also what came late; what somebody names stays."""

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select, update
from uuid_utils.compat import uuid7

from control import lifecycle
from control.lifecycle import Ending
from control.rules import rules_from
from control.sweeping import Sweeper
from db import leases
from db.clock import from_now
from db.models import Artefact, ArtefactState, Attempt, Job, Outcome
from db.queue import Pair
from tests.control.test_sweeping import DAYS, left
from tests.db import rows
from tests.system import System
from vlyard.files import ArtefactKind
from vlyard.jobs.kinds import KINDS
from vlyard.trees import MEDIA_TYPE


@pytest.fixture
def sweeper(vlyard: System) -> Sweeper:
    vlyard.store.ensure_bucket()
    return Sweeper(vlyard.database, vlyard.store, vlyard.settings)


def ended(vlyard: System, outcome: Outcome, seconds: float = 2 * DAYS, **more: Any) -> tuple[Pair, str]:
    """An attempt that ended so, so long ago, with two objects in the store; and their prefix."""
    with vlyard.database.transaction() as session:
        holder, owner = rows.worker(session), rows.team(session)
        pair = rows.running(session, owner, holder)
        lifecycle.finish(session, holder, [Ending(pair, outcome, **more)], rules_from(vlyard.settings))
        values = {"ended_at": from_now(-seconds), "outcome": outcome}
        session.execute(update(Attempt).where(Attempt.job_id == pair[0]).values(values))
    prefix = f"teams/{owner}/jobs/{pair[0]}/attempts/{pair[1]}/"
    for name in ("dataset.zip", "model/files/part"):
        vlyard.store.put_bytes(prefix + name, b"half", "a/b")
    vlyard.store.open_multipart(f"{prefix}weights", "a/b")
    return pair, prefix


def write_late(vlyard: System, prefix: str) -> None:
    """As a worker does that has not heard yet that its attempt was given up: a part of a tree, and of a file."""
    vlyard.store.put_bytes(f"{prefix}model/files/late", b"half", "a/b")
    vlyard.store.open_multipart(f"{prefix}late", "a/b")


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.FAILED, Outcome.CANCELLED, Outcome.RELEASED])
def test_what_an_attempt_without_success_left_in_the_store_goes_once(
    vlyard: System, sweeper: Sweeper, outcome: Outcome
) -> None:
    pair, prefix = ended(vlyard, outcome)
    assert len(left(vlyard, prefix)) == 3
    assert sweeper.sweep() == 1
    assert left(vlyard, prefix) == []
    assert vlyard.attempts(pair[0])[0].swept
    assert sweeper.sweep() == 0


def test_the_log_of_a_failed_attempt_and_a_tree_that_it_has_stay(vlyard: System, sweeper: Sweeper) -> None:
    # given a failed attempt whose log is an artefact, and beside it what was left
    log = {"id": uuid7(), "name": "log.txt", "media_type": "text/plain", "bytes": 4, "sha256": "0" * 64}
    pair, prefix = ended(vlyard, Outcome.FAILED, log={**log, "key": f"teams/{uuid4()}/log.txt"})
    with vlyard.database.transaction() as session:
        session.execute(update(Artefact).where(Artefact.job_id == pair[0]).values(key=f"{prefix}dataset.zip"))
        owner = session.scalars(select(Artefact.team_id)).one()
        folder = {"name": "model", "media_type": MEDIA_TYPE, "bytes": 4, "sha256": "0" * 64, "kind": ArtefactKind.TREE}
        own = {"team_id": owner, "job_id": pair[0], "attempt": pair[1], "key": f"{prefix}model/manifest.json"}
        session.add(Artefact(**folder, **own, state=ArtefactState.READY))
    vlyard.store.put_bytes(f"{prefix}left.bin", b"half", "a/b")
    # when it is swept, then only what nobody names is gone
    sweeper.sweep()
    assert sorted(left(vlyard, prefix)) == [f"{prefix}dataset.zip", f"{prefix}model/files/part"]


def test_the_objects_of_successful_running_and_young_attempts_stay(vlyard: System, sweeper: Sweeper) -> None:
    kept = [ended(vlyard, Outcome.SUCCEEDED, result={})[1], ended(vlyard, Outcome.LOST, seconds=60)[1]]
    with vlyard.database.transaction() as session:
        owner = rows.team(session)
        job, number = rows.running(session, owner, rows.worker(session))
    kept.append(f"teams/{owner}/jobs/{job}/attempts/{number}/")
    vlyard.store.put_bytes(f"{kept[-1]}a", b"half", "a/b")
    assert sweeper.sweep() == 0
    assert [len(left(vlyard, prefix)) for prefix in kept] == [3, 3, 1]


def test_what_a_worker_wrote_after_its_attempt_was_swept_goes_once_it_can_write_no_more(
    vlyard: System, sweeper: Sweeper
) -> None:
    # given an attempt that was lost and swept, whose worker then wrote, and a log of it that a row names
    pair, prefix = ended(vlyard, Outcome.LOST)
    assert sweeper.sweep() == 1
    write_late(vlyard, prefix)
    vlyard.store.put_bytes(f"{prefix}log.txt", b"said", "a/b")
    with vlyard.database.transaction() as session:
        log = {"name": "log.txt", "media_type": "text/plain", "bytes": 4, "sha256": "0" * 64, "key": f"{prefix}log.txt"}
        owner = session.get_one(Job, pair[0]).team_id
        session.add(Artefact(**log, team_id=owner, job_id=pair[0], attempt=pair[1], state=ArtefactState.READY))
    # when it is swept while the worker may still live, then nothing goes
    assert sweeper.sweep() == 0
    assert len(left(vlyard, prefix)) == 3
    # when it is swept after that, then all goes but what is named, and there is no third time
    longer = vlyard.settings.latecomer_seconds
    assert longer > max(kind.time_limit.total_seconds() for kind in KINDS.values()) + DAYS / 2
    with vlyard.database.transaction() as session:
        session.execute(update(Attempt).where(Attempt.job_id == pair[0]).values(ended_at=from_now(-longer - 1)))
    assert sweeper.sweep() == 1
    assert left(vlyard, prefix) == [f"{prefix}log.txt"]
    assert sweeper.sweep() == 0


def test_what_a_worker_wrote_goes_at_the_next_sweep_once_it_has_heard_that_it_was_given_up(
    vlyard: System, sweeper: Sweeper
) -> None:
    # given attempts that were looked for twice, of which one succeeded
    lost, prefix = ended(vlyard, Outcome.LOST, seconds=30 * DAYS)
    won, kept = ended(vlyard, Outcome.SUCCEEDED, seconds=30 * DAYS, result={})
    assert sweeper.sweep() == 2
    for each in (prefix, kept):
        write_late(vlyard, each)
    # when another worker says it of the lost one, then nothing goes
    holders = [vlyard.attempts(pair[0])[0].worker_id for pair in (lost, won)]
    with vlyard.database.transaction() as session:
        leases.note_given_up(session, uuid4(), [lost, won])
    assert sweeper.sweep() == 0
    # when their own worker says it, then what it left goes, and what a result may name stays
    for holder in holders:
        with vlyard.database.transaction() as session:
            leases.note_given_up(session, holder, [lost, won])
    assert sweeper.sweep() == 1
    assert left(vlyard, prefix) == []
    assert len(left(vlyard, kept)) == 5
