"""A version is deleted, or named by a job that is being stored: whoever comes second waits, and sees what was done."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from sqlalchemy.orm import Session

from control import registry, submit
from control.accounts import Caller
from db import registry as stored
from db.models import Model
from db.session import Database
from tests.control.locks import waiting_for_locks
from tests.control.test_registry import made
from tests.db import rows
from tests.system import System
from vlyard.errors import Conflict, InvalidInput
from vlyard.jobs.generation import ModelVersion
from vlyard.jobs.view import Submission

# How a job may name the version that another one made.
WAYS: Mapping[str, Callable[[str, Model], str]] = {
    "its name": lambda name, _: name,
    "an alias": lambda name, _: name.replace(":1", "@prod"),
    "its weights": lambda _, model: str(model.artefact_id),
    "its maker": lambda _, model: f"job:{model.job_id}/model",
}


def named_so(vlyard: System, way: str) -> tuple[Caller, str, Submission]:
    """Somebody with a model, the model's name, and a job that names it in that way."""
    caller = vlyard.caller()
    with vlyard.database.transaction() as session:
        model = made(session, caller.team, rows.worker(session))
        name = str(ModelVersion("vision", model.name, model.version))
        if way == "an alias":
            stored.point(session, model, "prod")
        spec = {"kind": "export", "model": WAYS[way](name, model), "verify": False}
    return caller, name, Submission.model_validate({"spec": spec})


def meanwhile(database: Database, work: Callable[[Session], object]) -> Future[object]:
    """The same in another transaction, which has begun to wait for this one."""

    def do() -> object:
        with database.transaction() as session:
            return work(session)

    threads = ThreadPoolExecutor(1)
    doing = threads.submit(do)
    threads.shutdown(wait=False)
    until = time.monotonic() + 20
    while not doing.done() and not waiting_for_locks(database) and time.monotonic() < until:
        time.sleep(0.02)
    assert not doing.done()
    return doing


@pytest.mark.parametrize("way", WAYS)
def test_who_deletes_a_version_waits_for_a_job_that_is_being_stored_and_then_sees_it(vlyard: System, way: str) -> None:
    caller, name, wanted = named_so(vlyard, way)
    with vlyard.database.transaction() as session:
        job = submit.submit(session, caller, wanted, None)
        deleting = meanwhile(vlyard.database, lambda other: registry.delete(other, caller, name))
    with pytest.raises(Conflict, match=f"job {job.id}: it names the model and has not ended"):
        deleting.result(20)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "an alias"])  # that alone keeps a version
def test_who_names_a_version_while_it_is_deleted_waits_and_then_does_not_find_it(vlyard: System, way: str) -> None:
    caller, name, wanted = named_so(vlyard, way)
    with vlyard.database.transaction() as session:
        assert registry.delete(session, caller, name) == name
        storing = meanwhile(vlyard.database, lambda other: submit.submit(other, caller, wanted, None))
    with pytest.raises(InvalidInput, match=r"there is no|has no output"):
        storing.result(20)
