import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any
from uuid import UUID

import pytest
import torch
from PIL import Image

from control.settings import Settings
from tests.workers.desks import Desk
from vlyard.demo.shapes import draw_dataset
from vlyard.errors import Cancelled, InvalidInput
from vlyard.formats.comparing import compare
from vlyard.formats.convert import convert
from vlyard.jobs.conversion import ConversionOptions
from vlyard.jobs.evaluation import EvaluationResult, EvaluationSpec
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.prediction import PredictionSpec
from workers.asking import Models, make_models
from workers.evaluation import evaluate, run
from workers.prediction import predict

torch.set_num_threads(1)

CAT = '[{"bbox_2d": [0, 0, 500, 500], "label": "cat"}]'


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    own = Desk(tmp_path_factory.mktemp("models")).models
    yield own
    own.warm.unload()


@pytest.fixture
def desk(tmp_path: Path, models: Models) -> Desk:
    own = Desk(tmp_path)
    own.models = models
    return own


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted dataset of eight pictures, six of them to train on."""
    folder = tmp_path_factory.mktemp("datasets")
    draw_dataset(folder / "shapes", count=8, seed=9)
    options = ConversionOptions(split={"train": 0.75, "val": 0.25})
    convert(folder / "shapes", folder / "converted", options, lambda *_: None)
    return folder / "converted"


@pytest.fixture
def converted(made_once: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(copytree(made_once, tmp_path / "converted"))


class Made:
    """An evaluation's result and its outputs' contents, by name."""

    def __init__(self, desk: Desk, dataset: UUID, **more: Any) -> None:
        context = desk.context()
        spec = EvaluationSpec.model_validate({"dataset": dataset, "bootstrap": 50, **more})
        self.result: EvaluationResult = evaluate(spec, context, desk.models)
        files = {file.id: desk.store.content(file) for file in context.published}
        self.outputs = {name: files[id] for name, id in self.result.artefacts.items()}
        self.lines = [json.loads(line) for line in self.outputs["pictures"].splitlines()]
        self.report = json.loads(self.outputs["report"])


def samples_of(converted: Path, split: str = "train") -> tuple[Path, list[dict[str, Any]]]:
    """A split's file and what it holds."""
    parts = json.loads((converted / "report.json").read_text())["data_sets"]
    name = next(name for name, part in parts.items() if part["split"] == split)
    path = converted / f"{name}.json"
    return path, json.loads(path.read_text())


def answered(converted: Path, answer: str) -> Path:
    """The dataset with that answer in the place of its own."""
    for split in ("train", "val"):
        path, samples = samples_of(converted, split)
        for sample in samples:
            turns = sample.get("messages") or sample["conversations"]
            turns[-1]["content" if "content" in turns[-1] else "value"] = answer
        path.write_text(json.dumps(samples))
    return converted


def test_the_row_of_the_kind_names_this_handler() -> None:
    assert KINDS["evaluation"].handler == f"{run.__module__}:{run.__name__}"


def test_the_demo_model_finds_what_is_there_and_an_untrained_one_does_not(desk: Desk, converted: Path) -> None:
    dataset = desk.lay_down(converted, "converted")

    made = Made(desk, dataset)
    untrained = Made(desk, dataset, model="untrained", max_new_tokens=40).result

    result = made.result
    assert (result.samples, result.unanswered, result.objects) == (8, 0, 8)
    assert result.at_50.f1.value > 0.8
    assert result.mean_iou.value > 0.8
    assert result.map_50 is not None
    assert result.map_50 > 0.8
    assert result.confidence == "probability"
    assert result.model is not None
    assert result.model.name == "demo"
    assert untrained.at_50.f1.value < 0.1
    assert untrained.map_50 is not None
    assert untrained.map_50 < 0.1
    assert untrained.mean_iou.value < 0.2
    confidences = [each["confidence"] for line in made.lines for each in line["objects"]]
    assert len({*confidences}) > 4
    assert all(0 < each < 1 for each in confidences)


def test_every_question_has_a_line_and_every_class_a_row_that_agree_with_the_figures(
    desk: Desk, converted: Path
) -> None:
    made = Made(desk, desk.lay_down(converted, "converted"))

    right = sum(line["true_positives"] for line in made.lines)
    assert right == made.result.at_50.true_positives == sum(len(line["matches"]) for line in made.lines)
    assert [line["sample"] for line in made.lines] == list(range(1, 9))
    assert all(line["size"] == [256, 256] for line in made.lines)
    assert all(line["matches"][0]["iou"] > 0.5 for line in made.lines if line["matches"])
    rows = list(csv.DictReader(io.StringIO(made.outputs["classes"].decode())))
    assert sum(int(row["truth"]) for row in rows) == made.result.objects
    assert sum(int(row["true_positives"]) for row in rows) == right
    assert made.report["figures"]["map_50"] == made.result.map_50
    assert set(made.report["slices"]) == {"area_pixels", "side_of_picture", "picture_aspect", "objects_in_picture"}
    assert Image.open(io.BytesIO(made.outputs["gallery"])).width > 1000


