"""/v1/models: a team's named models, in OpenAI's shape with ours besides."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from api.desk import House
from control.settings import Settings
from db import registry
from db.registry import NewVersion
from tests.api.conftest import Join
from tests.api.serving import serving
from tests.api.visitor import Visitor
from vlyard import Client
from vlyard.errors import NotFound

FACTS = {"method": "lora", "loss": 0.25, "dataset": "d"}


def made(visitor: Visitor, *names: str) -> Sequence[str]:
    """Versions of models with these names, made one after the other."""
    artefact, job = UUID(visitor.upload(b"weights")["id"]), UUID(visitor.submit()["id"])
    house: House = visitor.client.app.state.house  # type: ignore[attr-defined]
    with house.database.transaction() as session:
        return [
            registry.add(session, NewVersion(visitor.team, name, artefact, "demo", None, job, FACTS)) for name in names
        ]


def ask(visitor: Visitor, model: str) -> Any:
    return visitor.post("/v1/jobs", {"spec": {"kind": "prediction", "dataset": str(UUID(int=1)), "model": model}})


def test_a_model_has_openais_fields_and_ours(join: Join) -> None:
    visitor = join(team="signs-team")
    [name] = made(visitor, "signs")
    assert name == "signs-team/signs:1"
    for path in (name, name.replace("/", "%2F")):  # OpenAI's clients may quote the slash
        shown = visitor.get(f"/v1/models/{path}").json()
        assert (shown["id"], shown["object"], shown["owned_by"]) == (name, "model", "signs-team")
        assert (shown["name"], shown["version"], shown["base"], shown["manifest"]) == ("signs", 1, "demo", FACTS)
        assert isinstance(shown["created"], int)
        assert visitor.get(f"/v1/artefacts/{shown['artefact']}").status_code == 200
        assert visitor.get(f"/v1/jobs/{shown['job']}").status_code == 200


def test_models_are_listed_page_by_page_the_newest_first(join: Join) -> None:
    visitor = join()
    names = made(visitor, "a", "b", "a")
    first = visitor.get("/v1/models", params={"limit": "2"}).json()
    rest = visitor.get("/v1/models", params={"cursor": first["next_cursor"]}).json()
    assert (first["object"], rest["next_cursor"]) == ("list", None)
    assert [each["id"] for each in first["data"] + rest["data"]] == list(reversed(names))
    assert [name.rpartition("/")[2] for name in names] == ["a:1", "b:1", "a:2"]


def test_a_list_has_ones_own_models_alone(join: Join) -> None:
    owner, stranger = join(), join()
    made(owner, "signs")
    assert stranger.get("/v1/models").json()["data"] == []
    assert len(owner.get("/v1/models").json()["data"]) == 1


def test_a_model_that_there_is_not_is_refused_with_those_that_there_are(join: Join) -> None:
    visitor = join()
    [first, second] = made(visitor, "signs", "signs")
    reply = ask(visitor, second.replace(":2", ":3"))
    assert reply.status_code == 422
    fault = next(each for each in reply.json()["errors"] if each["pointer"] == "/spec/model")
    assert fault["fix"] == f"choose from {first}, {second}"
    pointers = [each["pointer"] for each in ask(visitor, second).json()["errors"]]
    assert pointers == ["/spec/dataset"]  # the model is no fault


def test_another_teams_model_is_as_if_it_did_not_exist(join: Join) -> None:
    owner, stranger = join(), join()
    [name] = made(owner, "signs")
    made(stranger, "signs")
    [fault] = [each for each in ask(stranger, name).json()["errors"] if each["pointer"] == "/spec/model"]
    assert (fault["detail"], "choose" in fault["fix"]) == (f"there is no model {name}", False)


def test_a_name_without_a_version_is_refused_with_what_to_write(visitor: Visitor) -> None:
    reply = ask(visitor, "Qwen/Qwen3-VL-2B-Instruct")
    [fault] = reply.json()["errors"]
    assert fault["pointer"] == "/spec/model"
    assert "Qwen/Qwen3-VL-2B-Instruct:1" in fault["detail"]
    assert "hub:Qwen/Qwen3-VL-2B-Instruct" in fault["detail"]


def test_the_client_lists_models_and_looks_at_one(api_settings: Settings, join: Join) -> None:
    visitor = join()
    names = made(visitor, *"abc")
    with serving(api_settings) as url, Client(url, visitor.key) as client:
        assert [model.id for model in client.models()] == list(reversed(names))
        assert client.model(names[0]).manifest == FACTS
        with pytest.raises(NotFound, match="there is no model"):
            client.model("nobody/nothing:1")
