"""What a model is called, who may use it, where it comes from, what it is beside another one, and how it ends."""

import threading
from collections.abc import Sequence
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from uuid_utils.compat import uuid7

from api.desk import House
from control import lifecycle
from control.lifecycle import Ending, Rules
from control.retrying import Backoff
from control.settings import Settings
from db import leases, queue, registry
from db.models import Artefact, Job, Outcome
from db.registry import NewVersion
from db.session import Database
from tests.api.conftest import Join
from tests.api.serving import serving
from tests.api.visitor import Visitor
from tests.db import rows
from vlyard import Client, Conflict, NotFound
from vlyard.jobs.state import State
from vlyard.teams import Role


@pytest.fixture
def team() -> str:
    """The name of a team of the test's own."""
    return f"vision-{uuid4().hex[:8]}"


def database_of(visitor: Visitor) -> Database:
    house: House = visitor.client.app.state.house  # type: ignore[attr-defined]
    return house.database


def made(visitor: Visitor, *names: str, base: UUID | None = None, shared: bool = False, **manifest: Any) -> list[str]:
    """Versions of models with these names, each with an artefact of its own."""
    found = []
    for name in names:
        artefact, job = UUID(visitor.upload(b"weights")["id"]), UUID(visitor.submit()["id"])
        with database_of(visitor).transaction() as session:
            session.get_one(Job, job).state = State.SUCCEEDED
            new = NewVersion(visitor.team, name, artefact, "demo", base, job, manifest, shared)
            found.append(registry.add(session, new))
    return found


def artefact_of(visitor: Visitor, model: str) -> UUID:
    return UUID(visitor.get(f"/v1/models/{model}").json()["artefact"])


def ask(visitor: Visitor, **spec: Any) -> Any:
    image = visitor.upload(b"a picture")["id"]
    return visitor.post("/v1/jobs", {"spec": {"kind": "inference", "image": image, "prompt": "What?", **spec}})


def alias(visitor: Visitor, model: str, name: str) -> Any:
    return visitor.call("PUT", f"/v1/models/{model}/aliases/{name}")


def delete(visitor: Visitor, path: str) -> Any:
    return visitor.call("DELETE", f"/v1/models/{path}")


# --- aliases --------------------------------------------------------------------------------------------------


def test_an_alias_is_named_wherever_a_version_is_and_a_job_has_the_version(join: Join, team: str) -> None:
    visitor = join(team=team)
    first, second = made(visitor, "street", "street")
    # when an alias stands for the first version
    assert alias(visitor, first, "prod").json()["aliases"] == [f"{team}/street@prod"]
    # then it is looked at, listed and asked by that name
    assert visitor.get(f"/v1/models/{team}/street@prod").json()["id"] == first
    listed = {each["id"]: each["aliases"] for each in visitor.get("/v1/models").json()["data"]}
    assert listed == {first: [f"{team}/street@prod"], second: []}
    asked = ask(visitor, model=f"{team}/street@prod").json()
    assert asked["spec"]["model"] == first
    # when it moves, then new jobs have the second version, and the old one keeps the first
    assert alias(visitor, second, "prod").status_code == 200
    assert ask(visitor, model=f"{team}/street@prod").json()["spec"]["model"] == second
    assert visitor.get(f"/v1/jobs/{asked['id']}").json()["spec"]["model"] == first
    assert visitor.get(f"/v1/models/{first}").json()["aliases"] == []
    # when it is forgotten, then it names nothing
    assert delete(visitor, f"{first}/aliases/prod").status_code == 409
    assert delete(visitor, f"{second}/aliases/prod").status_code == 204
    [fault] = ask(visitor, model=f"{team}/street@prod").json()["errors"]
    assert (fault["pointer"], fault["fix"]) == ("/spec/model", f"choose from {first}, {second}")


def test_an_alias_for_what_there_is_not_is_refused_with_the_versions_that_there_are(join: Join, team: str) -> None:
    visitor = join(team=team)
    [first] = made(visitor, "street")

    missing = alias(visitor, f"{team}/street:7", "prod")
    badly_named = alias(visitor, first, "1st")

    assert (missing.status_code, missing.json()["errors"][0]["fix"]) == (404, f"choose from {first}")
    assert badly_named.status_code == 422
    assert visitor.get(f"/v1/models/{team}/street@prod").status_code == 404