def test_the_worst_pictures_are_shown_first(desk: Desk, converted: Path) -> None:
    path, samples = samples_of(converted)
    turns = samples[3].get("messages") or samples[3]["conversations"]
    turns[-1]["content" if "content" in turns[-1] else "value"] = CAT
    path.write_text(json.dumps(samples))
    dataset = desk.lay_down(converted, "converted")

    made = Made(desk, dataset, gallery=1)

    sheet = Image.open(io.BytesIO(made.outputs["gallery"])).convert("RGB")
    assert made.lines[3]["false_negatives"] == 1
    # the cat's box ends in the middle of the picture, where its frame is in the truth's colour
    assert sheet.getpixel((10 + 158, sheet.height - 366 + 150)) == (40, 200, 80)
    assert "gallery" not in Made(desk, dataset, gallery=0).outputs


def test_splits_and_a_limit_are_what_was_asked_for(desk: Desk, converted: Path) -> None:
    dataset = desk.lay_down(converted, "converted")

    assert [line["split"] for line in Made(desk, dataset, splits=["val"]).lines] == ["val"] * 2
    assert Made(desk, dataset, limit=3).result.samples == 3


def test_predictions_are_measured_without_a_model_and_as_the_model_itself_is(desk: Desk, converted: Path) -> None:
    dataset = desk.lay_down(converted, "converted")
    context = desk.context()
    predict(PredictionSpec(dataset=dataset, do_sample=False), context, desk.models)
    predictions = desk.lay_down(desk.store.content(context.published[0]), "predictions.jsonl")

    given = Made(desk, dataset, predictions=predictions, model="not-there")

    assert given.result.model is None
    assert given.result.confidence == "ones"
    asked = Made(desk, dataset, confidence="ones").result
    without = {"model", "artefacts"}
    assert given.result.model_dump(exclude=without) == asked.model_dump(exclude=without)
    assert Made(desk, dataset, predictions=predictions, splits=["val"]).result.samples == 2


def test_predictions_of_a_question_of_ones_own_are_measured_against_the_datasets_truth(
    desk: Desk, converted: Path
) -> None:
    dataset = desk.lay_down(converted, "converted")
    lines = [
        {"sample": 1, "picture": line["picture"], "split": "train", "question": "Where?", "truth": None, "answer": {
            "text": json.dumps(line["truth"]), "finish_reason": "stop", "pictures": [{"width": 256, "height": 256}]
        }}
        for line in Made(desk, dataset, limit=3).lines
    ]  # fmt: skip
    error = {**lines[0], "error": {"code": "x", "message": "no such picture"}}
    del error["answer"]
    file = "\n".join(map(json.dumps, [*lines, error])).encode()

    result = Made(desk, dataset, predictions=desk.lay_down(file, "predictions.jsonl")).result

    assert (result.samples, result.unanswered, result.at_50.true_positives) == (4, 1, 3)
    assert (result.at_50.precision.value, result.at_50.recall.value) == (1.0, 0.75)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", r"predictions\.jsonl:1: it is no prediction"),
        ('{"picture": "a.png"}', r"predictions\.jsonl:1: it is no prediction"),
        (
            '{"picture": "a.png", "split": "val", "question": "?", "truth": null, "error": {"message": "x"}}',
            "has no picture a.png",
        ),
        ("", "no answer to measure"),
    ],
)
def test_predictions_that_do_not_fit_are_named_by_their_line(
    desk: Desk, converted: Path, line: str, message: str
) -> None:
    predictions = desk.lay_down(line.encode(), "predictions.jsonl")

    with pytest.raises(InvalidInput, match=message):
        Made(desk, desk.lay_down(converted, "converted"), predictions=predictions)


def test_a_question_of_ones_own_is_asked_once_about_each_picture_and_all_its_objects_count(
    desk: Desk, tmp_path: Path
) -> None:
    draw_dataset(tmp_path / "shapes", count=2, seed=9)
    convert(tmp_path / "shapes", tmp_path / "many", ConversionOptions(questions=3), lambda *_: None)

    made = Made(desk, desk.lay_down(tmp_path / "many", "many"), prompt="What?", max_new_tokens=2)

    assert [line["question"] for line in made.lines] == ["What?"] * 2
    assert [len(line["truth"]) for line in made.lines] == [1, 1]


def test_pictures_that_cannot_be_read_are_unanswered_and_their_objects_are_missed(desk: Desk, converted: Path) -> None:
    [first, second, *_] = sorted((converted / "images").rglob("*.png"))
    first.write_bytes(b"damaged")
    second.unlink()

    made = Made(desk, desk.lay_down(converted, "converted"))

    result = made.result
    assert (result.samples, result.unanswered, result.objects) == (8, 2, 8)
    assert result.at_50.recall.value <= 6 / 8
    faults = {line["picture"]: line["error"] for line in made.lines if line["error"]}
    assert len(faults) == 2
    assert all(Path(name).name in message for name, message in faults.items())


