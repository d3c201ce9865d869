import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import torch

from control.settings import Settings
from tests.workers.desks import Desk
from vlyard.demo.shapes import draw_dataset
from vlyard.errors import Cancelled, InvalidInput, RefusedArchive
from vlyard.formats.archive import pack
from vlyard.formats.convert import convert
from vlyard.jobs.conversion import ConversionOptions
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.training_check import TrainingCheckResult, TrainingCheckSpec
from workers.training_check import check, run

torch.set_num_threads(1)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


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
    assert files.keys() == {"survey", "preview"}
    survey = json.loads(files["survey"])
    assert survey["tokens"] == result.tokens
    assert sum(survey["lengths"]["counts"]) == 6
    assert len(json.loads(files["preview"])) == 5


def test_an_archive_is_checked_as_its_folder_is(desk: Desk, converted: Path) -> None:
    pack(converted, converted.with_suffix(".zip"))

    result, _ = check_it(desk, desk.lay_down(converted.with_suffix(".zip"), "converted.zip"))

    whole, _ = check_it(desk, desk.lay_down(converted, "converted"))
    assert result.model_copy(update={"artefacts": {}}) == whole.model_copy(update={"artefacts": {}})


def test_unusable_samples_are_all_listed_and_fail_no_check_even_where_a_training_would_refuse_them(
    desk: Desk, converted: Path
) -> None:
    for picture in sorted((converted / "images").rglob("*.png"))[:2]:
        picture.write_bytes(b"damaged")

    result, files = check_it(desk, desk.lay_down(converted, "converted"), policy="refuse")

    lines = [json.loads(line) for line in files["unusable"].splitlines()]
    assert result.unusable == len(lines) == 2
    assert result.samples + result.held_out == 6
    assert {line["code"] for line in lines} == {"unreadable_picture"}
    assert all(line["sample"].startswith("grounding") for line in lines)


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
