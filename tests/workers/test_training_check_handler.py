import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import torch
from PIL import Image

from control.settings import Settings
from tests.workers.desks import Desk
from vlyard.demo.shapes import draw_dataset
from vlyard.errors import Cancelled, InvalidInput, RefusedArchive
from vlyard.formats.archive import pack
from vlyard.formats.convert import convert
from vlyard.jobs.conversion import ConversionOptions
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.training_check import TrainingCheckResult, TrainingCheckSpec
from workers.qwen.loading import DEMO_FOLDER
from workers.qwen.manifest import Manifest, write_manifest
from workers.training_check import check, run

torch.set_num_threads(1)


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """A converted dataset of eight pictures, six of them to train on."""
    draw_dataset(tmp_path / "shapes", count=8, seed=9)
    options = ConversionOptions(split={"train": 0.75, "val": 0.25})
    convert(tmp_path / "shapes", tmp_path / "converted", options, lambda *_: None)
    return tmp_path / "converted"


def check_it(desk: Desk, dataset: UUID, **more: Any) -> tuple[TrainingCheckResult, dict[str, bytes]]:
    context = desk.context()
    spec = TrainingCheckSpec.model_validate({"dataset": dataset, **more})
    settings = Settings(models_dir=desk.folder / "models", cache_dir=desk.folder / "cache")
    result = check(spec, context, settings)
    files = {file.id: desk.store.content(file) for file in context.published}
    return result, {name: files[id] for name, id in result.artefacts.items()}


def test_the_row_of_the_kind_names_this_handler() -> None:
    assert KINDS["training_check"].handler == f"{run.__module__}:{run.__name__}"


def test_a_sound_dataset_is_told_in_numbers_and_shown_in_samples(desk: Desk, converted: Path) -> None:
    result, files = check_it(desk, desk.lay_down(converted, "converted"))

    assert (result.samples, result.held_out, result.unusable) == (6, 2, 0)
    assert files.keys() == {"survey", "preview", "sheet"}
    survey = json.loads(files["survey"])
    assert survey["tokens"] == result.tokens
    assert sum(survey["lengths"]["counts"]) == 6
    assert len(json.loads(files["preview"])) == 5
    assert result.warnings == ()
    assert result.prompt == survey["prompt"]
    with Image.open(BytesIO(files["sheet"])) as sheet:
        assert sheet.width > 4 * 128


def test_an_archive_is_checked_as_its_folder_is(desk: Desk, converted: Path) -> None:
    pack(converted, converted.with_suffix(".zip"))

    result, _ = check_it(desk, desk.lay_down(converted.with_suffix(".zip"), "converted.zip"))

    whole, _ = check_it(desk, desk.lay_down(converted, "converted"))
    assert result.model_copy(update={"artefacts": {}}) == whole.model_copy(update={"artefacts": {}})


def test_a_check_fails_where_the_training_would_and_lists_every_sample_in_its_log(
    desk: Desk, converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for picture in sorted((converted / "images").rglob("*.png"))[:2]:
        picture.write_bytes(picture.read_bytes()[:-100])  # of a sound header

    with pytest.raises(InvalidInput, match=r"2 of 8 samples cannot be learned.*grounding.*: sample") as refused:
        check_it(desk, desk.lay_down(converted, "converted"))

    assert len(refused.value.complaints) == 2
    lines = capsys.readouterr().out.splitlines()  # a process of its own logs what it prints
    assert sum("(unreadable_picture)" in line for line in lines) == 2


def test_to_look_alone_the_samples_that_cannot_be_learned_are_left_out_and_all_listed(
    desk: Desk, converted: Path
) -> None:
    for picture in sorted((converted / "images").rglob("*.png"))[:2]:
        picture.write_bytes(picture.read_bytes()[:-100])

    result, files = check_it(desk, desk.lay_down(converted, "converted"), policy="quarantine")

    lines = [json.loads(line) for line in files["unusable"].splitlines()]
    assert result.unusable == len(lines) == 2
    assert result.samples + result.held_out == 6
    assert {line["code"] for line in lines} == {"unreadable_picture"}
    assert all(line["sample"].startswith("grounding") for line in lines)


def test_what_is_probably_not_meant_is_a_warning(desk: Desk, converted: Path) -> None:
    result, _ = check_it(
        desk, desk.lay_down(converted, "converted"), held_out=None, precision="fp16", method="full", gpus=2
    )

    held_out, gpu = result.warnings
    assert "no sample is held out" in held_out
    assert "fp16 needs a GPU" in gpu


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"held_out": "test", "evaluate": "end"}, "/spec/held_out: no sample is held out as 'test'"),
        ({"lora_modules": ["q_projection"]}, "/spec/lora_modules: .*q_projection"),
    ],
)
def test_what_the_training_would_refuse_fails_the_check(
    desk: Desk, converted: Path, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        check_it(desk, desk.lay_down(converted, "converted"), **fields)


def test_a_base_that_was_tuned_is_checked_as_it_was_tuned(desk: Desk, converted: Path) -> None:
    tuned = desk.folder / "models" / "tuned"
    shutil.copytree(DEMO_FOLDER, tuned)
    manifest = Manifest(
        base="demo", method="full", prompt=None, system="Be kind.", chat_template=None, min_pixels=12_288,
        max_pixels=65_536, dataset="", dataset_sha256="", spec={}, metrics={}, libraries={}, seed=0,
    )  # fmt: skip
    write_manifest(tuned, manifest)

    result, files = check_it(desk, desk.lay_down(converted, "converted"), model="tuned")

    assert (result.min_pixels, result.max_pixels) == (12_288, 65_536)
    assert "Be kind." in json.loads(files["preview"])[0]["parts"][0]["text"]
    other, _ = check_it(desk, desk.lay_down(converted, "converted"), model="tuned", max_pixels=16_384)
    assert other.max_pixels == 16_384


def test_where_nothing_can_be_learned_the_check_fails_with_the_first_reasons(desk: Desk, converted: Path) -> None:
    with pytest.raises(InvalidInput, match="no sample can be learned") as caught:
        check_it(desk, desk.lay_down(converted, "converted"), answers="points")

    assert "grounding.json: sample 1: its answer" in str(caught.value)


def test_a_dataset_that_is_none_and_an_archive_that_climbs_out_are_refused(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("nothing")

    with pytest.raises(InvalidInput, match="/spec/dataset: it is not what a conversion made"):
        check_it(desk, desk.lay_down(tmp_path / "notes", "notes"))
    with pytest.raises(RefusedArchive):
        check_it(desk, desk.lay_down(b"no archive", "dataset.zip"))


def test_a_model_that_is_no_qwen3_vl_is_refused_by_its_config(desk: Desk, converted: Path) -> None:
    other = desk.folder / "models" / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "llama"}')

    with pytest.raises(InvalidInput, match=r"other/config\.json: the model_type is 'llama'"):
        check_it(desk, desk.lay_down(converted, "converted"), model="other")


def test_a_cancelled_check_stops_while_it_reads_and_publishes_nothing(desk: Desk, converted: Path) -> None:
    calls: list[None] = []

    def stop() -> None:
        calls.append(None)
        if len(calls) > 1:
            raise Cancelled

    pack(converted, converted.with_suffix(".zip"))
    spec = TrainingCheckSpec(dataset=desk.lay_down(converted.with_suffix(".zip"), "converted.zip"))
    context = desk.context(stop)

    with pytest.raises(Cancelled):
        check(spec, context, Settings(cache_dir=desk.folder / "cache"))

    assert context.published == []