def test_labels_are_ignored_or_renamed_where_that_is_asked_for(desk: Desk, converted: Path) -> None:
    for path, samples in (samples_of(converted, split) for split in ("train", "val")):
        path.write_text(json.dumps(samples).replace("circle", "DISC").replace("rectangle", "BOX"))
    dataset = desk.lay_down(converted, "converted")
    aliases = {f"{colour} {name}": f"{colour} {own}" for colour in ("red", "green", "blue")
               for name, own in (("disc", "circle"), ("box", "rectangle"))}  # fmt: skip

    assert Made(desk, dataset).result.at_50.f1.value == 0
    assert Made(desk, dataset, ignore_labels=True).result.at_50.f1.value > 0.8
    assert Made(desk, dataset, aliases=aliases, ignore_case=True).result.at_50.f1.value > 0.8
    assert Made(desk, dataset, aliases=aliases).result.at_50.f1.value == 0


def test_neither_the_order_of_pictures_nor_the_size_of_batches_changes_a_figure(
    desk: Desk, converted: Path, tmp_path: Path
) -> None:
    together = Made(desk, desk.lay_down(converted, "converted"))
    for split in ("train", "val"):
        path, samples = samples_of(converted, split)
        path.write_text(json.dumps(samples[::-1]))
    desk.models = make_models(Settings(models_dir=tmp_path / "models", cache_dir=tmp_path / "cache", batch_rows=1))

    alone = Made(desk, desk.lay_down(converted, "turned"))

    desk.models.warm.unload()
    left_out = {"artefacts", "model"}
    assert alone.result.model_dump(exclude=left_out) == together.result.model_dump(exclude=left_out)
    one, other = ({line["picture"]: line["answer"] for line in made.lines} for made in (together, alone))
    assert one == other
    assert [line["picture"] for line in together.lines] != [line["picture"] for line in alone.lines]


def test_two_evaluations_are_compared_by_their_lines(desk: Desk, converted: Path, tmp_path: Path) -> None:
    dataset = desk.lay_down(converted, "converted")
    for name, more in (("a", {"model": "untrained", "max_new_tokens": 20}), ("b", {})):
        (tmp_path / name).write_bytes(Made(desk, dataset, **more).outputs["pictures"])

    found = compare(tmp_path / "a", tmp_path / "b")

    assert found.questions == 8
    assert len(found.changed) == found.after.true_positives > 6
    assert all(change.f1_delta > 0 for change in found.changed)
    pictures = {line["picture"] for line in map(json.loads, (tmp_path / "b").read_text().splitlines())}
    assert {change.picture for change in found.changed} <= pictures


# --- nothing to measure ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ['[{"point_2d": [5, 5], "label": "a"}]', "A picture of a cat.", "3"])
def test_a_dataset_whose_answers_are_no_boxes_is_refused_before_a_model_is_loaded(
    desk: Desk, converted: Path, answer: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        Made(desk, desk.lay_down(answered(converted, answer), "converted"), model="not-there")

    assert [complaint.where[:8] for complaint in caught.value.complaints] == ["sample 1", "sample 2", "sample 3"]


def test_samples_whose_answers_are_no_boxes_are_left_out_and_counted(desk: Desk, converted: Path) -> None:
    path, samples = samples_of(converted)
    kept = samples[:2]
    answered(converted, "Nothing to see.")
    path.write_text(json.dumps([*kept, *json.loads(path.read_text())[2:]]))

    result = Made(desk, desk.lay_down(converted, "converted")).result

    assert (result.samples, result.left_out) == (2, 6)


def test_pictures_alone_have_no_truth(desk: Desk, tmp_path: Path) -> None:
    draw_dataset(tmp_path / "shapes", count=1, seed=1)

    for more in ({}, {"prompt": "Where?"}):
        with pytest.raises(InvalidInput) as caught:
            Made(desk, desk.lay_down(tmp_path / "shapes" / "images", "images"), model="not-there", **more)

        assert caught.value.complaints[0].where == "/spec/dataset"


def test_a_dataset_without_its_pictures_is_refused_before_a_model_is_loaded(desk: Desk, converted: Path) -> None:
    for picture in (converted / "images").rglob("*.png"):
        picture.unlink()

    with pytest.raises(InvalidInput, match="None of the dataset's pictures"):
        Made(desk, desk.lay_down(converted, "converted"), model="not-there")


def test_a_split_that_there_is_not_is_refused(desk: Desk, converted: Path) -> None:
    with pytest.raises(InvalidInput, match="it has train, val"):
        Made(desk, desk.lay_down(converted, "converted"), splits=["test"])


def test_a_cancelled_evaluation_stops_and_publishes_nothing(desk: Desk, converted: Path) -> None:
    calls: list[None] = []

    def check() -> None:
        calls.append(None)
        if len(calls) > 60:
            raise Cancelled

    dataset = desk.lay_down(converted, "converted")
    context = desk.context(check)
    with pytest.raises(Cancelled):
        evaluate(EvaluationSpec(dataset=dataset), context, desk.models)

    assert context.published == []