def test_who_reads_while_an_alias_moves_sees_one_version_or_the_other(join: Join, team: str) -> None:
    # given two who move an alias without an end
    visitor = join(team=team)
    versions = made(visitor, "street", "street")
    alias(visitor, versions[0], "prod")
    database, stop = database_of(visitor), threading.Event()

    def move(version: str) -> None:
        while not stop.is_set():
            with database.transaction() as session:
                _, row = registry.one(session, visitor.team, version)
                registry.point(session, row, "prod")

    movers = [threading.Thread(target=move, args=(version,)) for version in versions]
    for mover in movers:
        mover.start()
    # when somebody reads meanwhile, then there is always one
    try:
        seen = set()
        for _ in range(300):
            with database.transaction() as session:
                seen.add(registry.one(session, visitor.team, f"{team}/street@prod")[1].version)
    finally:
        stop.set()
        for mover in movers:
            mover.join()
    assert seen == {1, 2}


def end(owner: Visitor, model: str, *users: Visitor) -> None:
    """Delete a model that only these may be using: tests share their database, and a shared one is every team's."""
    for user in users:
        for job in user.get("/v1/jobs").json()["data"]:
            user.post(f"/v1/jobs/{job['id']}/cancel")
    assert delete(owner, model).status_code == 200


# --- sharing --------------------------------------------------------------------------------------------------


def test_a_shared_model_is_every_teams_to_use_and_its_own_teams_to_change(join: Join, team: str) -> None:
    owner, other = join(team=team), join()
    [open_one] = made(owner, "qwen", shared=True)
    [closed] = made(owner, "mine")
    alias(owner, open_one, "prod")
    # it can be listed, looked at and asked
    assert [each["id"] for each in other.get("/v1/models").json()["data"]] == [open_one]
    assert other.get(f"/v1/models/{team}/qwen@prod").json()["shared"] is True
    for model in (open_one, f"{team}/qwen@prod", str(artefact_of(owner, open_one))):
        assert ask(other, model=model).status_code == 202
    # it cannot be changed
    for reply in (alias(other, open_one, "mine"), delete(other, open_one), delete(other, f"{open_one}/aliases/prod")):
        assert reply.status_code == 403
    # and what is not shared is as if it did not exist
    for path in (closed, f"{closed}/lineage", f"{open_one}/comparison?other={closed}"):
        assert other.get(f"/v1/models/{path}").status_code == 404
    for reply in (alias(other, closed, "mine"), delete(other, closed)):
        assert reply.status_code == 404
    for model in (closed, str(artefact_of(owner, closed))):
        assert ask(other, model=model).status_code == 422
    assert other.get(f"/v1/artefacts/{artefact_of(owner, closed)}").status_code == 404
    # and the other team's jobs keep it, though it is not told which they are
    delete(owner, f"{open_one}/aliases/prod")
    assert reasons(delete(owner, open_one)) == ["a job of another team"] * 3
    end(owner, open_one, other)


IMPORT = {"kind": "import", "source": "hub:Qwen/Qwen3-VL-2B-Instruct", "name": "qwen"}


def imported(visitor: Visitor, **spec: Any) -> str:
    """The version that an import makes, from its submission to its end."""
    weights = {"id": uuid7(), "name": "model", "media_type": "a/b", "key": str(uuid4()), "bytes": 1, "kind": "tree"}
    job = UUID(visitor.submit(**IMPORT, **spec)["id"])
    with database_of(visitor).transaction() as session:
        worker = rows.worker(session, kinds=["import"])
        [bell] = queue.dispatch(session, [[job]])
        leases.claim(session, worker, bell.pairs, rows.LEASE)
        result = {"model": None, "base": IMPORT["source"], "artefacts": {"model": str(weights["id"])}}
        ending = Ending(bell.pairs[0], Outcome.SUCCEEDED, result, artefacts=[{**weights, "sha256": "0" * 64}])
        lifecycle.finish(session, worker, [ending], Rules(30, Backoff(0, 0), Random(1)))
        session.expire_all()
        return str((session.get_one(Job, job).result or {})["model"])


@pytest.mark.parametrize(
    ("role", "spec", "shared"),
    [
        (Role.ADMIN, {}, True),
        (Role.ADMIN, {"shared": True}, True),
        (Role.ADMIN, {"shared": False}, False),
        (Role.MEMBER, {}, False),
        (Role.MEMBER, {"shared": False}, False),
    ],
)
def test_what_an_administrator_imports_is_every_teams_and_what_a_member_imports_the_own_teams(
    join: Join, role: Role, spec: dict[str, Any], shared: bool
) -> None:
    owner, colleague, stranger = join(role, "one-of-two"), join(Role.MEMBER, "one-of-two"), join(Role.MEMBER)

    name = imported(owner, **spec)

    assert colleague.get(f"/v1/models/{name}").json()["shared"] is shared
    assert ask(colleague, model=name).status_code == 202
    assert stranger.get(f"/v1/models/{name}").status_code == (200 if shared else 404)
    assert ask(stranger, model=name).status_code == (202 if shared else 422)
    assert (name in {each["id"] for each in stranger.get("/v1/models").json()["data"]}) is shared
    end(owner, name, colleague, stranger)


