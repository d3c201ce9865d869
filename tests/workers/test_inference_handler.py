import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from vlyard.demo.shapes import draw_scenes
from vlyard.errors import Cancelled, InvalidInput, UnreadablePicture
from vlyard.files import Stored, sha256_of
from vlyard.formats.box import Box
from vlyard.jobs.conversion import DEFAULT_PROMPT
from vlyard.jobs.inference import InferenceResult, InferenceSpec
from vlyard.jobs.kinds import KINDS
from workers.context import Context
from workers.inference import WARM, infer, run
from workers.qwen.demo.architecture import build_untrained
from workers.qwen.loading import DEMO_FOLDER, WarmModels

torch.set_num_threads(1)


@dataclass(frozen=True)
class FolderStore:
    """An artefact store that is a folder."""

    folder: Path

    def fetch(self, file: Stored, path: Path) -> None:
        shutil.copyfile(self.folder / file.key, path)

    def put(self, key: str, path: Path, media_type: str) -> tuple[int, str]:  # noqa: ARG002 - a folder keeps no types
        target = self.folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        return target.stat().st_size, sha256_of(target)


@dataclass(frozen=True)
class Desk:
    """Where a test lays a picture down and has it asked about."""

    folder: Path

    def context(self, content: bytes, name: str = "shape.png", check: Callable[[], None] = lambda: None) -> Context:
        store = FolderStore(self.folder / "store")
        path = self.folder / name
        path.write_bytes(content)
        artefact = uuid4()
        size, sha256 = store.put(f"given/{artefact}", path, "image/png")
        given = Stored(artefact, name, "image/png", f"given/{artefact}", size, sha256)
        scratch = self.folder / "scratch" / str(uuid4())
        scratch.mkdir(parents=True)
        return Context(uuid4(), 1, scratch, {given.id: given}, store, "job/1", lambda *_: None, check)

    def spec(self, context: Context, **more: object) -> InferenceSpec:
        (image,) = context.inputs
        asked = {"image": image, "prompt": DEFAULT_PROMPT, "do_sample": False, **more}
        return InferenceSpec.model_validate(asked)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture(scope="module")
