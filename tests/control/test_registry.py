"""Named models: who makes one gets the next version, and who names one gets its artefact and what that stands on."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from control import lifecycle, submit
from control.accounts import Caller
from control.inputs import checked_inputs, inputs_of, names_of
from control.lifecycle import Ending, Rules
from control.retrying import Backoff
from db.leases import Claimed
from db.models import Job, Model, Outcome
from db.queue import Pair
from db.session import Database
from tests.db import rows
from tests.system import System
from vlyard.errors import InvalidInput
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.state import State
from vlyard.jobs.view import Submission
from vlyard.teams import Role

RULES = Rules(30, Backoff(0, 0), Random(1))


@pytest.fixture
def database(vlyard: System) -> Database:
    return vlyard.database


def training(session: Session, team: UUID, worker: UUID, **spec: Any) -> Pair:
    """A training that a worker holds."""
    pair = rows.running(session, team, worker, kind="training")
    job = session.get_one(Job, pair[0])
    job.spec = {"kind": "training", "dataset": str(uuid4()), "name": "street", "model": "demo", "seed": 3, **spec}
    session.flush()
    return pair


def success(pair: Pair, **result: Any) -> Ending:
    """The end of an attempt that made a directory called `model`."""
    made = {
        "id": uuid7(), "name": "model", "media_type": "a/b", "key": str(uuid4()), "bytes": 1, "sha256": "0" * 64,
        "kind": "tree",
    }  # fmt: skip
    told = {"model": None, "loss": 0.5, "artefacts": {"model": str(made["id"])}, **result}
    return Ending(pair, Outcome.SUCCEEDED, result=told, artefacts=[made])


def finish(session: Session, worker: UUID, *endings: Ending) -> Sequence[Mapping[str, Any]]:
    """The results that are stored when attempts end so."""
    done = lifecycle.finish(session, worker, endings, RULES)
    assert set(done.values()) == {State.SUCCEEDED}
    session.expire_all()
    return [session.get_one(Job, ending.pair[0]).result or {} for ending in endings]


def made(session: Session, team: UUID, worker: UUID, **spec: Any) -> Model:
    """The version that a training made."""
    pair = training(session, team, worker, **spec)
    finish(session, worker, success(pair))
    [model] = session.query(Model).filter_by(job_id=pair[0])
    return model


def claimed(team: UUID, **spec: Any) -> Claimed:
    known = {"kind": "prediction", "dataset": str(uuid4())}
    return Claimed(uuid4(), 1, team, "prediction", {**known, **spec}, None)


# --- making ---------------------------------------------------------------------------------------------------


def test_a_training_that_succeeds_makes_the_next_version_and_its_result_says_so(database: Database) -> None:
    with database.transaction() as session:
        team, worker = rows.team(session, "vision"), rows.worker(session)
        first, second, other = (training(session, team, worker, name=name) for name in ("street", "street", "signs"))
        results = finish(session, worker, success(first, base="hub:a/b@c"), success(second), success(other))
        assert [result["model"] for result in results] == ["vision/street:1", "vision/street:2", "vision/signs:1"]
        model = session.query(Model).filter_by(job_id=first[0]).one()
        assert (model.name, model.version, model.base, model.base_artefact_id) == ("street", 1, "hub:a/b@c", None)
        assert str(model.artefact_id) == results[0]["artefacts"]["model"]
        spec = session.get_one(Job, first[0]).spec
        assert model.manifest == {"dataset": spec["dataset"], "seed": 3, "loss": 0.5, "base": "hub:a/b@c"}


def test_teams_count_their_own_versions(database: Database) -> None:
    with database.transaction() as session:
        worker = rows.worker(session)
        teams = [rows.team(session, name) for name in ("b", "a")]
        pairs = [training(session, team, worker) for team in teams]
        assert [each["model"] for each in finish(session, worker, *map(success, pairs))] == ["b/street:1", "a/street:1"]


def test_what_failed_or_has_no_model_or_is_of_another_kind_makes_none(database: Database) -> None:
    with database.transaction() as session:
        team, worker = rows.team(session), rows.worker(session)
        lacking, failing = training(session, team, worker), training(session, team, worker)
        noop = rows.running(session, team, worker)
        failed = Ending(failing, Outcome.FAILED)
        endings = [success(lacking, artefacts={}), success(noop), failed]
        lifecycle.finish(session, worker, endings, RULES)
        assert session.query(Model).count() == 0
        session.expire_all()
        assert (session.get_one(Job, noop[0]).result or {})["model"] is None


def test_an_attempt_that_was_lost_makes_no_version(database: Database) -> None:
    with database.transaction() as session:
        team, worker = rows.team(session), rows.worker(session)
        pair = training(session, team, worker)
        assert lifecycle.finish(session, rows.worker(session), [success(pair)], RULES) == {}
        assert session.query(Model).count() == 0


def test_trainings_that_end_at_once_get_different_versions(database: Database) -> None:
    with database.transaction() as session:
        team, workers = rows.team(session, "vision"), [rows.worker(session) for _ in range(6)]
        pairs = [training(session, team, worker) for worker in workers]

    def end(worker: UUID, pair: Pair) -> str:
        with database.transaction() as session:
            [result] = finish(session, worker, success(pair))
            return str(result["model"])

    with ThreadPoolExecutor(len(pairs)) as threads:
        names = list(threads.map(end, workers, pairs))
    assert sorted(names) == [f"vision/street:{version}" for version in range(1, 7)]


# --- naming ---------------------------------------------------------------------------------------------------


def test_a_job_that_names_a_version_gets_its_artefact_and_what_it_stands_on(database: Database) -> None:
    with database.transaction() as session:
        team, worker = rows.team(session, "vision"), rows.worker(session)
        whole = made(session, team, worker, name="whole")
        tuned = made(session, team, worker, name="tuned", model="vision/whole:1")
        again = made(session, team, worker, name="again", model=str(tuned.artefact_id))
        reader = claimed(team, model="vision/again:1")
        spec, found = KINDS["prediction"].spec.model_validate(reader.spec), inputs_of(session, [reader])
        assert names_of(reader, spec, found) == {
            "vision/again:1": again.artefact_id,
            "vision/tuned:1": tuned.artefact_id,
            "vision/whole:1": whole.artefact_id,
        }
        with pytest.raises(InvalidInput, match="does not exist any more"):
            checked_inputs(reader, spec, found)  # its dataset is none
        dataset = made(session, team, worker, name="data").artefact_id
        for model in ("vision/again:1", str(again.artefact_id)):  # by name, and by what a job brought
            reader = claimed(team, model=model, dataset=str(dataset))
            spec = KINDS["prediction"].spec.model_validate(reader.spec)
            files = checked_inputs(reader, spec, inputs_of(session, [reader]))
            belonging = {again.artefact_id, tuned.artefact_id, whole.artefact_id}
            assert files[0].id == dataset
            assert {file.id for file in files[1:]} == belonging


def test_a_verification_gets_the_dataset_that_its_model_learned_from_where_the_team_can_read_it(
    database: Database,
) -> None:
    with database.transaction() as session:
        team, worker = rows.team(session, "vision"), rows.worker(session)
        dataset = made(session, team, worker, name="data").artefact_id
        made(session, team, worker, name="street", dataset=str(dataset))
        made(session, team, worker, name="lost")  # whose dataset is not there any more
        export = made(session, team, worker, name="export").artefact_id
        for name, asked_about in (("street", dataset), ("lost", None)):
            told = {"kind": "verification", "export": str(export), "model": f"vision/{name}:1"}
            reader = Claimed(uuid4(), 1, team, "verification", told, None)
            spec = KINDS["verification"].spec.model_validate(told)
            read = {file.id for file in checked_inputs(reader, spec, inputs_of(session, [reader]))}
            assert (dataset in read) == (asked_about is not None)


def test_an_export_of_a_version_is_told_where_that_comes_from(database: Database) -> None:
    with database.transaction() as session:
        team, worker = rows.team(session, "vision"), rows.worker(session)
        model = made(session, team, worker, name="street")
        for named in ("vision/street:1", str(model.artefact_id)):
            wanted = Submission.model_validate({"spec": {"kind": "export", "model": named, "verify": False}})
            job = submit.submit(session, Caller(team, Role.MEMBER), wanted, None)
            assert job.spec["lineage"] == {
                "model": "vision/street:1",
                "base": "demo",
                "stages": [{"kind": "training", "job": str(model.job_id), "figures": {"loss": 0.5}}],
            }


def test_jobs_of_one_message_get_each_their_own_models(database: Database) -> None:
    with database.transaction() as session:
        team, worker = rows.team(session, "vision"), rows.worker(session)
        one, two = made(session, team, worker, name="one"), made(session, team, worker, name="two")
        readers = [claimed(team, model=f"vision/{name}:1") for name in ("one", "two")]
        found = inputs_of(session, readers)
        specs = [KINDS["prediction"].spec.model_validate(reader.spec) for reader in readers]
        named = [names_of(reader, spec, found) for reader, spec in zip(readers, specs, strict=True)]
        assert named == [{"vision/one:1": one.artefact_id}, {"vision/two:1": two.artefact_id}]


def test_another_teams_version_is_no_ones_input(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session, "vision"), rows.worker(session)
        model = made(session, owner, worker)
        for named in ("vision/street:1", "vision/street:2", str(model.artefact_id)):
            stranger = claimed(rows.team(session), model=named)
            spec, found = KINDS["prediction"].spec.model_validate(stranger.spec), inputs_of(session, [stranger])
            assert found.files == {}
            if "/" in named:
                with pytest.raises(InvalidInput, match=f"there is no model {named}"):
                    names_of(stranger, spec, found)
