import re
from itertools import islice
from typing import Any

import pytest
import torch
from PIL import Image

from vlyard.demo.shapes import draw_scenes
from vlyard.errors import InvalidInput
from workers.qwen.batch import rope_positions
from workers.qwen.inputs import encode, patches
from workers.qwen.loading import LoadedModel
from workers.qwen.request import Budget, Request, Turn

SIZES = [(256, 256), (500, 90), (33, 70)]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [scene.picture.resize(size) for scene, size in zip(islice(draw_scenes(5), 3), SIZES, strict=True)]


@pytest.mark.parametrize("budget", [Budget(), Budget(64 * 64, 90_000)])
def test_what_the_model_gets_is_what_its_own_processor_makes(
    demo: LoadedModel, pictures: list[Image.Image], budget: Budget
) -> None:
    first, second, third = pictures
    turns = (
        Turn("system", ("Be kind.",)),
        Turn("user", ("One:", first, "Two:", second)),
        Turn("assistant", ("Yes.",)),
        Turn("user", (third, "What now?")),
    )
    messages = [
        {
            "role": turn.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
                for part in turn.content
            ],
        }
        for turn in turns
    ]
    size: dict[str, Any] = {}
    if budget.min_pixels:
        size = {"images_kwargs": {"size": {"shortest_edge": budget.min_pixels, "longest_edge": budget.max_pixels}}}
    expected = demo.processor.apply_chat_template(
        messages,
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=size,
    )

    encoded = encode(demo.processor, Request(turns, budget=budget))

    assert torch.equal(encoded.ids, expected["input_ids"][0])
    assert encoded.grids is not None
    assert torch.equal(encoded.grids, expected["image_grid_thw"])
    found = torch.cat([patches(demo.processor, shown) for shown in encoded.shown])
    assert torch.equal(found, expected["pixel_values"])
    positions, _ = demo.model.model.get_rope_index(
        expected["input_ids"], expected["mm_token_type_ids"], image_grid_thw=expected["image_grid_thw"]
    )
    assert torch.equal(rope_positions(demo, encoded), positions[:, 0])


def test_one_bound_of_the_budget_moves_the_checkpoints_other_one(
    demo: LoadedModel, pictures: list[Image.Image]
) -> None:
    def tokens(budget: Budget) -> int:
        return encode(demo.processor, Request((Turn("user", (pictures[0],)),), budget=budget)).shown[0].tokens

    assert tokens(Budget(max_pixels=1)) == 1
    assert tokens(Budget(min_pixels=256 * 256)) == 64


def test_a_picture_so_slim_that_a_side_is_under_a_cell_exceeds_the_budget_as_qwens_arithmetic_has_it(
    demo: LoadedModel,
) -> None:
    slim = Image.new("RGB", (1990, 10))

    encoded = encode(demo.processor, Request((Turn("user", (slim,)),), budget=Budget(max_pixels=1024)))

    assert encoded.shown[0].tokens == 15  # cells of 32 x 32 pixels, where the budget is one


def test_a_pictures_place_in_a_message_is_named_by_its_field(demo: LoadedModel) -> None:
    bad = "<|image_pad|>"
    alone = (Turn("system", (bad,)), Turn("user", ("Hello",)))
    several = (Turn("user", ("Hello",)), Turn("assistant", ("Hi",)), Turn("user", ("Look", bad)))

    with pytest.raises(InvalidInput, match=re.escape(f"/spec/system: it contains {bad}")):
        encode(demo.processor, Request(alone))
    with pytest.raises(InvalidInput, match=re.escape(f"/spec/messages/2/content/1: it contains {bad}")):
        encode(demo.processor, Request(several))


def test_what_the_chat_template_refuses_is_told(demo: LoadedModel) -> None:
    turns = (Turn("user", ("Hello",)), Turn("system", ("Too late.",)))

    with pytest.raises(InvalidInput, match="chat template refuses the messages: a message is of the role"):
        encode(demo.processor, Request(turns))


def test_what_a_model_was_trained_to_be_told_is_said_first_where_nothing_else_is(demo: LoadedModel) -> None:
    asked, led = (Turn("user", ("Hello",)),), (Turn("system", ("Be kind.",)), Turn("user", ("Hello",)))
    own = "Be brief."

    def text(turns: tuple[Turn, ...], system: str | None = None) -> str:
        said: str = demo.processor.tokenizer.decode(encode(demo.processor, Request(turns, system=system)).ids)
        return said

    assert text(asked, own) == "<|im_start|>system\nBe brief.<|im_end|>\n" + text(asked)
    assert text(led, own) == text(led)
    several = (*asked, Turn("assistant", ("Hi",)), Turn("user", ("<|image_pad|>",)))
    with pytest.raises(InvalidInput, match="/spec/messages/2/content/0: it contains"):
        encode(demo.processor, Request(several, system=own))
