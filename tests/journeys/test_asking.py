"""Questions as people ask them: many at a time, about several pictures, about whole datasets."""

import base64
import json
import threading
from pathlib import Path
from uuid import UUID

import pytest
from PIL import Image

from tests.journeys.conftest import Running
from vlyard import (
    BoxFound,
    ConversionSpec,
    InferenceResult,
    InferenceSpec,
    PredictionResult,
    PredictionSpec,
)
from vlyard.demo.shapes import CLASSES, draw_dataset
from vlyard.formats.archive import pack
from vlyard.formats.box import Box
from vlyard.jobs.conversion import DEFAULT_PROMPT
from vlyard.jobs.state import State
from vlyard.jobs.view import Entry


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """Ten labelled pictures."""
    draw_dataset(tmp_path / "shapes", count=10, seed=21)
    return tmp_path / "shapes"


def pictures(folder: Path) -> list[Path]:
    return sorted((folder / "images").iterdir())


def truth(folder: Path, picture: Path) -> tuple[str, Box]:
    number, *place = (folder / "labels" / f"{picture.stem}.txt").read_text().split()
    x, y, width, height = map(float, place)
    return CLASSES[int(number)], Box.relative((x - width / 2, y - height / 2, x + width / 2, y + height / 2))


def ask(image: UUID, **more: object) -> InferenceSpec:
    return InferenceSpec.model_validate({"image": image, "prompt": DEFAULT_PROMPT, "do_sample": False, **more})


def test_a_worker_that_asks_models_says_what_it_found_at_its_start(running: Running) -> None:
    workers = [worker for pool in running.client.pools() for worker in pool.workers if "inference" in worker.kinds]

    assert [worker.self_test["ok"] for worker in workers] == [True] * len(workers)
    assert {check["name"] for worker in workers for check in worker.self_test["checks"]} >= {"attention", "tokenizer"}


def test_jobs_that_wait_together_are_answered_in_a_batch_and_each_as_if_it_were_alone(
    running: Running, shapes: Path
) -> None:
    # given pictures and how each is answered alone; one more is damaged
    images = {picture: running.client.upload(picture).id for picture in pictures(shapes)}
    alone = {picture: running.client.run(ask(image), timeout=120) for picture, image in images.items()}
    broken = shapes / "broken.png"
    broken.write_bytes(pictures(shapes)[0].read_bytes()[:500])
    damaged = running.client.upload(broken).id
    # when all are asked about at once, with different sampling among them
    specs = [ask(image) for image in images.values()]
    odd = [ask(damaged), ask(next(iter(images.values())), do_sample=True, temperature=1.5, seed=3, max_new_tokens=7)]
    jobs = running.client.submit_many([Entry(spec=spec) for spec in [*specs, *odd]])
    ended = [running.client.wait(job.id, timeout=120) for job in jobs]
    # then the answers are the same, most of them from one batch, and the damaged picture failed by itself
    results = [running.client.result(job) for job in ended[: len(specs)]]
    for result, picture in zip(results, images, strict=True):
        before = alone[picture]
        assert isinstance(result, InferenceResult)
        assert isinstance(before, InferenceResult)
        assert result.text == before.text
        assert result.objects == before.objects
    assert max(result.answer.batch for result in results if isinstance(result, InferenceResult)) > 3
    assert [job.state for job in ended[len(specs) :]] == [State.FAILED, State.SUCCEEDED]
    assert ended[-2].error is not None
    assert ended[-2].error.code == "unreadable_picture"
    sampled = running.client.result(ended[-1])
    assert isinstance(sampled, InferenceResult)
    assert (sampled.answer.finish_reason, sampled.answer.completion_tokens) == ("length", 7)


def test_the_same_question_about_several_pictures_has_an_answer_for_each(running: Running, shapes: Path) -> None:
    shown = pictures(shapes)[:3]
    (shapes / "notes.png").write_text("no picture at all")
    images = [running.client.upload(path).id for path in [*shown, shapes / "notes.png"]]

    result = running.client.run(
        InferenceSpec(images=tuple(images), prompt=DEFAULT_PROMPT, do_sample=False), timeout=120
    )

    assert isinstance(result, InferenceResult)
    for answer, picture in zip(result.answers, shown, strict=True):
        [found] = answer.objects
        label, box = truth(shapes, picture)
        assert isinstance(found, BoxFound)
        assert found.label == label
        assert Box.from_thousand(found.bbox_2d).iou(box) > 0.5
    assert [(each.image, each.code) for each in result.unanswered] == [(images[-1], "unreadable_picture")]
    assert set(result.artefacts) == {"annotated-1", "annotated-2", "annotated-3"}


