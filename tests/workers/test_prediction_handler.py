import json
import zipfile
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import torch

from tests.workers.desks import Desk
from vlyard.demo.shapes import draw_dataset
from vlyard.errors import Cancelled, InvalidInput, RefusedArchive
from vlyard.formats.archive import pack
from vlyard.formats.convert import convert
from vlyard.jobs.conversion import DEFAULT_PROMPT, ConversionOptions
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.prediction import PredictionResult, PredictionSpec
from workers.prediction import gather, predict, run

torch.set_num_threads(1)


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """A converted dataset of eight pictures, six of them to train on."""
    draw_dataset(tmp_path / "shapes", count=8, seed=9)
    options = ConversionOptions(split={"train": 0.75, "val": 0.25})
    convert(tmp_path / "shapes", tmp_path / "converted", options, lambda *_: None)
    return tmp_path / "converted"


def ask(desk: Desk, dataset: UUID, **more: Any) -> tuple[PredictionResult, list[dict[str, Any]]]:
    context = desk.context()
    spec = PredictionSpec.model_validate({"dataset": dataset, "do_sample": False, **more})
    result = predict(spec, context, desk.models)
    [file] = context.published
    return result, [json.loads(line) for line in desk.store.content(file).splitlines()]


def put_together(desk: Desk, parts: list[list[dict[str, Any]]]) -> tuple[PredictionResult, list[dict[str, Any]]]:
    """What is gathered of the files of these shards."""
    files = [desk.lay_down("\n".join(map(json.dumps, lines)).encode(), "predictions.jsonl") for lines in parts]
    context = desk.context()
    result = gather(files, context)
    return result, [json.loads(line) for line in desk.store.content(context.published[0]).splitlines()]


def test_the_row_of_the_kind_names_this_handler() -> None:
    assert KINDS["prediction"].handler == f"{run.__module__}:{run.__name__}"


def test_a_converted_dataset_is_asked_its_own_questions_and_its_answers_stand_beside(
    desk: Desk, converted: Path
) -> None:
    result, lines = ask(desk, desk.lay_down(converted, "converted"))

    assert (result.samples, result.answered, result.unanswered, result.objects) == (8, 8, 0, 8)
    assert [line["sample"] for line in lines] == list(range(1, 9))
    assert [line["split"] for line in lines] == ["train"] * 6 + ["val"] * 2
    right = [line["answer"]["objects"][0]["label"] == json.loads(line["truth"])[0]["label"] for line in lines]
    assert sum(right) >= 7
    assert result.finish_reasons == {"stop": 8}
    assert result.completion_tokens == sum(line["answer"]["completion_tokens"] for line in lines)
    assert result.model is not None
    assert result.model.name == "demo"
    assert max(line["answer"]["batch"] for line in lines) > 1


def test_an_archive_of_it_a_split_and_a_limit_are_what_was_asked_for(desk: Desk, converted: Path) -> None:
    pack(converted, converted.with_suffix(".zip"))
    dataset = desk.lay_down(converted.with_suffix(".zip"), "converted.zip")

    _, lines = ask(desk, dataset, splits=["val"], limit=1)

    assert [line["split"] for line in lines] == ["val"]


def test_a_question_of_ones_own_is_asked_once_about_each_picture(desk: Desk, tmp_path: Path) -> None:
    draw_dataset(tmp_path / "shapes", count=2, seed=9)
    options = ConversionOptions(questions=3)
    convert(tmp_path / "shapes", tmp_path / "many", options, lambda *_: None)

    _, own = ask(desk, desk.lay_down(tmp_path / "many", "many"), max_new_tokens=2)
    _, mine = ask(desk, desk.lay_down(tmp_path / "many", "many"), prompt="What?", max_new_tokens=2)

    assert len(own) == 6
    assert [line["question"] for line in mine] == ["What?"] * 2
    assert [line["truth"] for line in mine] == [None, None]


def test_shards_share_the_samples_and_gathered_they_are_all_in_order(desk: Desk, converted: Path) -> None:
    dataset = desk.lay_down(converted, "converted")
    _, whole = ask(desk, dataset)
    parts = [ask(desk, dataset, shards=3, shard=shard, gathered=True)[1] for shard in range(3)]

    result, gathered = put_together(desk, parts)

    assert [len(lines) - 1 for lines in parts] == [3, 3, 2]  # the first line of each is its model
    assert [(line["sample"], line["answer"]["text"]) for line in gathered] == [
        (line["sample"], line["answer"]["text"]) for line in whole
    ]
    assert (result.samples, result.answered) == (8, 8)
    assert result.model is not None
    assert result.model.name == "demo"


def test_a_shard_that_nobody_gathers_is_a_file_like_any_other(desk: Desk, converted: Path) -> None:
    result, lines = ask(desk, desk.lay_down(converted, "converted"), shards=3, shard=1, max_new_tokens=1)

    assert [line["sample"] for line in lines] == [2, 5, 8]
    assert result.samples == 3


