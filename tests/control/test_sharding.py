"""Jobs that several share: made when submitted, gathered at the end, stopped when nobody waits for them."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select
from uuid_utils.compat import uuid7

from control import lifecycle, operations, submit
from control.accounts import Caller
from control.failures import failure_of
from control.lifecycle import Ending, Rules
from db import artefacts, leases, queue, removals
from db.models import Artefact, Job, Outcome
from tests.control.test_dependencies import RULES, stored
from tests.db import rows
from tests.system import System
from vlyard.errors import Complaint, InvalidInput, UserError
from vlyard.files import ArtefactKind
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.ours import fields_set_by_us
from vlyard.jobs.state import State
from vlyard.jobs.view import Batch, Changes, Submission


@pytest.fixture
def caller(vlyard: System) -> Caller:
    return vlyard.caller()


@pytest.fixture
def dataset(vlyard: System, caller: Caller) -> UUID:
    """An uploaded file."""
    made = uuid7()
    with vlyard.database.transaction() as session:
        artefacts.insert_ready(session, [{"team_id": caller.team, **stored("pictures.zip", made)}])
    return made


def predict(vlyard: System, caller: Caller, dataset: UUID, shards: int = 3, **more: Any) -> UUID:
    spec = {"kind": "prediction", "dataset": str(dataset), "prompt": "What is there?", "shards": shards}
    with vlyard.database.transaction() as session:
        return submit.submit(session, caller, Submission.model_validate({"spec": spec, **more}), None).id


def shares(vlyard: System, job: UUID) -> list[Job]:
    with vlyard.database.transaction() as session:
        found = list(session.scalars(select(Job).where(Job.part_of == job).order_by(Job.id)))
        session.expunge_all()
    return found


def claim(vlyard: System, *jobs: UUID) -> tuple[UUID, list[tuple[UUID, int]]]:
    with vlyard.database.transaction() as session:
        worker = rows.worker(session, kinds=["prediction", "export", "verification"])
        pairs = [pair for bell in queue.dispatch(session, [[job] for job in jobs]) for pair in bell.pairs]
        leases.claim(session, worker, pairs, 30)
    return worker, pairs


def end(vlyard: System, job: UUID, *outputs: str, fail: bool = False, rules: Rules = RULES) -> UUID:
    """End a share as its worker would; returns the first thing that it made."""
    worker, [pair] = claim(vlyard, job)
    made = {output: uuid7() for output in outputs or ("predictions",)}
    failure = failure_of(UserError("no such luck", [Complaint("/here", "look")])) if fail else None
    outcome = Outcome.FAILED if fail else Outcome.SUCCEEDED
    result = None if fail else {"artefacts": {output: str(id) for output, id in made.items()}}
    files = [stored("p.jsonl", id) for id in made.values()]
    with vlyard.database.transaction() as session:
        lifecycle.finish(session, worker, [Ending(pair, outcome, result, failure, files)], rules)
    return next(iter(made.values()))


def test_a_batch_that_makes_more_jobs_than_are_stored_at_once_is_refused(
    vlyard: System, caller: Caller, dataset: UUID
) -> None:
    spec = {"kind": "prediction", "dataset": str(dataset), "prompt": "What is there?", "shards": 64}
    many = Batch.model_validate({"jobs": [{"spec": spec}] * 154})
    with vlyard.database.transaction() as session, pytest.raises(InvalidInput, match="10010 jobs, and 10000"):
        submit.submit_batch(session, caller, many, None)


def test_a_job_in_shards_waits_for_the_jobs_that_do_them_and_gathers_what_they_make(
    vlyard: System, caller: Caller, dataset: UUID
) -> None:
    # given
    gathering = predict(vlyard, caller, dataset, priority=7, labels={"run": "a"})
    doing = shares(vlyard, gathering)
    assert [(job.state, job.spec["shard"], job.spec["shards"], job.spec["parts"]) for job in doing] == [
        (State.QUEUED, number, 3, []) for number in range(3)
    ]
    assert {(job.priority, job.labels["run"]) for job in doing} == {(7, "a")}
    # when
    made = [end(vlyard, job.id) for job in doing[:2]]
    assert vlyard.job(gathering).state is State.BLOCKED
    made.append(end(vlyard, doing[2].id))
    # then
    job = vlyard.job(gathering)
    assert (job.state, job.spec["parts"]) == (State.QUEUED, [str(id) for id in made])


def test_a_job_in_one_shard_is_one_job(vlyard: System, caller: Caller, dataset: UUID) -> None:
    job = predict(vlyard, caller, dataset, shards=1)

    assert vlyard.job(job).state is State.QUEUED
    assert shares(vlyard, job) == []


def test_a_share_that_fails_fails_the_job_and_stops_the_others(vlyard: System, caller: Caller, dataset: UUID) -> None:
    gathering = predict(vlyard, caller, dataset)
    first, second, third = (job.id for job in shares(vlyard, gathering))
    claim(vlyard, second)  # which runs while the first fails

    end(vlyard, first, fail=True)

    failed = vlyard.job(gathering)
    assert failed.state is State.FAILED
    assert failed.error is not None
    assert f"job {first} is failed: no such luck" in failed.error["message"]
    assert {"where": "/here", "what": "look", "fix": ""} in failed.error["complaints"]
    assert vlyard.job(third).state is State.CANCELLED
    running = vlyard.job(second)
    assert running.state is State.RUNNING
    assert running.cancel_requested_at is not None


def test_cancelling_the_job_cancels_its_shares_but_not_what_they_have_done(
    vlyard: System, caller: Caller, dataset: UUID
) -> None:
    gathering = predict(vlyard, caller, dataset)
    first, second, third = (job.id for job in shares(vlyard, gathering))
    end(vlyard, first)

    with vlyard.database.transaction() as session:
        operations.cancel(session, caller, gathering, None)

    assert [vlyard.job(job).state for job in (gathering, first, second, third)] == [
        State.CANCELLED, State.SUCCEEDED, State.CANCELLED, State.CANCELLED,
    ]  # fmt: skip


def test_a_job_in_shards_that_is_tried_again_is_shared_anew(vlyard: System, caller: Caller, dataset: UUID) -> None:
    gathering = predict(vlyard, caller, dataset)
    end(vlyard, shares(vlyard, gathering)[0].id, fail=True)

    with vlyard.database.transaction() as session:
        again = operations.retry(session, caller, gathering, None).id

    assert [job.state for job in shares(vlyard, again)] == [State.QUEUED] * 3
    assert vlyard.job(again).state is State.BLOCKED


def test_what_is_wrong_with_a_job_in_shards_is_said_once_and_nothing_is_stored(vlyard: System, caller: Caller) -> None:
    with pytest.raises(InvalidInput) as caught:
        predict(vlyard, caller, uuid4())

    assert [complaint.where for complaint in caught.value.complaints] == ["/spec/dataset"]
    with vlyard.database.transaction() as session:
        assert not session.scalars(select(Job)).all()


def test_a_batch_may_hold_jobs_in_shards_and_what_reads_their_output(
    vlyard: System, caller: Caller, dataset: UUID
) -> None:
    spec = {"kind": "prediction", "dataset": str(dataset), "preset": "ground", "shards": 2}
    reader = {"kind": "conversion", "source": "ref:all/predictions"}
    batch = Batch.model_validate({"jobs": [{"name": "all", "spec": spec}, {"spec": reader}]})

    with vlyard.database.transaction() as session:
        made = [job.id for job in submit.submit_batch(session, caller, batch, "key")]
        again = [job.id for job in submit.submit_batch(session, caller, batch, "key")]

    assert made == again
    assert len(shares(vlyard, made[0])) == 2
    assert vlyard.job(made[1]).spec["source"] == f"job:{made[0]}/predictions"


def export(vlyard: System, caller: Caller, model: str = "demo", **more: Any) -> UUID:
    wanted = Submission.model_validate({"spec": {"kind": "export", "model": model, **more}})
    with vlyard.database.transaction() as session:
        return submit.submit(session, caller, wanted, None).id


def test_an_export_is_written_then_verified_then_ends_with_both(vlyard: System, caller: Caller) -> None:
    # given
    job = export(vlyard, caller, name="ours", folder="ours")
    writing, verifying = shares(vlyard, job)
    assert [(each.kind, each.state) for each in (writing, verifying)] == [
        ("export", State.QUEUED), ("verification", State.BLOCKED),
    ]  # fmt: skip
    assert (writing.spec["name"], writing.spec["written"]) == (None, None)
    # when it is written, then it is verified
    written = end(vlyard, writing.id, "model", "summary")
    assert vlyard.job(verifying.id).state is State.QUEUED
    assert vlyard.job(verifying.id).spec["export"] == str(written)
    assert vlyard.job(job).state is State.BLOCKED
    # when it is verified, then the export goes on with both
    report = end(vlyard, verifying.id, "report")
    last = vlyard.job(job)
    assert (last.state, last.spec["written"], last.spec["verified"]) == (State.QUEUED, str(written), str(report))
    assert (last.spec["name"], last.spec["folder"]) == ("ours", "ours")


def test_an_export_fails_with_the_words_of_its_verification_and_what_was_written_is_taken_back(
    vlyard: System, caller: Caller
) -> None:
    job = export(vlyard, caller)
    writing, verifying = shares(vlyard, job)
    written = end(vlyard, writing.id, "model", "summary")
    with vlyard.database.transaction() as session:
        session.get_one(Artefact, written).kind = ArtefactKind.TREE
        key = session.get_one(Artefact, written).key

    end(vlyard, verifying.id, fail=True)

    with vlyard.database.transaction() as session:
        assert session.get(Artefact, written) is None
        assert [left.key for left in removals.lock_leftovers(session, 10)] == [key]
        assert [each.name for each in artefacts.made_by(session, caller.team, writing.id)] == ["p.jsonl"]  # its summary

    error = vlyard.job(job).error
    assert error is not None
    assert error["code"] == "dependency_failed"
    assert f"job {verifying.id} is failed: no such luck" in error["message"]
    assert {"where": "/here", "what": "look", "fix": ""} in error["complaints"]


def test_a_clone_of_an_export_that_has_ended_writes_and_verifies_its_own_model(vlyard: System, caller: Caller) -> None:
    # given one that succeeded
    job = export(vlyard, caller, name="ours")
    writing, verifying = (share.id for share in shares(vlyard, job))
    written = end(vlyard, writing, "model", "summary")
    end(vlyard, verifying, "report")
    # when the same is asked of another model
    with vlyard.database.transaction() as session:
        clone = operations.clone(session, caller, job, Changes(spec={"model": "untrained"}), None).id
    # then nothing of what was written is taken for that one's
    assert [(each.kind, each.spec["model"]) for each in shares(vlyard, clone)] == [
        ("export", "untrained"), ("verification", "untrained"),
    ]  # fmt: skip
    assert str(written) not in str(vlyard.job(clone).spec)


def test_an_export_whose_verification_failed_can_be_tried_again(vlyard: System, caller: Caller) -> None:
    job = export(vlyard, caller)
    writing, verifying = (share.id for share in shares(vlyard, job))
    end(vlyard, writing, "model", "summary")
    end(vlyard, verifying, fail=True)

    with vlyard.database.transaction() as session:
        again = operations.retry(session, caller, job, None).id

    assert [share.kind for share in shares(vlyard, again)] == ["export", "verification"]


OURS = [(kind.name, name) for kind in KINDS.values() for name in fields_set_by_us(kind.spec)]


@pytest.mark.parametrize(("kind", "name"), OURS)
def test_what_vlyard_sets_by_itself_no_client_may_set(
    vlyard: System, caller: Caller, dataset: UUID, kind: str, name: str
) -> None:
    plain = {
        "export": {"model": "demo"},
        "prediction": {"dataset": str(dataset), "prompt": "What?"},
        "verification": {"model": "demo", "export": str(dataset)},
    }[kind]
    values: dict[str, Any] = {
        "parts": [str(dataset)],
        "gathered": True,
        "lineage": {"model": "vision/street:1", "base": "demo"},
    }
    value = values.get(name, str(dataset))
    body = {"spec": {"kind": kind, **plain, name: value}}
    wanted = Submission.model_validate(body)
    with vlyard.database.transaction() as session:
        source = submit.submit(session, caller, Submission.model_validate({"spec": {"kind": kind, **plain}}), None)
        [refused] = submit.submit_each(session, [submit.Request(caller, wanted, None)])
        assert isinstance(refused, InvalidInput)
        asked: Sequence[tuple[str, Callable[[], object]]] = (
            ("", lambda: submit.submit(session, caller, wanted, None)),
            ("/jobs/0", lambda: submit.submit_batch(session, caller, Batch.model_validate({"jobs": [body]}), None)),
            ("", lambda: operations.clone(session, caller, source.id, Changes(spec={name: value}), None)),
        )
        for place, ask in asked:
            with pytest.raises(InvalidInput) as caught:
                ask()
            assert f"{place}/spec/{name}" in {each.where for each in caught.value.complaints}
    assert f"/spec/{name}" in {each.where for each in refused.complaints}


def test_an_export_that_is_not_verified_is_one_job(vlyard: System, caller: Caller) -> None:
    job = export(vlyard, caller, verify=False)

    assert vlyard.job(job).state is State.QUEUED
    assert shares(vlyard, job) == []