def test_a_conversation_with_two_pictures_in_two_turns_is_continued(running: Running, shapes: Path) -> None:
    first, second = pictures(shapes)[:2]
    uri = "data:image/png;base64," + base64.b64encode(second.read_bytes()).decode()
    messages = [
        {"role": "user", "content": [{"type": "image", "image": str(running.client.upload(first).id)}]},
        {"role": "assistant", "content": "I see."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": uri}},
                {"type": "text", "text": DEFAULT_PROMPT},
            ],
        },
    ]

    result = running.client.run(
        InferenceSpec.model_validate({"messages": messages, "max_new_tokens": 12, "do_sample": False}), timeout=120
    )

    assert isinstance(result, InferenceResult)
    with Image.open(first) as one, Image.open(second) as two:
        assert [(each.width, each.height) for each in result.answer.pictures] == [one.size, two.size]
    assert result.answer.picture_tokens == 32
    assert result.answer.completion_tokens <= 12


def test_a_question_may_do_without_a_picture(running: Running) -> None:
    hello = {"messages": [{"role": "user", "content": "Hello?"}], "max_new_tokens": 3, "do_sample": False}

    result = running.client.run(InferenceSpec.model_validate(hello), timeout=120)

    assert isinstance(result, InferenceResult)
    assert (result.answer.picture_tokens, result.artefacts) == (0, {})


def test_a_cancelled_question_leaves_its_batch_and_the_others_go_on(running: Running, shapes: Path) -> None:
    [image, *_] = (running.client.upload(picture).id for picture in pictures(shapes)[:1])
    # given two questions whose answers take long, in one batch
    long = {"do_sample": True, "temperature": 2.0, "top_p": 1.0, "top_k": 1_000, "max_new_tokens": 2_000}
    stopped, other = running.client.submit_many([Entry(spec=ask(image, **long, seed=seed)) for seed in (1, 2)])
    begun = threading.Event()
    for event in running.client.events(stopped.id):
        if event.type == "state" and event.data.get("state") == "running":
            begun.set()
            break
    assert begun.is_set()
    # when one is cancelled
    running.client.cancel(stopped.id)
    # then it ends, and the other one has its answer
    assert running.client.wait(stopped.id, timeout=60).state in {State.CANCELLED, State.SUCCEEDED}
    assert running.client.wait(other.id, timeout=120).state is State.SUCCEEDED


def test_a_converted_dataset_is_predicted_in_shards_and_gathered_in_order(
    running: Running, shapes: Path, tmp_path: Path
) -> None:
    # given a converted dataset, of which one picture was damaged since
    pack(shapes, tmp_path / "shapes.zip")
    source = running.client.upload(tmp_path / "shapes.zip")
    dataset = running.client.run(ConversionSpec(source=source.id), timeout=120).artefacts["dataset"]
    # when it is predicted in two shards
    result = running.client.run(PredictionSpec(dataset=dataset, do_sample=False, shards=2), timeout=180)
    # then every sample has its line, in order, with truth and answer
    assert isinstance(result, PredictionResult)
    assert (result.samples, result.answered, result.unanswered) == (10, 10, 0)
    assert result.model is not None
    assert result.model.name == "demo"
    path = running.client.download(result.artefacts["predictions"], tmp_path / "predictions.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["sample"] for line in lines] == list(range(1, 11))
    found = [line["answer"]["objects"][0]["label"] for line in lines]
    assert found == [json.loads(line["truth"])[0]["label"] for line in lines]


def test_a_folder_of_pictures_is_predicted_with_a_question_and_a_bad_one_has_a_line_that_says_why(
    running: Running, shapes: Path, tmp_path: Path
) -> None:
    (shapes / "images" / "0004.png").write_bytes(b"no picture")
    tree = running.client.upload_tree(shapes / "images")

    result = running.client.run(
        PredictionSpec(dataset=tree.id, prompt=DEFAULT_PROMPT, do_sample=False, limit=6), timeout=180
    )

    assert isinstance(result, PredictionResult)
    assert (result.samples, result.answered, result.unanswered) == (6, 5, 1)
    path = running.client.download(result.artefacts["predictions"], tmp_path / "predictions.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[4]["picture"] == "0004.png"
    assert lines[4]["error"]["code"] == "unreadable_picture"
    assert lines[5]["answer"]["objects"]


def test_a_dataset_without_questions_needs_one(running: Running, shapes: Path) -> None:
    tree = running.client.upload_tree(shapes / "images")

    job = running.client.wait(running.client.submit(PredictionSpec(dataset=tree.id)).id, timeout=120)

    assert job.error is not None
    assert job.error.complaints[0].where == "/spec/prompt"