def test_a_shard_without_anything_to_ask_about_leaves_it_to_the_others(desk: Desk, converted: Path) -> None:
    # given two samples for three shards, one of them about a picture that cannot be read
    dataset = desk.lay_down(converted, "converted")
    damaged = {"sample": 1, "picture": "a.png", "error": {"code": "invalid_input", "message": "damaged"}}

    parts = [ask(desk, dataset, splits=["val"], shards=3, shard=shard, gathered=True)[1] for shard in range(3)]
    parts[0][1:] = [damaged]
    result, gathered = put_together(desk, parts)

    assert [len(lines) - 1 for lines in parts] == [1, 1, 0]
    assert (result.samples, result.answered) == (2, 1)
    with pytest.raises(InvalidInput, match="No sample could be asked about"):
        put_together(desk, [parts[0], parts[2]])
    with pytest.raises(InvalidInput, match="nothing to ask about"):
        put_together(desk, [parts[2]])
    assert gathered[0] == damaged


def test_pictures_that_cannot_be_asked_about_have_a_line_that_says_why(desk: Desk, converted: Path) -> None:
    [first, second, *_] = sorted((converted / "images").rglob("*.png"))
    first.write_bytes(b"damaged")
    second.unlink()

    result, lines = ask(desk, desk.lay_down(converted, "converted"))

    assert (result.answered, result.unanswered) == (6, 2)
    faults = {line["picture"]: line["error"]["message"] for line in lines if "error" in line}
    assert len(faults) == 2
    assert all(Path(name).name in message for name, message in faults.items())


def test_a_dataset_whose_pictures_are_elsewhere_reads_nothing_of_this_machine(desk: Desk, converted: Path) -> None:
    secret = desk.folder / "secret.png"
    sorted((converted / "images").rglob("*.png"))[0].rename(secret)
    name = f"{next(iter(json.loads((converted / 'report.json').read_text())['data_sets']))}.json"
    samples = json.loads((converted / name).read_text())
    for at, path in enumerate((str(secret), "../secret.png")):
        samples[at]["images"] = [path]
    (converted / name).write_text(json.dumps(samples))

    _, lines = ask(desk, desk.lay_down(converted, "converted"))

    assert [("error" in line) for line in lines[:2]] == [True, True]
    assert all("leads out of the dataset" in line["error"]["message"] for line in lines[:2])


def test_nothing_that_can_be_asked_about_fails_the_job_with_the_first_reasons(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(5):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(b"no picture")

    with pytest.raises(InvalidInput) as caught:
        ask(desk, desk.lay_down(tmp_path / "pictures", "pictures"), prompt="What?")

    assert [complaint.where for complaint in caught.value.complaints] == ["0.png", "1.png", "2.png"]


def test_a_dataset_without_any_picture_is_refused(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing")

    with pytest.raises(InvalidInput, match="no pictures"):
        ask(desk, desk.lay_down(tmp_path / "empty", "empty"), prompt="What?")


@pytest.mark.parametrize(
    ("more", "where"),
    [({}, "/spec/prompt"), ({"prompt": "x", "splits": ["val"]}, "/spec/splits")],
)
def test_pictures_alone_have_no_questions_and_no_splits(
    desk: Desk, tmp_path: Path, more: dict[str, Any], where: str
) -> None:
    draw_dataset(tmp_path / "shapes", count=1, seed=1)

    with pytest.raises(InvalidInput) as caught:
        ask(desk, desk.lay_down(tmp_path / "shapes" / "images", "images"), **more)

    assert caught.value.complaints[0].where == where


def test_a_split_that_there_is_not_is_refused_with_those_that_there_are(desk: Desk, converted: Path) -> None:
    with pytest.raises(InvalidInput, match="it has train, val"):
        ask(desk, desk.lay_down(converted, "converted"), splits=["test"])


def test_an_archive_that_climbs_out_is_refused(desk: Desk, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../escaped.png", "x")

    with pytest.raises(RefusedArchive):
        ask(desk, desk.lay_down(tmp_path / "evil.zip", "evil.zip"), prompt="x")


def test_a_cancelled_prediction_stops_and_publishes_nothing(desk: Desk, converted: Path) -> None:
    dataset = desk.lay_down(converted, "converted")
    calls: list[None] = []

    def check() -> None:
        calls.append(None)
        if len(calls) > 60:
            raise Cancelled

    context = desk.context(check)
    with pytest.raises(Cancelled):
        predict(PredictionSpec(dataset=dataset, do_sample=False), context, desk.models)

    assert context.published == []


def test_a_part_that_is_no_prediction_is_named_by_its_line(desk: Desk) -> None:
    nameless = desk.lay_down(b'{"sample": 1}\n', "predictions.jsonl")
    nonsense = desk.lay_down(b'{"sample": 1, "picture": "a"}nonsense\n', "predictions.jsonl")

    with pytest.raises(InvalidInput, match="does not say which model answered"):
        gather([nameless], desk.context())
    with pytest.raises(InvalidInput, match=r"predictions\.jsonl:1 is no prediction"):
        gather([nonsense], desk.context())


def test_a_prompt_is_worded_by_a_preset(desk: Desk, tmp_path: Path) -> None:
    draw_dataset(tmp_path / "shapes", count=1, seed=1)
    images = desk.lay_down(tmp_path / "shapes" / "images", "images")

    _, [line] = ask(desk, images, preset="ground", classes=["red circle"], max_new_tokens=2)

    assert "red circle" in line["question"]
    assert line["question"] != DEFAULT_PROMPT
