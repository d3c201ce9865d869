"""Jobs that read what other jobs make: when they may start, and what becomes of them when they never can."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from control import lifecycle, submit
from control.accounts import Caller
from control.failures import failure_of
from control.lifecycle import Ending, Rules
from control.retrying import Backoff
from db import leases, queue
from db.models import Job, JobDependency, Outcome
from tests.db import rows
from tests.system import System
from vlyard.errors import InvalidInput, UserError
from vlyard.jobs.state import State
from vlyard.jobs.view import Batch, Submission

RULES = Rules(lease_seconds=30, backoff=Backoff(0, 0), rng=Random(1))
CONVERT = {"kind": "conversion", "source": "ref:make/dataset"}


def batch(*entries: Mapping[str, Any]) -> Batch:
    return Batch.model_validate({"jobs": entries})


def entry(name: str, source: str = "", **more: Any) -> dict[str, Any]:
    """A job that reads the source, or one that reads nothing."""
    spec = {"kind": "conversion", "source": source} if source else {"kind": "noop"}
    return {"name": name, "spec": spec, **more}


def accept(vlyard: System, caller: Caller, *entries: Mapping[str, Any], key: str | None = None) -> list[UUID]:
    with vlyard.database.transaction() as session:
        return [job.id for job in submit.submit_batch(session, caller, batch(*entries), key)]


def accept_one(vlyard: System, caller: Caller, source: str) -> UUID:
    wanted = Submission.model_validate({"spec": {"kind": "conversion", "source": source}})
    with vlyard.database.transaction() as session:
        return submit.submit(session, caller, wanted, None).id


def end(vlyard: System, job: UUID, *, outputs: Mapping[str, UUID] | None = None, fail: bool = False) -> None:
    """End a queued job as its worker would."""
    with vlyard.database.transaction() as session:
        worker = rows.worker(session, kinds=["noop", "conversion"])
        [bell] = queue.dispatch(session, [[job]])
        leases.claim(session, worker, bell.pairs, 30)
        result = {"artefacts": {name: str(id) for name, id in (outputs or {}).items()}}
        outcome = Outcome.FAILED if fail else Outcome.SUCCEEDED
        failure = failure_of(UserError("no such luck")) if fail else None
        made = [stored(name, id) for name, id in (outputs or {}).items()]
        lifecycle.finish(session, worker, [Ending(bell.pairs[0], outcome, result, failure, made)], RULES)


def stored(name: str, id: UUID) -> dict[str, Any]:
    """A file that an attempt has stored."""
    return {"id": id, "name": name, "media_type": "a/b", "key": f"tests/{id}", "bytes": 2, "sha256": "0" * 64}


def states(vlyard: System, jobs: Sequence[UUID]) -> list[str]:
    return [vlyard.job(job).state.value for job in jobs]


def refused(vlyard: System, caller: Caller, *entries: Mapping[str, Any]) -> list[str]:
    """Where the complaints point to."""
    with pytest.raises(InvalidInput) as caught:
        accept(vlyard, caller, *entries)
    with vlyard.database.transaction() as session:
        assert not session.scalars(select(Job)).all()
    return [complaint.where for complaint in caught.value.complaints]


# --- going on -------------------------------------------------------------------------------------------------


def test_a_job_waits_for_an_output_and_starts_with_its_id_in_the_transaction_that_ends_the_other(
    vlyard: System,
) -> None:
    caller, made = vlyard.caller(), uuid4()
    # given a job that needs a later entry's output
    [reader, maker] = accept(vlyard, caller, entry("read", "ref:make/dataset"), entry("make"))
    assert states(vlyard, [reader, maker]) == ["blocked", "queued"]
    assert vlyard.job(reader).spec["source"] == f"job:{maker}/dataset"
    # when that one succeeds
    end(vlyard, maker, outputs={"dataset": made})
    # then
    job = vlyard.job(reader)
    assert (job.state, job.spec["source"]) == (State.QUEUED, str(made))
    with vlyard.database.transaction() as session:
        assert rows.events(session, reader) == [(1, "state", {"state": "blocked"}), (2, "state", {"state": "queued"})]


def test_a_job_that_needs_two_others_waits_for_both(vlyard: System) -> None:
    caller = vlyard.caller()
    first, second = accept(vlyard, caller, entry("a"), entry("b"))
    # a kind with two inputs does not exist, so the second need is stored beside the first
    reader = accept_one(vlyard, caller, f"job:{first}/dataset")
    with vlyard.database.transaction() as session:
        session.add(JobDependency(job_id=reader, needs_id=second, output="name", pointer="/name"))
    end(vlyard, first, outputs={"dataset": uuid4()})
    assert states(vlyard, [reader]) == ["blocked"]
    end(vlyard, second, outputs={"name": UUID(int=7)})
    assert states(vlyard, [reader]) == ["queued"]
    assert vlyard.job(reader).spec["name"] == str(UUID(int=7))


def test_a_job_that_names_an_output_that_is_there_starts_at_once(vlyard: System) -> None:
    caller, made = vlyard.caller(), uuid4()
    maker = vlyard.submit(caller)
    end(vlyard, maker, outputs={"dataset": made})
    reader = vlyard.job(accept_one(vlyard, caller, f"job:{maker}/dataset"))
    assert (reader.state, reader.spec["source"]) == (State.QUEUED, str(made))


# --- giving up ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["failed", "cancelled", "without the output"])
def test_a_job_whose_need_will_never_be_met_fails_and_so_do_those_that_wait_for_it(vlyard: System, how: str) -> None:
    caller = vlyard.caller()
    chain = [entry("make"), entry("one", "ref:make/dataset"), entry("two", "ref:one/dataset"), entry("apart")]
    maker, one, two, apart = accept(vlyard, caller, *chain)
    if how == "cancelled":
        vlyard.cancel(caller, maker)
    else:
        end(vlyard, maker, outputs={"report": uuid4()}, fail=how == "failed")
    assert states(vlyard, [one, two, apart]) == ["failed", "failed", "queued"]
    for job, needed in ((one, maker), (two, one)):
        error = vlyard.job(job).error
        assert error is not None
        assert error["code"] == "dependency_failed"
        assert str(needed) in error["message"]
        assert error["complaints"][0]["where"] == "/source"
        assert vlyard.job(job).finished_at is not None


def test_a_blocked_job_can_be_cancelled_and_stays_so(vlyard: System) -> None:
    caller = vlyard.caller()
    maker, reader = accept(vlyard, caller, entry("make"), entry("read", "ref:make/dataset"))
    vlyard.cancel(caller, reader)
    end(vlyard, maker, outputs={"dataset": uuid4()})
    assert states(vlyard, [maker, reader]) == ["succeeded", "cancelled"]


# --- what is refused ------------------------------------------------------------------------------------------


def test_names_that_are_not_there_and_names_given_twice_are_refused_and_pointed_at(vlyard: System) -> None:
    caller = vlyard.caller()
    assert refused(vlyard, caller, entry("a"), entry("b", "ref:nobody/dataset")) == ["/jobs/1/spec/source"]
    assert refused(vlyard, caller, entry("a"), entry("a"), entry("a")) == ["/jobs/1/name", "/jobs/2/name"]


def test_an_output_that_no_job_of_its_kind_has_is_refused_before_anything_has_run(vlyard: System) -> None:
    caller, convert = vlyard.caller(), entry("convert", "ref:make/dataset")
    assert refused(vlyard, caller, entry("make"), convert, entry("b", "ref:convert/datset")) == ["/jobs/2/spec/source"]
    [_, earlier] = accept(vlyard, caller, entry("make"), convert)
    with pytest.raises(InvalidInput, match=r"no output 'datset' \(their outputs: contact_sheet, dataset, "):
        accept_one(vlyard, caller, f"job:{earlier}/datset")


def test_circles_are_refused_at_each_of_their_jobs_and_nowhere_else(vlyard: System) -> None:
    caller = vlyard.caller()
    assert refused(vlyard, caller, entry("me", "ref:me/dataset")) == ["/jobs/0/spec/source"]
    circle = [entry("a", "ref:c/dataset"), entry("b", "ref:a/dataset"), entry("c", "ref:b/dataset"), entry("free")]
    assert refused(vlyard, caller, *circle) == [f"/jobs/{at}/spec/source" for at in range(3)]


def test_an_entry_of_a_batch_is_no_name_in_a_single_request(vlyard: System) -> None:
    with pytest.raises(InvalidInput, match="/spec/source: there is no entry 'make'"):
        accept_one(vlyard, vlyard.caller(), "ref:make/dataset")


def test_jobs_of_others_and_jobs_that_will_never_have_the_output_are_refused(vlyard: System) -> None:
    ours, theirs = vlyard.caller("ours"), vlyard.caller("theirs")
    done, failed, foreign = vlyard.submit(ours), vlyard.submit(ours), vlyard.submit(theirs)
    end(vlyard, done, outputs={"report": uuid4()})
    end(vlyard, failed, fail=True)
    for job, why in (
        (done, "no output 'dataset'"),
        (failed, "is failed"),
        (foreign, "there is no job"),
        (uuid4(), "no"),
    ):
        with pytest.raises(InvalidInput, match=f"/spec/source: .*{why}"):
            accept_one(vlyard, ours, f"job:{job}/dataset")


def test_a_batch_with_one_bad_entry_stores_nothing_and_names_every_fault(vlyard: System) -> None:
    bad = [entry("a"), entry("b", pool="nowhere"), entry("c", str(uuid4())), entry("d", "ref:x/dataset")]
    assert refused(vlyard, vlyard.caller(), *bad) == ["/jobs/1/pool", "/jobs/2/spec/source", "/jobs/3/spec/source"]


# --- many, and at once ----------------------------------------------------------------------------------------


def test_a_batch_of_a_thousand_is_stored_in_order_and_found_again_by_its_key(vlyard: System) -> None:
    caller = vlyard.caller()
    many = [{"spec": {"kind": "noop", "echo": str(at)}} for at in range(1000)]
    first = accept(vlyard, caller, *many, key="k")
    assert accept(vlyard, caller, *many, key="k") == first
    assert first == sorted(first)
    with vlyard.database.transaction() as session:
        stored = session.execute(select(Job.spec["echo"].astext).order_by(Job.id)).scalars().all()
    assert stored == [str(at) for at in range(1000)]


def test_no_job_is_left_blocked_when_what_it_needs_ends_while_it_is_stored(vlyard: System) -> None:
    caller = vlyard.caller()
    for _ in range(15):
        maker, start = vlyard.submit(caller), threading.Barrier(4)

        def read(maker: UUID = maker, start: threading.Barrier = start) -> UUID:
            start.wait()
            return accept_one(vlyard, caller, f"job:{maker}/dataset")

        with ThreadPoolExecutor(3) as threads:
            readers = [threads.submit(read) for _ in range(3)]
            start.wait()
            end(vlyard, maker, outputs={"dataset": uuid4()})
            found = [reader.result() for reader in readers]
        assert states(vlyard, found) == ["queued"] * 3


def test_a_job_is_stored_only_after_the_end_of_what_it_needs_or_before_it(vlyard: System) -> None:
    # given a transaction that has stored a job and not yet committed
    caller = vlyard.caller()
    maker = vlyard.submit(caller)
    wanted = Submission.model_validate({"spec": {"kind": "conversion", "source": f"job:{maker}/dataset"}})
    with ThreadPoolExecutor(1) as threads:
        with vlyard.database.transaction() as session:
            reader = submit.submit(session, caller, wanted, None).id
            ending = threads.submit(end, vlyard, maker, outputs={"dataset": uuid4()})
            # then the other cannot end before it has
            with pytest.raises(TimeoutError):
                ending.result(timeout=0.5)
        ending.result(timeout=30)
    assert states(vlyard, [reader]) == ["queued"]


def test_a_job_goes_on_when_the_last_two_that_it_needs_end_at_once(vlyard: System) -> None:
    caller = vlyard.caller()
    for _ in range(10):
        first, second = accept(vlyard, caller, entry("a"), entry("b"))
        reader = accept_one(vlyard, caller, f"job:{first}/dataset")
        with vlyard.database.transaction() as session:
            session.add(JobDependency(job_id=reader, needs_id=second, output="name", pointer="/name"))
        with ThreadPoolExecutor(2) as threads:
            ends = [
                threads.submit(end, vlyard, first, outputs={"dataset": uuid4()}),
                threads.submit(end, vlyard, second, outputs={"name": uuid4()}),
            ]
            for each in ends:
                each.result()
        assert states(vlyard, [reader]) == ["queued"]
