import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import torch
from PIL import Image

from tests.qwen.adapted import make_adapter, manifest
from tests.workers.desks import Desk
from vlyard.demo.shapes import draw_scenes
from vlyard.errors import Cancelled, InvalidInput, UnreadablePicture
from vlyard.formats.box import Box
from vlyard.jobs.conversion import DEFAULT_PROMPT
from vlyard.jobs.inference import BoxFound, InferenceResult, InferenceSpec, ModelUsed
from vlyard.jobs.kinds import KINDS
from workers.asking import make_models
from workers.inference import infer, run
from workers.qwen.demo.architecture import build_untrained
from workers.qwen.loading import DEMO_FOLDER
from workers.qwen.manifest import Manifest, write_manifest

torch.set_num_threads(1)

Case = tuple[InferenceResult, list[bytes]]  # with the drawings


def png(picture: Image.Image, **how: object) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG", **how)
    return content.getvalue()


@pytest.fixture(scope="module")
def scene_png() -> bytes:
    return png(next(draw_scenes(12)).picture)


def ask(desk: Desk, image: UUID | None = None, **more: object) -> Case:
    context = desk.context()
    spec = InferenceSpec.model_validate({"image": image, "prompt": DEFAULT_PROMPT, "do_sample": False, **more})
    result = infer(spec, context, desk.models)
    return result, [desk.store.content(file) for file in context.published]


def test_a_picture_becomes_an_answer_with_its_box_and_a_drawing(desk: Desk, scene_png: bytes) -> None:
    scene = next(draw_scenes(12))

    result, [drawing] = ask(desk, desk.lay_down(scene_png, "shape.png"))

    (found,) = result.objects
    assert isinstance(found, BoxFound)
    assert (found.label, found.picture) == (scene.label, 0)
    assert Box.from_thousand(found.bbox_2d).iou(scene.box) > 0.5
    assert found.bbox_pixels == Box.from_thousand(found.bbox_2d).pixels(256, 256)
    answer = result.answer
    assert (answer.pictures[0].width, answer.finish_reason, answer.notes) == (256, "stop", ())
    assert 0 <= answer.waited_seconds <= answer.first_token_seconds
    assert answer.generate_seconds > 0
    assert answer.prompt_tokens > answer.picture_tokens == 16
    assert (result.model.name, result.model.attention, result.model.dtype) == ("demo", "sdpa", "float32")
    assert result.model.attention_reason
    assert result.model.dtype_reason
    assert (result.model.gpus, result.model.notes) == (int(torch.cuda.is_available()), ())
    assert list(result.artefacts) == ["annotated"]
    with Image.open(io.BytesIO(drawing)) as annotated:
        assert annotated.size == (256, 256)
        assert annotated.convert("RGB").tobytes() != scene.picture.tobytes()


def test_the_row_of_the_kind_names_this_handler_and_this_result() -> None:
    module, _, function = KINDS["inference"].handler.partition(":")

    assert (module, function) == (run.__module__, run.__name__)
    assert KINDS["inference"].result is InferenceResult


def test_the_model_is_loaded_for_the_first_job_and_warm_for_the_second(desk: Desk, scene_png: bytes) -> None:
    image = desk.lay_down(scene_png, "shape.png")

    (first, _), (second, _) = ask(desk, image), ask(desk, image)

    assert [each.model.warm for each in (first, second)] == [False, True]
    assert first.model.load_seconds > 0
    assert second.model.load_seconds == 0
    assert first.text == second.text
    assert [each.answer.reused_pictures for each in (first, second)] == [0, 1]


def test_what_a_model_may_keep_of_pictures_counts_in_the_room_for_models(desk: Desk, scene_png: bytes) -> None:
    shutil.copytree(DEMO_FOLDER, desk.folder / "models" / "mine")
    image = desk.lay_down(scene_png, "shape.png")
    weights = ask(desk, image, max_new_tokens=1)[0].model.bytes
    room = desk.models.settings.model_copy(update={"models_bytes": 3 * weights, "feature_bytes": weights})
    desk.models = make_models(room)

    warm = [ask(desk, image, model=model, max_new_tokens=1)[0].model.warm for model in ("demo", "mine", "mine", "demo")]

    assert warm == [False, False, True, False]