def scene_png(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("picture") / "shape.png"
    next(draw_scenes(12)).picture.save(path)
    return path.read_bytes()


def test_a_picture_becomes_an_answer_with_its_box_and_a_drawing(desk: Desk, scene_png: bytes) -> None:
    scene = next(draw_scenes(12))
    context = desk.context(scene_png)

    result = run(desk.spec(context), context)

    (found,) = result.objects
    assert Box.from_thousand(found.bbox_2d).iou(scene.box) > 0.5
    assert found.bbox_pixels == Box.from_thousand(found.bbox_2d).pixels(256, 256)
    assert (result.width, result.height, result.finish_reason, result.notes) == (256, 256, "stop", ())
    assert (result.model, result.attention) == ("demo", "sdpa")
    assert result.generate_seconds > 0
    (drawing,) = context.published
    assert (result.artefacts["annotated"], drawing.name) == (drawing.id, "annotated.png")
    with Image.open(desk.folder / "store" / drawing.key) as annotated:
        assert annotated.size == (256, 256)
        assert annotated.convert("RGB").tobytes() != scene.picture.tobytes()


def test_the_row_of_the_kind_names_this_handler_and_this_result() -> None:
    module, _, function = KINDS["inference"].handler.partition(":")

    assert (module, function) == (run.__module__, run.__name__)
    assert KINDS["inference"].result is InferenceResult


def test_the_model_is_loaded_for_the_first_job_and_warm_for_the_second(desk: Desk, scene_png: bytes) -> None:
    models = WarmModels()
    results = []
    for _ in range(2):
        context = desk.context(scene_png)
        results.append(infer(desk.spec(context), context, models, None))

    assert [result.warm for result in results] == [False, True]
    assert results[0].load_seconds > 0
    assert results[1].load_seconds == 0
    assert results[0].text == results[1].text


def test_a_rotated_photo_is_the_same_picture(desk: Desk, scene_png: bytes) -> None:
    exif, content = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # to be turned clockwise to be seen upright
    next(draw_scenes(12)).picture.transpose(Image.Transpose.ROTATE_90).save(content, "PNG", exif=exif)
    turned, straight = desk.context(content.getvalue(), "turned.png"), desk.context(scene_png)

    one, two = (run(desk.spec(context), context) for context in (straight, turned))

    assert (one.text, one.objects, one.width) == (two.text, two.objects, two.width)
    drawings = [(desk.folder / "store" / context.published[0].key).read_bytes() for context in (straight, turned)]
    assert drawings[0] == drawings[1]


def test_a_picture_without_boxes_in_its_answer_is_drawn_too(desk: Desk, scene_png: bytes) -> None:
    context = desk.context(scene_png)

    result = run(desk.spec(context, max_new_tokens=2), context)

    assert (result.objects, result.finish_reason) == ((), "length")
    assert "nothing_found" in result.notes
    assert "annotated" in result.artefacts


def test_nothing_is_drawn_where_nothing_is_to_be_drawn(desk: Desk, scene_png: bytes) -> None:
    context = desk.context(scene_png)

    result = run(desk.spec(context, annotate=False), context)

    assert (result.artefacts, context.published) == ({}, [])


def test_a_seed_makes_a_sampled_answer_repeatable(desk: Desk, scene_png: bytes) -> None:
    texts = []
    for seed in (1, 1, 2, 3):
        context = desk.context(scene_png)
        asked = desk.spec(context, do_sample=True, temperature=2.0, top_p=1.0, seed=seed, annotate=False)
        texts.append(run(asked, context).text)

    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


def test_a_truncated_picture_is_refused_and_named(desk: Desk, scene_png: bytes) -> None:
    context = desk.context(scene_png[: len(scene_png) // 2], "half.png")

    with pytest.raises(UnreadablePicture, match=r"half\.png: it is damaged"):
        run(desk.spec(context), context)


def test_a_cancelled_job_publishes_nothing(desk: Desk, scene_png: bytes) -> None:
    calls: list[None] = []

    def check() -> None:
        calls.append(None)
        if len(calls) == 10:  # three steps, the start, and then a token each
            raise Cancelled

    context = desk.context(scene_png, check=check)

    with pytest.raises(Cancelled):
        run(desk.spec(context), context)

    assert (len(calls), context.published) == (10, [])


def test_a_model_of_the_workers_folder_is_found_by_its_name(desk: Desk, scene_png: bytes) -> None:
    models_dir = desk.folder / "models"
    build_untrained(models_dir / "mine-v1.2", seed=3)
    context = desk.context(scene_png)

    result = infer(desk.spec(context, model="mine-v1.2", max_new_tokens=4), context, WarmModels(), models_dir)

    assert (result.model, result.completion_tokens) == ("mine-v1.2", 4)


def test_a_model_that_is_not_there_is_refused_with_the_names_of_those_that_are(desk: Desk, scene_png: bytes) -> None:
    models_dir = desk.folder / "models"
    (models_dir / "other").mkdir(parents=True)
    context = desk.context(scene_png)

    with pytest.raises(InvalidInput, match=r"/spec/model: this worker has no model 'mine' \(it has demo, other\)"):
        infer(desk.spec(context, model="mine"), context, WARM, models_dir)


@pytest.mark.parametrize("name", ["..", ".", "../demo", "a/b", "/etc", "", ".hidden", "a\n", "C:\\models"])
def test_a_models_name_is_never_a_path(name: str) -> None:
    with pytest.raises(ValidationError, match="model"):
        InferenceSpec(image=uuid4(), prompt="x", model=name)


def test_the_demo_model_comes_with_the_package() -> None:
    assert (DEMO_FOLDER / "model.safetensors").is_file()
    assert DEMO_FOLDER.is_relative_to(Path(infer.__code__.co_filename).parent)