def test_a_member_cannot_share_what_is_imported(join: Join) -> None:
    refused = join(Role.MEMBER).post("/v1/jobs", {"spec": {**IMPORT, "shared": True}})

    assert refused.status_code == 403
    assert [each["pointer"] for each in refused.json()["errors"]] == ["/spec/shared"]


# --- the end --------------------------------------------------------------------------------------------------


def reasons(reply: Any) -> Sequence[str]:
    assert reply.status_code == 409, reply.text
    return [each["pointer"] for each in reply.json()["errors"]]


def test_a_version_that_is_in_use_stays_and_every_reason_is_told(join: Join, team: str) -> None:
    visitor = join(team=team)
    [base] = made(visitor, "base")
    [tuned] = made(visitor, "tuned", base=artefact_of(visitor, base))
    waiting = [ask(visitor, model=model).json()["id"] for model in (base, str(artefact_of(visitor, base)))]
    alias(visitor, base, "prod")

    assert reasons(delete(visitor, base)) == [*(f"job {job}" for job in waiting), tuned, f"{team}/base@prod"]
    assert visitor.get(f"/v1/models/{base}").status_code == 200


def test_a_version_that_nobody_needs_goes_with_its_weights(join: Join, team: str) -> None:
    visitor = join(team=team)
    [name] = made(visitor, "street")
    artefact = artefact_of(visitor, name)
    job = ask(visitor, model=name).json()["id"]
    visitor.post(f"/v1/jobs/{job}/cancel")

    assert delete(visitor, name).json() == {"id": name, "object": "model", "deleted": True}

    assert visitor.get(f"/v1/models/{name}").status_code == 404
    assert visitor.get(f"/v1/artefacts/{artefact}").status_code == 404
    assert delete(visitor, name).status_code == 404
    [next_one] = made(visitor, "street")  # what was said of a number stays true: it is not given again
    assert next_one == name.replace(":1", ":2")


def test_weights_of_which_another_version_is_made_stay(join: Join, team: str) -> None:
    visitor = join(team=team)
    [first] = made(visitor, "street")
    artefact = artefact_of(visitor, first)
    job = UUID(visitor.submit()["id"])
    with database_of(visitor).transaction() as session:
        registry.add(session, NewVersion(visitor.team, "other", artefact, "demo", None, job, {}))

    assert delete(visitor, first).status_code == 200
    assert visitor.get(f"/v1/artefacts/{artefact}").status_code == 200
    assert delete(visitor, f"{team}/other:1").status_code == 200
    assert visitor.get(f"/v1/artefacts/{artefact}").status_code == 404


def test_an_alias_is_not_deleted_as_a_model(join: Join, team: str) -> None:
    visitor = join(team=team)
    [name] = made(visitor, "street")
    alias(visitor, name, "prod")

    reply = delete(visitor, f"{team}/street@prod")

    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, "/path/model")
    assert visitor.get(f"/v1/models/{name}").status_code == 200


# --- where it comes from --------------------------------------------------------------------------------------


def job(visitor: Visitor, kind: str, result: dict[str, Any] | None = None, **spec: Any) -> UUID:
    """A job that has succeeded so."""
    row = UUID(visitor.submit()["id"])
    with database_of(visitor).transaction() as session:
        found = session.get_one(Job, row)
        found.kind, found.spec = kind, {"kind": kind, **spec}
        found.result, found.state = {"artefacts": {}, **(result or {})}, State.SUCCEEDED
    return row


def file(visitor: Visitor, name: str, maker: UUID | None = None) -> UUID:
    id = UUID(visitor.upload(name.encode(), name)["id"])
    with database_of(visitor).transaction() as session:
        session.get_one(Artefact, id).job_id = maker
    return id


def version(visitor: Visitor, name: str, maker: UUID, weights: UUID) -> str:
    with database_of(visitor).transaction() as session:
        new = NewVersion(visitor.team, name, weights, "hub:Qwen/Qwen3-VL@c0", None, maker, {"loss": 0.5})
        return registry.add(session, new)