def test_a_rotated_photo_is_the_same_picture(desk: Desk, scene_png: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise to be seen upright
    turned = png(next(draw_scenes(12)).picture.transpose(Image.Transpose.ROTATE_90), exif=exif)

    (one, straight), (two, upright) = (
        ask(desk, desk.lay_down(content, f"{number}.png")) for number, content in enumerate((scene_png, turned))
    )

    assert (one.text, one.objects, one.answer.pictures) == (two.text, two.objects, two.answer.pictures)
    assert straight == upright


def test_a_picture_without_boxes_in_its_answer_is_drawn_too(desk: Desk, scene_png: bytes) -> None:
    result, drawings = ask(desk, desk.lay_down(scene_png, "shape.png"), max_new_tokens=2)

    assert (result.objects, result.answer.finish_reason, len(drawings)) == ((), "length", 1)
    assert "nothing_found" in result.answer.notes


def test_nothing_is_drawn_where_nothing_is_to_be_drawn(desk: Desk, scene_png: bytes) -> None:
    result, drawings = ask(desk, desk.lay_down(scene_png, "shape.png"), annotate=False)

    assert (result.artefacts, drawings) == ({}, [])


def test_a_seed_makes_a_sampled_answer_repeatable(desk: Desk, scene_png: bytes) -> None:
    image, how = desk.lay_down(scene_png, "shape.png"), {"do_sample": True, "temperature": 2.0, "top_p": 1.0}

    texts = [ask(desk, image, **how, seed=seed, annotate=False)[0].text for seed in (1, 1, 2, 3)]

    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


def test_a_stop_text_ends_the_answer_before_it(desk: Desk, scene_png: bytes) -> None:
    image = desk.lay_down(scene_png, "shape.png")
    whole, _ = ask(desk, image)

    cut, _ = ask(desk, image, stop=['"label"'])

    assert cut.text == whole.text[: whole.text.index('"label"')]
    assert cut.answer.finish_reason == "stop"


def test_a_pixel_budget_decides_how_closely_a_picture_is_looked_at(desk: Desk, scene_png: bytes) -> None:
    image = desk.lay_down(scene_png, "shape.png")

    tokens = [
        ask(desk, image, max_new_tokens=1, **budget)[0].answer.picture_tokens
        for budget in ({}, {"max_pixels": 64 * 64}, {"min_pixels": 256 * 256, "max_pixels": 256 * 256})
    ]

    assert tokens == [16, 4, 64]


def test_a_system_message_is_part_of_the_question(desk: Desk, scene_png: bytes) -> None:
    image = desk.lay_down(scene_png, "shape.png")

    plain, told = (ask(desk, image, max_new_tokens=1, **more)[0] for more in ({}, {"system": "Answer in one word."}))

    assert told.answer.prompt_tokens > plain.answer.prompt_tokens


def test_each_of_several_pictures_has_its_answer_and_a_broken_one_says_why(desk: Desk) -> None:
    scenes = list(islice(draw_scenes(5), 3))
    images = [desk.lay_down(png(scene.picture), f"{at}.png") for at, scene in enumerate(scenes)]
    broken = desk.lay_down(b"no picture", "broken.png")

    result, drawings = ask(desk, images=[images[0], broken, *images[1:]])

    found = [answer.objects[0] for answer in result.answers]
    assert [each.label for each in found if isinstance(each, BoxFound)] == [scene.label for scene in scenes]
    [unanswered] = result.unanswered
    assert (unanswered.image, unanswered.code) == (broken, "unreadable_picture")
    assert "broken.png" in unanswered.message
    assert len(drawings) == 3
    with pytest.raises(ValueError, match="there are 3 answers"):
        _ = result.text


def test_pictures_that_are_all_broken_fail_the_job_with_the_reason_for_each(desk: Desk) -> None:
    images = [desk.lay_down(b"no picture", f"{number}.png") for number in range(2)]

    with pytest.raises(UnreadablePicture) as caught:
        ask(desk, images=images)

    assert ["0.png" in str(caught.value), "1.png" in str(caught.value)] == [True, True]


def test_a_truncated_picture_is_refused_and_named(desk: Desk, scene_png: bytes) -> None:
    with pytest.raises(UnreadablePicture, match=r"half\.png: it is damaged"):
        ask(desk, desk.lay_down(scene_png[: len(scene_png) // 2], "half.png"))


def test_a_picture_slimmer_than_any_model_takes_is_refused_by_its_name(desk: Desk) -> None:
    with pytest.raises(UnreadablePicture, match=r"slim\.png: it is 2100 × 10 pixels"):
        ask(desk, desk.lay_down(png(Image.new("RGB", (2_100, 10))), "slim.png"))


def test_a_directory_is_no_picture(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_bytes(b"x")

    with pytest.raises(InvalidInput, match="a picture is a file"):
        ask(desk, desk.lay_down(tmp_path / "folder", "folder"))


def test_a_cancelled_job_leaves_its_words_so_far_and_publishes_nothing(desk: Desk, scene_png: bytes) -> None:
    calls: list[None] = []

    left: list[Mapping[str, Any]] = []

    def check() -> None:
        calls.append(None)
        if len(calls) >= 20:  # some steps before the start, and then a token each
            raise Cancelled

    image = desk.lay_down(scene_png, "shape.png")
    context = replace(desk.context(check), leave=left.append)

    whole, _ = ask(desk, image)
    spec = InferenceSpec(image=image, prompt=DEFAULT_PROMPT, do_sample=False)
    with pytest.raises(Cancelled):
        infer(spec, context, desk.models)

    [result] = map(InferenceResult.model_validate, left)
    assert result.answer.finish_reason == "cancelled"
    assert 0 < len(result.text) < len(whole.text)
    assert whole.text.startswith(result.text)
    assert (context.published, result.artefacts) == ([], {})


def test_a_job_about_several_pictures_that_is_cancelled_leaves_the_answers_that_it_has(
    desk: Desk, scene_png: bytes
) -> None:
    images = [desk.lay_down(png(scene.picture), "shape.png") for scene in islice(draw_scenes(5), 3)]
    calls = iter(range(10**6))
    left: list[Mapping[str, Any]] = []

    def check() -> None:
        if next(calls) >= 60:
            raise Cancelled

    context = replace(desk.context(check), leave=left.append)
    with pytest.raises(Cancelled):
        infer(InferenceSpec(images=images, prompt=DEFAULT_PROMPT, do_sample=False), context, desk.models)

    [result] = map(InferenceResult.model_validate, left)
    assert "cancelled" in {each.finish_reason for each in result.answers}
    assert len(result.answers) + len(result.unanswered) == 3


def test_an_upload_without_a_byte_is_no_picture(desk: Desk) -> None:
    with pytest.raises(UnreadablePicture, match=r"empty\.png: it is not a picture"):
        ask(desk, desk.lay_down(b"", "empty.png"))


def test_a_model_of_the_workers_folder_is_found_by_its_name(desk: Desk, scene_png: bytes) -> None:
    build_untrained(desk.folder / "models" / "mine-v1.2", seed=3)

    result, _ = ask(desk, desk.lay_down(scene_png, "shape.png"), model="mine-v1.2", max_new_tokens=4)

    assert (result.model.name, result.answer.completion_tokens) == ("mine-v1.2", 4)


def test_a_model_may_be_an_artefact(desk: Desk, scene_png: bytes, tmp_path: Path) -> None:
    build_untrained(tmp_path / "untrained", seed=3)
    model = desk.lay_down(tmp_path / "untrained", "untrained")

    result, _ = ask(desk, desk.lay_down(scene_png, "shape.png"), model=str(model), max_new_tokens=4)

    assert (result.model.name, result.answer.completion_tokens) == (str(model), 4)


# --- tuned models ---------------------------------------------------------------------------------------------


def tuned(desk: Desk, told: Manifest | None = None, base_name: str | None = None) -> UUID:
    """An adapter on the demo model, as a training leaves it, or one that calls its base by another name."""
    folder = desk.folder / "tuned"
    make_adapter(DEMO_FOLDER, folder, r=1)
    if base_name is not None:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base_name}))
    if told is not None:
        write_manifest(folder, told)
    return desk.lay_down(folder, "tuned")


def test_a_tuned_model_is_asked_like_any_other_and_its_base_is_loaded_once(desk: Desk, scene_png: bytes) -> None:
    image, model = desk.lay_down(scene_png, "shape.png"), tuned(desk, manifest(min_pixels=12_288, max_pixels=16_384))
    plain, _ = ask(desk, image)

    first, again, by_adapter = (
        ask(desk, image, **named)[0]
        for named in ({"model": model}, {"model": str(model)}, {"model": "demo", "adapter": model})
    )
    after, _ = ask(desk, image)

    assert [each.model.warm for each in (plain, first, again, by_adapter, after)] == [False, False, True, True, True]
    assert first.text == again.text == by_adapter.text != plain.text == after.text
    assert (first.model.name, first.model.adapter, by_adapter.model.adapter) == (str(model), None, str(model))
    assert plain.model.bytes < first.model.bytes < plain.model.bytes + 20_000
    assert desk.models.warm.bytes == first.model.bytes


def test_what_is_worth_knowing_about_an_adapter_is_in_the_result(desk: Desk, scene_png: bytes) -> None:
    adapter = tuned(desk, base_name="Qwen/Qwen3-VL-2B-Instruct")

    result, _ = ask(desk, desk.lay_down(scene_png, "shape.png"), adapter=adapter, max_new_tokens=1, annotate=False)

    assert result.model.notes == ("the adapter says that it is for Qwen3-VL-2B-Instruct, and was put on demo_model",)
    assert ModelUsed.model_validate_json(result.model.model_dump_json()) == result.model


def test_a_result_from_before_gpus_and_notes_were_told_can_be_read(desk: Desk, scene_png: bytes) -> None:
    result, _ = ask(desk, desk.lay_down(scene_png, "shape.png"), max_new_tokens=1, annotate=False)

    earlier = ModelUsed.model_validate(result.model.model_dump(exclude={"gpus", "notes"}))

    assert (earlier.gpus, earlier.notes) == (None, ())


def test_a_tuned_model_sees_pictures_as_in_its_training_unless_the_question_says_how(
    desk: Desk, scene_png: bytes
) -> None:
    image, model = desk.lay_down(scene_png, "shape.png"), tuned(desk, manifest(min_pixels=4_096, max_pixels=4_096))

    tokens = [
        ask(desk, image, max_new_tokens=1, **how)[0].answer.picture_tokens
        for how in ({"model": model}, {"model": model, "min_pixels": 128**2, "max_pixels": 128**2}, {})
    ]

    assert tokens == [4, 16, 16]


def test_a_tuned_model_is_told_what_it_was_told_in_its_training_unless_the_question_says_something_else(
    desk: Desk, scene_png: bytes
) -> None:
    image, words = desk.lay_down(scene_png, "shape.png"), "Answer in one word."
    model = tuned(desk, manifest(min_pixels=12_288, max_pixels=16_384, system=words))
    said = [{"type": "text", "text": DEFAULT_PROMPT}]
    talk = [{"role": "user", "content": [{"type": "image", "image": str(image)}, *said]}]
    led = [{"role": "system", "content": "Hm."}, *talk]

    def tokens(**how: Any) -> int:
        return ask(desk, **{"image": image, "max_new_tokens": 1, **how})[0].answer.prompt_tokens

    by_itself = tokens(model=model)
    in_a_talk = tokens(model=model, messages=talk, image=None, prompt=None)

    assert by_itself == in_a_talk == tokens(system=words) > tokens()
    assert tokens(model=model, system="Hm.") == tokens(system="Hm.") < by_itself
    assert tokens(model=model, messages=led, image=None, prompt=None) == tokens(system="Hm.")


def test_a_tuned_model_reads_questions_by_the_template_of_its_training(desk: Desk, scene_png: bytes) -> None:
    image = desk.lay_down(scene_png, "shape.png")
    bare = "{% for message in messages %}<|vision_start|><|image_pad|><|vision_end|>{% endfor %}"
    model = tuned(desk, manifest(min_pixels=4_096, max_pixels=4_096, chat_template=bare))

    asked, plain = (ask(desk, image, max_new_tokens=1, **how)[0].answer for how in ({"model": model}, {}))

    assert (asked.prompt_tokens, asked.picture_tokens) == (6, 4)
    assert plain.prompt_tokens > 20


def test_a_model_that_is_not_there_is_refused_with_the_names_of_those_that_are(desk: Desk, scene_png: bytes) -> None:
    (desk.folder / "models" / "other").mkdir()

    with pytest.raises(
        InvalidInput, match=r"/spec/model: this worker has no model 'mine' \(it has demo, untrained, other"
    ):
        ask(desk, desk.lay_down(scene_png, "shape.png"), model="mine")


def test_the_demo_model_comes_with_the_package() -> None:
    assert (DEMO_FOLDER / "model.safetensors").is_file()
    assert DEMO_FOLDER.is_relative_to(Path(infer.__code__.co_filename).parent)
