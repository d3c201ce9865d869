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
from workers.qwen.request import Budget, Request, Shown, Turn

# Where these stand in the tokens, pictures are put: a text that contains them would take a picture's place.
_PLACEHOLDERS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
_MUCH_LARGER = 2  # times the pixels that the model sees: then a picture is shrunk while it waits


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
    parts = [part for turn in request.turns for part in turn.content if not isinstance(part, str)]
    shown = tuple(part if isinstance(part, Shown) else show(processor, part, request.budget) for part in parts)
    return Encoded(ids=torch.tensor(_tokens(processor, request, shown)), shown=shown)


def tokens_of(processor: Processor, size: tuple[int, int], budget: Budget) -> int:
    """How many tokens a picture of that width and height will have, also when it is turned. Raises `InvalidInput`."""
    _, rows, columns = _grid(processor, size, _areas(processor, budget))
    return rows * columns // int(processor.image_processor.merge_size) ** 2


def pixels_a_token(processor: Processor) -> int:
    """How many pixels of what the model sees one token stands for."""
    images = processor.image_processor
    return int(images.patch_size * images.merge_size) ** 2


def show(processor: Processor, picture: Image.Image, budget: Budget) -> Shown:
    """An upright RGB picture at about the size in which the model sees it; what is left to resize is done later.

    Raises `InvalidInput`.
    """
    areas = _areas(processor, budget)
    grid = _grid(processor, picture.size, areas)
    width, height = _seen_size(processor, grid)
    if _MUCH_LARGER * width * height < picture.width * picture.height:  # else it would be read twice for little
        picture = _shrunk(processor, picture, areas, grid)
    said = hashlib.sha256(repr((picture.mode, picture.size, areas, grid)).encode())
    said.update(picture.tobytes())
    return Shown(picture, areas, grid, grid[1] * grid[2] // processor.image_processor.merge_size**2, said.digest())


def patches(processor: Processor, shown: Shown) -> torch.Tensor:
    """A picture's patches, in fp32 on the CPU: (rows × columns, 3 channels × 2 moments × 16 × 16)."""
    as_seen = shown.picture.size == _seen_size(processor, shown.grid)
    found = processor.image_processor(
        images=[shown.picture], size=_edges(shown.size), do_resize=not as_seen, return_tensors="pt"
    )
    assert tuple(found["image_grid_thw"][0].tolist()) == shown.grid
    pixels: torch.Tensor = found["pixel_values"]
    return pixels


def _shrunk(
    processor: Processor, picture: Image.Image, areas: tuple[int, int], grid: tuple[int, int, int]
) -> Image.Image:
    """By the processor itself, whose patches hold the very bytes where it is told to leave them so."""
    images = processor.image_processor
    found = images(images=[picture], size=_edges(areas), do_rescale=False, do_normalize=False, return_tensors="pt")
    _, rows, columns = grid
    merged, side = images.merge_size, images.patch_size
    cells = (rows // merged, columns // merged, merged, merged)
    cut = found["pixel_values"].reshape(*cells, 3, images.temporal_patch_size, side, side)[:, :, :, :, :, 0]
    # (row of cells, row in the cell, row in the patch, column of cells, …, channel)
    pixels = cut.permute(0, 2, 5, 1, 3, 6, 4).reshape(rows * side, columns * side, 3)
    return Image.fromarray(pixels.contiguous().numpy())


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


def _part(part: str | Image.Image | Shown) -> dict[str, Any]:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}


def _areas(processor: Processor, budget: Budget) -> tuple[int, int]:
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


def _edges(areas: tuple[int, int]) -> dict[str, int]:
    return {"shortest_edge": areas[0], "longest_edge": areas[1]}


def _grid(processor: Processor, size: tuple[int, int], areas: tuple[int, int]) -> tuple[int, int, int]:
    """Moments, rows and columns of patches of a picture of that width and height."""
    images, (width, height) = processor.image_processor, size
    try:
        rows, columns = smart_resize(
            height, width, images.patch_size * images.merge_size, min_pixels=areas[0], max_pixels=areas[1]
        )
    except ValueError as error:  # such as a picture that is more than 200 times as wide as high
        raise InvalidInput(f"the model's processor refuses the picture: {error}") from error
    return 1, rows // images.patch_size, columns // images.patch_size


def _seen_size(processor: Processor, grid: tuple[int, int, int]) -> tuple[int, int]:
    """Width and height in pixels."""
    side: int = processor.image_processor.patch_size
    return grid[2] * side, grid[1] * side


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
