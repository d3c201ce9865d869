"""From turns of words and pictures to what the model takes. It knows no weights.

The steps are those of Qwen's own recipe: a chat message, the checkpoint's template, its tokenizer and its picture
processor with a pixel budget. Pictures become numbers later, and only where nobody looked at them before.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from vlyard.errors import Complaint, InvalidInput
from workers.qwen.loading import Processor
from workers.qwen.request import Budget, Request, Turn

# Where these stand in the tokens, pictures are put: a text that contains them would take a picture's place.
_PLACEHOLDERS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


@dataclass(frozen=True)
class Shown:
    """A picture at the size in which the model sees it."""

    picture: Image.Image
    size: tuple[int, int]  # the smallest and the largest area that it may be brought to, in pixels
    grid: tuple[int, int, int]  # patches of 16 × 16: moments (1), rows, columns
    tokens: int
    key: bytes  # equal for equal pixels at an equal size


@dataclass(frozen=True)
class Encoded:
    """A request as numbers. T tokens."""

    ids: torch.Tensor  # (T,), on the CPU
    shown: tuple[Shown, ...]

    @property
    def grids(self) -> torch.Tensor | None:
        """(pictures, 3); None where there is no picture."""
        return torch.tensor([shown.grid for shown in self.shown]) if self.shown else None


def encode(processor: Processor, request: Request) -> Encoded:
    """The turns, and the beginning of the answer. Raises `InvalidInput`."""
    _refuse_placeholders(request)
    size = _size(processor, request.budget)
    pictures = [part for turn in request.turns for part in turn.content if isinstance(part, Image.Image)]
    shown = tuple(_shown(processor, picture, size) for picture in pictures)
    return Encoded(ids=torch.tensor(_tokens(processor, request, shown)), shown=shown)


def patches(processor: Processor, shown: Shown) -> torch.Tensor:
    """A picture's patches, in fp32 on the CPU: (rows × columns, 3 channels × 2 moments × 16 × 16)."""
    smallest, largest = shown.size
    size = {"shortest_edge": smallest, "longest_edge": largest}
    found = processor.image_processor(images=[shown.picture], size=size, return_tensors="pt")
    assert tuple(found["image_grid_thw"][0].tolist()) == shown.grid
    pixels: torch.Tensor = found["pixel_values"]
    return pixels


def _tokens(processor: Processor, request: Request, shown: tuple[Shown, ...]) -> list[int]:
    turns = request.turns
    if request.system is not None and not any(turn.role == "system" for turn in turns):
        turns = (Turn("system", (request.system,)), *turns)
    messages = [{"role": turn.role, "content": [_part(part) for part in turn.content]} for turn in turns]
    try:
        text: str = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # whatever a checkpoint's template raises: it is a program that comes with it
        raise InvalidInput(f"the model's chat template refuses the messages: {error}") from error
    before, *pieces = text.split(processor.image_token)
    if len(pieces) != len(shown):
        raise InvalidInput(
            f"the model's chat template has room for {len(pieces)} pictures, and the messages show {len(shown)}"
        )
    texts = [before] + [processor.image_token * each.tokens + piece for each, piece in zip(shown, pieces, strict=True)]
    ids: list[int] = processor.tokenizer("".join(texts), add_special_tokens=False).input_ids
    return ids


def _part(part: str | Image.Image) -> dict[str, Any]:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}


def _size(processor: Processor, budget: Budget) -> tuple[int, int]:
    own = processor.image_processor.size
    smallest, largest = budget.min_pixels, budget.max_pixels
    if smallest is None:
        smallest = own["shortest_edge"] if largest is None else min(own["shortest_edge"], largest)
    if largest is None:
        largest = max(own["longest_edge"], smallest)
    if smallest > largest:
        what = f"is {smallest}, which is more than max_pixels, {largest}"
        raise InvalidInput("The pixel budget is not valid", [Complaint("/spec/min_pixels", what, "lower it")])
    return smallest, largest


def _shown(processor: Processor, picture: Image.Image, size: tuple[int, int]) -> Shown:
    images = processor.image_processor
    try:
        height, width = smart_resize(
            picture.height, picture.width, images.patch_size * images.merge_size, min_pixels=size[0], max_pixels=size[1]
        )
    except ValueError as error:  # such as a picture that is more than 200 times as wide as high
        raise InvalidInput(f"the model's processor refuses the picture: {error}") from error
    grid = (1, height // images.patch_size, width // images.patch_size)
    said = hashlib.sha256(repr((picture.mode, picture.size, size, grid)).encode())
    said.update(picture.tobytes())
    return Shown(picture, size, grid, grid[1] * grid[2] // images.merge_size**2, said.digest())


def _refuse_placeholders(request: Request) -> None:
    for where, text in _texts(request):
        for word in _PLACEHOLDERS:
            if word in text:
                raise InvalidInput(
                    "The question is not valid", [Complaint(where, f"it contains {word}", "leave it out")]
                )


def _texts(request: Request) -> Iterator[tuple[str, str]]:
    """Every text with the field that it came from."""
    spoken = [turn for turn in request.turns if turn.role != "system"]
    for at, turn in enumerate(request.turns):
        for number, part in enumerate(turn.content):
            if isinstance(part, str):
                alone = "/spec/system" if turn.role == "system" else "/spec/prompt"
                yield alone if len(spoken) == 1 else f"/spec/messages/{at}/content/{number}", part
