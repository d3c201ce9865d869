"""`vlyard models`, and how a version of a model is written."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner, Result

from tests.language.small_api import KEY, Fault, Reply, SmallApi, serving
from vlyard import InProcess
from vlyard.cli.app import build
from vlyard.client import Client
from vlyard.client.in_process import Files
from vlyard.errors import InvalidInput
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
