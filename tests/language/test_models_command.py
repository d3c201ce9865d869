"""`vlyard models`, and how a version of a model is written."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner, Result

from tests.language.small_api import KEY, Fault, Reply, SmallApi, problem, serving
from vlyard import InProcess
from vlyard.cli.app import build
from vlyard.client import Client
from vlyard.client.in_process import Files
from vlyard.errors import Conflict, InvalidInput, NotFound, UserError
from vlyard.jobs.generation import ModelVersion
from vlyard.jobs.prediction import PredictionSpec
from vlyard.jobs.training import TrainingResult, TrainingSpec
from vlyard.models import Model


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serving(SmallApi()) as api:
        yield api


def version(number: int, **manifest: Any) -> dict[str, Any]:
    name = f"vision/street:{number}"
    more = {"created": 1785312000, "owned_by": "vision", "name": "street", "version": number, "base": "demo"}
    return {"id": name, **more, "artefact": str(uuid4()), "job": str(uuid4()), "manifest": manifest}


def answers(api: SmallApi, *pages: Any) -> None:
    api.faults["GET /v1/models"] = [Fault(Reply(200, json.dumps(page).encode())) for page in pages]


def vlyard(api: SmallApi, *words: str) -> Result:
    return CliRunner().invoke(build(words), words, env={"VLYARD_URL": api.url, "VLYARD_API_KEY": KEY})


def test_models_are_listed_with_their_bases_and_figures(api: SmallApi) -> None:
    scored = version(2, method="lora", loss=0.25, scores={"f1": 0.875})
    answers(api, {"data": [scored], "next_cursor": "7"}, {"data": [version(1)]})

    ran = vlyard(api, "models")

    first, second = (line.split() for line in ran.stdout.splitlines()[1:])
    assert first[:5] == ["vision/street:2", "demo", "lora", "0.250", "0.875"]
    assert (second[:2], second[-1] != "") == (["vision/street:1", "demo"], True)
    assert [asked.query for asked in api.asked] == [{}, {"cursor": "7"}]


def test_models_are_listed_for_programs_as_many_as_asked(api: SmallApi) -> None:
    answers(api, {"data": [version(3), version(2), version(1)]})
    told = json.loads(vlyard(api, "models", "--json", "--limit", "2").stdout)
    assert [each["id"] for each in told] == ["vision/street:3", "vision/street:2"]
    assert all(Model.model_validate(each) for each in told)


def test_the_client_asks_for_a_model_by_its_whole_name(api: SmallApi) -> None:
    api.faults["GET /v1/models/vision"] = [Fault(Reply(200, json.dumps(version(1)).encode()))]
    with Client(api.url, KEY) as client:
        assert client.model("vision/street:1").version == 1
    assert api.asked[-1].path == "/v1/models/vision/street:1"


# --- a version's life -----------------------------------------------------------------------------------------

NAMED = "/v1/models/vision"


def steps() -> dict[str, Any]:
    """A history as the API tells it."""
    made = {"kind": "training", "state": "succeeded", "figures": {"loss": 0.25}}
    used = {"kind": "evaluation", "state": "succeeded", "figures": {"mean_iou": 0.7512}}
    return {
        "id": "vision/street:2",
        "base": "demo",
        "made_by": {"job": str(uuid4()), **made},
        "dataset": {"artefact": str(uuid4()), "name": "street.zip", "bytes": 2048},
        "sources": [{"artefact": str(uuid4()), "name": "labels.zip", "bytes": 1024}],
        "uses": [{"job": str(uuid4()), **used, "model": None}],
        "next_cursor": "9",
    }


def reply(body: Any = None, status: int = 200) -> Fault:
    return Fault(Reply(status, b"" if body is None else json.dumps(body).encode()))


def test_a_model_is_shown_with_what_it_was_made_of_and_what_was_done_with_it(api: SmallApi) -> None:
    shown, history = version(2) | {"aliases": ["vision/street@prod"], "shared": True}, steps()
    api.faults[f"GET {NAMED}"] = [reply(shown), reply(history)]

    told = vlyard(api, "models", "show", "vision/street@prod").stdout

    assert [asked.path for asked in api.asked] == [f"{NAMED}/street@prod", f"{NAMED}/street:2/lineage"]
    order = ["aliases", "@prod", "shared", "made of", "base demo", "training", "loss 0.25", "street.zip"]
    order += ["(2,048 bytes)", "labels.zip", "used by", "evaluation", "mean_iou 0.7512", "and earlier ones"]
    places = [told.find(each) for each in order]
    assert places == sorted(places)
    assert -1 not in places


def test_all_uses_of_a_version_are_iterated_over_page_by_page(api: SmallApi) -> None:
    newest, oldest = steps(), steps() | {"next_cursor": None}
    api.faults[f"GET {NAMED}"] = [reply(newest), reply(oldest)]

    with Client(api.url, KEY) as client:
        uses = client.uses("vision/street@prod")
        first = next(uses)
        asked = len(api.asked)
        (second,) = uses

    assert asked == 1
    assert [str(each.job) for each in (first, second)] == [each["uses"][0]["job"] for each in (newest, oldest)]
    assert [each.path for each in api.asked] == [f"{NAMED}/street@prod/lineage"] * 2
    assert [each.query.get("cursor") for each in api.asked] == [None, "9"]


def test_a_model_is_shown_to_programs_with_its_history(api: SmallApi) -> None:
    api.faults[f"GET {NAMED}"] = [reply(version(2)), reply(steps())]
    told = json.loads(vlyard(api, "models", "show", "vision/street:2", "--json").stdout)
    assert (told["model"]["id"], told["lineage"]["uses"][0]["kind"]) == ("vision/street:2", "evaluation")


def test_an_alias_is_set_and_forgotten(api: SmallApi) -> None:
    api.faults[f"PUT {NAMED}"] = [reply(version(2) | {"aliases": ["vision/street@prod"]})]
    api.faults[f"DELETE {NAMED}"] = [reply(status=204)]

    pointed = vlyard(api, "models", "alias", "vision/street:2", "prod")
    forgotten = vlyard(api, "models", "unalias", "vision/street:2", "prod")

    assert pointed.stdout == "vision/street@prod is vision/street:2\n"
    assert forgotten.stdout == "vision/street:2 has no alias prod any more\n"
    assert {(asked.method, asked.path) for asked in api.asked} == {
        ("PUT", f"{NAMED}/street:2/aliases/prod"),
        ("DELETE", f"{NAMED}/street:2/aliases/prod"),
    }


def test_a_model_that_is_in_use_stays_and_the_command_tells_by_what(api: SmallApi) -> None:
    users = [{"pointer": "vision/street@prod", "message": "the alias stands for the model", "fix": "delete it"}]
    in_use = problem(409, "conflict", "vision/street:2 is in use", errors=users)
    deleted = {"id": "vision/street:2", "object": "model", "deleted": True}
    api.faults[f"DELETE {NAMED}"] = [Fault(in_use), reply(deleted)]

    refused = vlyard(api, "models", "delete", "vision/street:2")
    gone = vlyard(api, "models", "delete", "vision/street:2")

    assert (refused.exit_code, gone.exit_code) == (1, 0)
    assert gone.stdout == "vision/street:2 is deleted\n"
    assert isinstance(refused.exception, Conflict)
    assert refused.exception.complaints[0].where == "vision/street@prod"


def test_two_models_are_put_side_by_side(api: SmallApi) -> None:
    measured = {"job": str(uuid4()), "kind": "evaluation", "state": "succeeded"}
    found = {
        "left": version(1),
        "right": version(2),
        "spec": [{"field": "lora_rank", "left": 8, "right": 16}],
        "manifest": [{"field": "loss", "left": 0.51234, "right": None}],
        "evaluation": {
            "dataset": str(uuid4()),
            "left": {**measured, "figures": {"mean_iou": 0.5}},
            "right": {**measured, "figures": {"mean_iou": 0.75, "f1": 0.5}},
        },
    }
    api.faults[f"GET {NAMED}"] = [reply(found)]

    ran = vlyard(api, "models", "compare", "vision/street:1", "vision/street:2")

    assert [line.split() for line in ran.stdout.splitlines()] == [
        ["vision/street:1", "vision/street:2"],
        ["loss", "0.5123", "-"],
        ["spec.lora_rank", "8", "16"],
        ["evaluation.mean_iou", "0.5", "0.75"],
        ["evaluation.f1", "-", "0.5"],
    ]
    assert api.asked[-1].query == {"other": "vision/street:2"}


# --- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["vision/street:1", "A.b_c-d/e.f:999"])
def test_a_version_is_read_and_written_alike(text: str) -> None:
    assert str(ModelVersion.read(text)) == text
    assert PredictionSpec(dataset=uuid4(), model=text).model == text


@pytest.mark.parametrize(
    "text",
    ["vision/street", "vision/street:0", "vision/street:01", "vision/street:x", "a/b/c:1", "/b:1", "a/:1", "a:1"],
)
def test_what_is_no_version_is_none(text: str) -> None:
    assert ModelVersion.read(text) is None
    with pytest.raises(ValidationError):
        PredictionSpec(dataset=uuid4(), model=text)


def test_a_name_that_lacks_its_version_is_told_what_to_write() -> None:
    with pytest.raises(ValidationError, match=r"give a version, such as a/b:1, or write hub:a/b"):
        PredictionSpec(dataset=uuid4(), model="a/b")


# --- in the process of a test ---------------------------------------------------------------------------------


def trained(spec: TrainingSpec, files: Files) -> TrainingResult:
    """A training that took no time."""
    made = files.add("model", b"weights", "application/octet-stream")
    figures = dict.fromkeys(("samples", "held_out", "unusable", "steps", "micro_batch", "accumulation"), 1)
    counts = dict.fromkeys(("parameters", "trained_parameters", "peak_bytes"), 1)
    rates = dict.fromkeys(("epochs", "loss", "seconds", "samples_per_second", "tokens_per_second"), 0.5)
    told = {"base": str(spec.model), "method": spec.method, "stopped_early": False, "precision": "fp32"}
    return TrainingResult.model_validate({
        **figures, **counts, **rates, **told, "device": "cpu", "artefacts": {"model": made},
    })  # fmt: skip


def test_a_training_in_memory_makes_versions_that_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"data")
    api = InProcess({TrainingSpec: trained})
    with Client(transport=api) as client:
        spec = TrainingSpec(dataset=client.upload(tmp_path / "data").id, name="street")
        first, second = (str(client.run(spec).model) for _ in range(2))
        assert (first, second) == ("in-process/street:1", "in-process/street:2")
        assert [model.id for model in client.models()] == [second, first]
        assert (client.model(first).base, client.model(first).manifest["loss"]) == ("demo", 0.5)
        client.run(spec.model_copy(update={"model": first}))
        with pytest.raises(InvalidInput, match=f"choose from {first}, {second}"):
            client.submit(spec.model_copy(update={"model": "in-process/street:9"}))


def test_a_model_in_memory_is_asked_by_its_alias_and_ends_when_nothing_stands_for_it(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"data")
    api = InProcess({TrainingSpec: trained})
    with Client(transport=api) as client:
        spec = TrainingSpec(dataset=client.upload(tmp_path / "data").id, name="street")
        first, second = (str(client.run(spec).model) for _ in range(2))
        alias, asked = "in-process/street@prod", spec.model_copy(update={"model": "in-process/street@prod"})
        assert client.set_alias(first, "prod").aliases == (alias,)
        assert client.set_alias(second, "prod").aliases == (alias,)
        assert [(model.id, model.aliases) for model in client.models()] == [(second, (alias,)), (first, ())]
        assert client.model(alias).id == second
        assert client.submit(asked).model_dump(mode="json")["spec"]["model"] == second
        with pytest.raises(Conflict, match="the alias stands for the model"):
            client.delete_model(second)
        with pytest.raises(Conflict, match="does not stand for"):
            client.delete_alias(first, "prod")
        with pytest.raises(InvalidInput):
            client.set_alias(first, "1st")
        client.delete_alias(alias, "prod")
        with pytest.raises(InvalidInput, match=f"choose from {first}, {second}"):
            client.submit(asked)
        client.delete_model(second)
        with pytest.raises(NotFound):
            client.model(second)
        # no number is given twice
        assert client.run(spec).model == "in-process/street:4"
        with pytest.raises(UserError, match=r"does not serve GET .*/lineage"):
            client.lineage(first)
