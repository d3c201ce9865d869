"""Models and pictures that a worker can hardly hold: vast ones, too many, models that take long, a GPU that is lost."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from PIL import Image

from tests.workers.desks import Desk
from tests.workers.test_inference_handler import ask, png
from vlyard.demo.shapes import draw_scenes
from vlyard.errors import InvalidInput
from vlyard.jobs.inference import InferenceSpec
from workers.asking import Rooms
from workers.inference import infer
from workers.lease import Hold
from workers.qwen.loading import DEMO_FOLDER
from workers.qwen.warm import Source
from workers.sight import PixelRoom

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scene_png() -> bytes:
    return png(next(draw_scenes(12)).picture)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_the_time_in_which_a_model_is_fetched_and_loaded_is_none_of_the_handlers(desk: Desk, scene_png: bytes) -> None:
    hold = Hold((uuid4(), 1), 0.0, killable=False)
    hold.start(60)
    began, moved = hold.deadline, []
    context = replace(
        desk.context(), preparing=hold.preparing, tell=lambda _, text: moved.append((text, hold.deadline - began))
    )
    spec = InferenceSpec(image=desk.lay_down(scene_png, "shape.png"), prompt="What?", max_new_tokens=1, annotate=False)

    spent = infer(spec, replace(context, inputs=dict(desk.given)), desk.models).model.load_seconds

    by_text = dict(moved)
    assert by_text["fetching the pictures"] == 0
    assert by_text["loading the model demo"] > 3_600
    assert spent <= by_text["asking the model"] < spent + 60


def test_a_worker_that_has_lost_its_gpu_is_told_so_that_it_ends(desk: Desk, scene_png: bytes) -> None:
    lost: list[BaseException] = []
    models = replace(desk.models, device_lost=lost.append)
    spec = InferenceSpec(image=desk.lay_down(scene_png, "shape.png"), prompt="What?", max_new_tokens=1)

    def breaks(*_: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    with desk.models.warm.hold(Source(DEMO_FOLDER)) as held:
        handle = held.loaded.model.model.language_model.register_forward_pre_hook(breaks)
        with pytest.raises(RuntimeError, match="device-side assert"):
            infer(spec, desk.context(), models)
        handle.remove()

    assert [str(error) for error in lost] == ["CUDA error: device-side assert triggered"]
    infer(spec, desk.context(), models)
    assert len(lost) == 1


def test_a_question_that_cannot_be_asked_about_one_picture_leaves_the_answers_about_the_others(
    desk: Desk, scene_png: bytes
) -> None:
    # given a wide picture that has more tokens than the model's context, where a small one is not enlarged
    wide, small = desk.lay_down(png(Image.new("1", (8_192, 1_120))), "wide.png"), desk.lay_down(scene_png, "small.png")

    result, drawings = ask(desk, images=[wide, small], min_pixels=1, max_pixels=2**24)

    assert (len(result.answers), len(drawings)) == (1, 1)
    [unanswered] = result.unanswered
    assert (unanswered.image, unanswered.code) == (wide, "invalid_input")
    assert "8960 tokens" in unanswered.message


def test_pictures_that_are_vast_once_opened_are_opened_one_after_the_other(desk: Desk) -> None:
    # given five files of a few kilobytes, each 36 MB of pixels, and room for one of them
    one = 3_000**2
    images = [desk.lay_down(png(Image.new("1", (3_000, 3_000), at % 2)), f"{at}.png") for at in range(5)]
    opening = Rooms(PixelRoom(one), PixelRoom(2**20))
    models = replace(desk.models, rooms=opening)
    spec = InferenceSpec(images=images, prompt="What?", do_sample=False, max_new_tokens=1, annotate=False)
    infer(spec.model_copy(update={"images": images[:1]}), desk.context(), models)  # what is loaded once

    before = resident_bytes()
    reset_peak()
    result = infer(spec, desk.context(), models)

    assert len(result.answers) == 5
    assert result.answers[0].pictures[0].width == 3_000
    assert (
        peak_bytes() - before < 32 * one
    )  # one takes 13 bytes a pixel: as its file has it, as RGB, shrunk; all of them 65


def test_a_request_whose_pictures_alone_do_not_fit_the_model_is_refused_before_they_are_opened(desk: Desk) -> None:
    image = desk.lay_down(png(Image.new("1", (4_000, 4_000))), "large.png")
    content = [{"type": "image", "image": str(image)}] * 8

    with pytest.raises(InvalidInput, match=r"with its pictures it has 125000 tokens .* show smaller pictures"):
        ask(desk, messages=[{"role": "user", "content": content}], prompt=None, max_pixels=2**28)
