"""What a vision engineer does first: labels in, a dataset out; a picture in, an answer out; all of it through jobs."""

import json
import zipfile
from pathlib import Path

import httpx
from PIL import Image

from tests.journeys.conftest import Running
from tests.system import eventually
from vlyard import BoxFound, ConversionResult, ConversionSpec, InferenceResult, InferenceSpec
from vlyard.demo.shapes import CLASSES, draw_dataset
from vlyard.formats.archive import pack
from vlyard.formats.box import Box
from vlyard.formats.convert import convert
from vlyard.jobs.conversion import ConversionOptions
from vlyard.jobs.generation import DEFAULT_MAX_NEW_TOKENS
from vlyard.jobs.state import State

TOKENIZER = Path(__file__).parents[2] / "workers" / "qwen" / "demo_model" / "tokenizer.json"
QUESTION = "Detect all objects in the image. Output the bounding boxes in JSON format."


def test_a_yolo_folder_becomes_a_grounding_dataset(running: Running, tmp_path: Path) -> None:
    # given a folder of labelled pictures
    draw_dataset(tmp_path / "yolo", count=6, seed=11)
    pack(tmp_path / "yolo", tmp_path / "yolo.zip")
    # when it is uploaded and converted by a job
    source = running.client.upload(tmp_path / "yolo.zip")
    result = running.client.run(ConversionSpec(source=source.id, name="shapes"), timeout=120)
    # then the result accounts for every picture and box
    assert isinstance(result, ConversionResult)
    assert (result.layout, result.samples, result.boxes, result.annotations_refused) == ("ultralytics", 6, 6, 0)
    assert result.classes == CLASSES
    # and the archive holds what LLaMA-Factory reads
    archive = running.client.download(result.artefacts["dataset"], tmp_path / "dataset.zip")
    with zipfile.ZipFile(archive) as files:
        info = json.loads(files.read("dataset_info.json"))
        samples = json.loads(files.read(info["shapes"]["file_name"]))
        assert {name for sample in samples for name in sample["images"]} <= set(files.namelist())
    assert info["shapes"]["formatting"] == "sharegpt"
    assert len(samples) == 6
    answers = [json.loads(sample["messages"][1]["content"]) for sample in samples]
    assert all(set(found) == {"bbox_2d", "label"} for answer in answers for found in answer)
    # and the report and the contact sheet are there to look at
    report = json.loads(running.client.download(result.artefacts["report"], tmp_path / "report.json").read_text())
    assert report["totals"]["annotations"]["kept"] == 6
    with Image.open(running.client.download(result.artefacts["contact_sheet"], tmp_path / "sheet.png")) as sheet:
        assert sheet.format == "PNG"


def test_labels_of_another_format_become_short_answers_in_a_new_split(running: Running, tmp_path: Path) -> None:
    # given labels as COCO has them, and the tokenizer of the model that will be trained
    draw_dataset(tmp_path / "yolo", count=8, seed=5, side=64)
    to_coco = ConversionOptions(to="coco", check="header")
    convert(tmp_path / "yolo", tmp_path / "coco", to_coco, lambda *_: None)
    pack(tmp_path / "coco", tmp_path / "coco.zip")
    source, tokenizer = running.client.upload(tmp_path / "coco.zip"), running.client.upload(TOKENIZER)
    # when a job splits them anew, asks for each class, and counts the answers' tokens
    spec = ConversionSpec(
        source=source.id, tokenizer=tokenizer.id, max_answer_tokens=200, ask="each", negatives=0.5,
        split={"train": 0.75, "val": 0.25}, rename={"red circle": "red thing", "red rectangle": "red thing"},
    )  # fmt: skip
    result = running.client.run(spec, timeout=120)
    # then it was recognised, and the answers are what was asked for
    assert isinstance(result, ConversionResult)
    assert (result.format, result.boxes, result.annotations_kept) == ("coco", 8, 8)
    assert "red thing" in result.classes
    archive = running.client.download(result.artefacts["dataset"], tmp_path / "dataset.zip")
    with zipfile.ZipFile(archive) as files:
        parts = [json.loads(files.read(f"{name}.json")) for name in json.loads(files.read("dataset_info.json"))]
    assert [len({sample["images"][0] for sample in part}) for part in parts] == [6, 2]
    assert sum(map(len, parts)) == result.samples > 8