def trained(visitor: Visitor, **more: Any) -> tuple[str, UUID]:
    """A version with a whole history, and its dataset."""
    source = file(visitor, "labels.zip")
    dataset = file(visitor, "dataset.zip", job(visitor, "conversion", {"samples": 8}, source=str(source)))
    survey = file(visitor, "survey.json", job(visitor, "training_check", dataset=str(dataset)))
    spec = {"dataset": str(dataset), "checked": str(survey), "model": "hub:Qwen/Qwen3-VL", "name": "street", **more}
    training = job(visitor, "training", {"loss": 0.5}, **spec)
    return version(visitor, "street", training, file(visitor, "model", training)), dataset


def test_the_lineage_goes_from_the_labels_to_what_was_done_with_the_model(join: Join, team: str) -> None:
    # given a trained model that was measured and taken out, and another team's job about it
    visitor, stranger = join(team=team), join()
    name, dataset = trained(visitor)
    scores = {"mean_iou": {"value": 0.75}, "samples": 8}
    measured = job(visitor, "evaluation", scores, model=name, dataset=str(dataset))
    taken_out = job(visitor, "export", model=name)
    whole = version(visitor, "whole", taken_out, file(visitor, "whole", taken_out))
    job(stranger, "evaluation", scores, model=name, dataset=str(dataset))
    # when its history is asked for
    found = visitor.get(f"/v1/models/{name}/lineage").json()
    # then it is whole
    assert (found["id"], found["base"], found["base_model"]) == (name, "hub:Qwen/Qwen3-VL@c0", None)
    assert (found["made_by"]["kind"], found["made_by"]["figures"]) == ("training", {"loss": 0.5})
    assert found["checked_by"]["kind"] == "training_check"
    assert (found["dataset"]["artefact"], found["dataset"]["name"]) == (str(dataset), "dataset.zip")
    assert (found["converted_by"]["kind"], found["converted_by"]["figures"]) == ("conversion", {"samples": 8})
    assert [piece["name"] for piece in found["sources"]] == ["labels.zip"]
    assert [(use["job"], use["model"]) for use in found["uses"]] == [(str(taken_out), whole), (str(measured), None)]
    assert found["uses"][1]["figures"] == {"mean_iou": 0.75, "samples": 8}
    # and page by page
    page = visitor.get(f"/v1/models/{name}/lineage", params={"limit": "1"}).json()
    rest = visitor.get(f"/v1/models/{name}/lineage", params={"cursor": page["next_cursor"]}).json()
    assert [use["job"] for use in page["uses"] + rest["uses"]] == [str(taken_out), str(measured)]
    # and what was made of it says so
    assert visitor.get(f"/v1/models/{whole}/lineage").json()["base_model"] == name


def test_two_models_are_compared_by_what_made_them_and_by_the_same_questions(join: Join, team: str) -> None:
    visitor = join(team=team)
    left, dataset = trained(visitor, lora_rank=8)
    right, _ = trained(visitor, lora_rank=16)
    for name, iou, splits in ((left, 0.5, ["val"]), (right, 0.75, ["val"]), (right, 0.9, ["test"])):
        figures = {"mean_iou": {"value": iou}}
        job(visitor, "evaluation", figures, model=name, dataset=str(dataset), splits=splits)

    found = visitor.get(f"/v1/models/{left}/comparison", params={"other": right}).json()

    assert (found["left"]["id"], found["right"]["id"]) == (left, right)
    assert {"field": "lora_rank", "left": 8, "right": 16} in found["spec"]
    assert "model" not in {each["field"] for each in found["spec"]}
    assert found["evaluation"]["left"]["figures"] == {"mean_iou": 0.5}
    assert found["evaluation"]["right"]["figures"] == {"mean_iou": 0.75}  # and not the one of another split
    assert found["evaluation"]["dataset"] == str(dataset)


# --- the client -----------------------------------------------------------------------------------------------


def test_the_client_names_compares_and_deletes_models(api_settings: Settings, join: Join, team: str) -> None:
    visitor = join(team=team)
    first, second = made(visitor, "street", "street")
    with serving(api_settings) as url, Client(url, visitor.key) as client:
        assert client.set_alias(first, "prod").aliases == (f"{team}/street@prod",)
        assert client.model(f"{team}/street@prod").id == first
        with pytest.raises(Conflict, match="the alias stands for the model"):
            client.delete_model(first)
        client.delete_alias(first, "prod")
        assert client.lineage(first).uses == ()
        assert client.compare_models(first, second).evaluation is None
        client.delete_model(first)
        with pytest.raises(NotFound):
            client.model(first)
        assert [model.id for model in client.models()] == [second]
