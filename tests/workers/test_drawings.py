"""What is drawn where one question shows several pictures: each object on the picture that the model named."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any

import pytest
import torch
from PIL import Image

from tests.workers.desks import Desk
from vlyard.demo.shapes import draw_scenes
from vlyard.formats.drawing import draw_answer
from vlyard.jobs.generation import GenerationSpec
from vlyard.jobs.inference import BoxFound, InferenceResult, InferenceSpec, PictureSize
from workers.asking import Asker, Models, Said
from workers.context import Context
from workers.inference import infer
from workers.qwen.engine import Generation

torch.set_num_threads(1)


@dataclass(frozen=True)
class Scripted(Asker):
    """It looks at the pictures as any other, and says what it is given to say."""

    words: str = ""

    def hear(
        self, spec: GenerationSpec, said: Sequence[Said], *, scored: bool = False
    ) -> tuple[Generation, list[PictureSize]]:
        heard, sizes = super().hear(spec, said, scored=scored)
        return replace(heard, text=self.words), sizes


@dataclass(frozen=True)
class Script(Models):
    """Models all of which say the same."""

    words: str = ""

    @contextmanager
    def open(self, spec: GenerationSpec, context: Context) -> Iterator[Asker]:
        with super().open(spec, context) as asker:
            yield Scripted(**_parts(asker), words=self.words)


def _parts(of: Any) -> dict[str, Any]:
    return {each.name: getattr(of, each.name) for each in fields(of)}


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [scene.picture for scene in islice(draw_scenes(8), 3)]


def show(desk: Desk, pictures: Sequence[Image.Image], words: str) -> tuple[InferenceResult, list[Image.Image]]:
    """The first picture in a turn of its own, then the others; the result, and the drawings in their order."""
    shown = []
    for picture in pictures:
        content = io.BytesIO()
        picture.save(content, "PNG")
        shown.append({"type": "image", "image": desk.lay_down(content.getvalue(), "shape.png")})
    messages = [
        {"role": "user", "content": shown[:1]},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": [*shown[1:], {"type": "text", "text": "Where?"}]},
    ]
    spec = InferenceSpec.model_validate({"messages": messages, "do_sample": False, "max_new_tokens": 1})
    context = desk.context()
    result = infer(spec, context, Script(**_parts(desk.models), words=words))
    drawn = [Image.open(io.BytesIO(desk.store.content(file))).convert("RGB") for file in context.published]
    assert list(result.artefacts.values()) == [file.id for file in context.published]
    return result, drawn


def test_each_object_is_drawn_on_the_picture_that_the_model_named_and_one_without_on_none(
    desk: Desk, pictures: list[Image.Image]
) -> None:
    # given an answer about three pictures: one object in the first, two in the last, and two that are in none
    words = """[
        {"bbox_2d": [100, 100, 400, 400], "label": "last", "img_idx": 2},
        {"bbox_2d": [200, 200, 600, 600], "label": "first", "img_idx": 0},
        {"bbox_2d": [500, 500, 900, 900], "label": "last", "img_idx": 2},
        {"bbox_2d": [300, 300, 700, 700], "label": "unsaid"},
        {"bbox_2d": [300, 100, 700, 300], "label": "absent", "img_idx": 3}
    ]"""
    # when it is drawn
    result, drawn = show(desk, pictures, words)
    # then each picture has a drawing with its own objects, and no other
    boxes = [each for each in result.objects if isinstance(each, BoxFound)]
    assert list(result.artefacts) == ["annotated-1", "annotated-2", "annotated-3"]
    for picture, drawing, own in zip(pictures, drawn, (["first"], [], ["last"]), strict=True):
        expected = draw_answer(picture, [each for each in boxes if each.label in own])
        assert drawing.tobytes() == expected.tobytes()
    # and what is drawn nowhere says so
    nowhere = {each.label: (each.bbox_pixels, each.flags) for each in boxes if each.picture is None}
    assert nowhere == {"unsaid": (None, ()), "absent": (None, ("no_such_picture",))}


def test_an_object_is_drawn_on_the_only_picture_whatever_the_model_named(
    desk: Desk, pictures: list[Image.Image]
) -> None:
    words = (
        '[{"bbox_2d": [100, 100, 400, 400], "label": "unsaid"}, {"point_2d": [500, 500], "label": "x", "img_idx": 1}]'
    )

    result, [drawing] = show(desk, pictures[:1], words)

    assert list(result.artefacts) == ["annotated"]
    assert len(result.objects) == 2
    assert drawing.tobytes() == draw_answer(pictures[0], result.objects).tobytes()