def test_a_picture_becomes_an_answer_with_boxes_drawn_on_it(running: Running, tmp_path: Path) -> None:
    # given a picture whose object is known
    picture, *_ = draw_dataset(tmp_path, count=1, seed=12)
    number, x, y, width, height = (tmp_path / "labels" / "0000.txt").read_text().split()
    truth = Box.from_centre(float(x), float(y), float(width), float(height))
    # when the demo model is asked about it
    image = running.client.upload(picture)
    spec = InferenceSpec(image=image.id, prompt=QUESTION, do_sample=False)
    result = running.client.run(spec, timeout=180)
    # then it finds the object
    assert isinstance(result, InferenceResult)
    (found,) = result.objects
    assert isinstance(found, BoxFound)
    assert found.bbox_pixels is not None
    assert found.label == CLASSES[int(number)]
    assert Box.from_thousand(found.bbox_2d).iou(truth) > 0.5
    (size,) = result.answer.pictures
    assert Box.from_pixels(found.bbox_pixels, size.width, size.height).iou(truth) > 0.5
    assert 0 < result.answer.completion_tokens <= DEFAULT_MAX_NEW_TOKENS
    assert result.answer.finish_reason == "stop"
    # and the box is drawn on the picture
    annotated = running.client.download(result.artefacts["annotated"], tmp_path / "annotated.png")
    with Image.open(annotated) as drawn, Image.open(picture) as plain:
        assert drawn.size == plain.size
        assert drawn.convert("RGB").tobytes() != plain.convert("RGB").tobytes()


def test_the_model_stays_warm_between_jobs(running: Running, tmp_path: Path) -> None:
    # given a model that has answered
    picture, *_ = draw_dataset(tmp_path, count=1, seed=13)
    image = running.client.upload(picture)
    spec = InferenceSpec(image=image.id, prompt=QUESTION, seed=5)
    first = running.client.run(spec, timeout=180)
    # when it is asked again
    second = running.client.run(spec, timeout=180)
    # then it was in memory already, and the same seed gives the same answer
    assert isinstance(first, InferenceResult)
    assert isinstance(second, InferenceResult)
    assert second.model.warm
    assert second.model.load_seconds == 0
    assert second.text == first.text


def test_flower_shows_the_tasks_by_kind_behind_its_password(running: Running, tmp_path: Path) -> None:
    # given two jobs that have ended
    picture, *_ = draw_dataset(tmp_path, count=1, seed=14)
    pack(tmp_path, tmp_path.with_suffix(".zip"))
    source, image = running.client.upload(tmp_path.with_suffix(".zip")), running.client.upload(picture)
    jobs = [
        running.client.submit(ConversionSpec(source=source.id)),
        running.client.submit(InferenceSpec(image=image.id, prompt=QUESTION)),
    ]
    ended = [running.client.wait(job.id, timeout=180) for job in jobs]
    assert {job.state for job in ended} == {State.SUCCEEDED}
    # when Flower is asked without and with its password
    refused = [
        httpx.get(running.flower + path, trust_env=False).status_code for path in ("/", "/api/tasks", "/workers")
    ]
    assert set(refused) == {httpx.codes.UNAUTHORIZED}

    # then it shows each job's attempt as a task of the job's kind, and both workers
    def tasks() -> dict[str, str]:
        answer = httpx.get(f"{running.flower}/api/tasks", auth=("vlyard", "flower-secret"), trust_env=False, timeout=10)
        return {identity: task["name"] for identity, task in answer.json().items() if task["state"] == "SUCCESS"}

    wanted = {f"{job.id}:1": job.kind for job in jobs}
    eventually(lambda: wanted.items() <= tasks().items(), what=f"Flower's tasks {wanted}")
    pages = httpx.get(f"{running.flower}/workers", auth=("vlyard", "flower-secret"), trust_env=False, timeout=10)
    assert pages.status_code == httpx.codes.OK
