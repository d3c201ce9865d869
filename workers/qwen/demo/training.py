"""Teaching the demo model to find the one shape on a picture. It knows no file.

The plainest loop that works: pictures drawn on the fly, no sample seen twice, AdamW, a rate that warms up, stays and
falls. One seed and a fixed number of steps, so that two runs on one machine end with the same weights.
"""

import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from PIL import Image

from vlyard.demo.shapes import CLASSES, Scene, draw_scenes
from vlyard.formats.answer import write_answer
from vlyard.jobs.conversion import DEFAULT_PROMPT
from workers.qwen.demo.architecture import SIDE
from workers.qwen.loading import Model, Processor

Batch = dict[str, torch.Tensor]

# Several, so that the model answers however it is asked: it has nothing else to say.
PROMPTS = (
    DEFAULT_PROMPT,
    "Detect all objects in the image. Output the bounding boxes in JSON format.",
    f'locate every instance that belongs to the following categories: "{", ".join(CLASSES)}". Report bbox '
    "coordinates in JSON format.",
    "What is in this picture?",
    "描述这张图片中的场景和主要对象",
)
_IGNORED = -100  # the label of a token that is not to be learned

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the architecture."""

    steps: int = 5_000
    batch: int = 16  # pictures a step
    rate: float = 2e-3
    warm_up: int = 50  # steps
    decay: float = 0.3  # the last part of the steps, in which the rate falls to 5 %; worth a fifth of the IoU
    weight_decay: float = 0.01
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0: up, flat, down."""
        left = (self.steps - step) / (self.decay * self.steps)
        return self.rate * min(1.0, (step + 1) / self.warm_up, max(0.05, left))


def train(model: Model, processor: Processor, recipe: Recipe) -> None:
    """Train all weights in place, in fp32 on the CPU. About 0.2 s a step on one core."""
    model.train()
    optimizer = torch.optim.AdamW(_groups(model, recipe), lr=recipe.rate, betas=(0.9, 0.99), fused=True)
    smooth = 0.0
    for step, batch in enumerate(islice(_batches(processor, recipe), recipe.steps)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate_at(step)
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        smooth = loss.item() if step == 0 else 0.95 * smooth + 0.05 * loss.item()
        if (step + 1) % 50 == 0:
            log.info("step %d of %d: loss %.4f", step + 1, recipe.steps, smooth)
    model.eval()


def _groups(model: torch.nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Weights decay; biases and the scales of norms do not."""
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    return [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _batches(processor: Processor, recipe: Recipe) -> Iterator[Batch]:
    """Without end; all pictures of one batch are asked about in the same words."""
    scenes = draw_scenes(recipe.seed, side=SIDE)
    prompts = [_prompt_ids(processor, words) for words in PROMPTS]
    rng = random.Random(recipe.seed)  # noqa: S311 - prompts, not secrets
    while True:
        yield _collate(processor, rng.choice(prompts), list(islice(scenes, recipe.batch)))


def _prompt_ids(processor: Processor, words: str) -> list[int]:
    """The user's turn as token ids, with as many placeholders as a picture of SIDE × SIDE has tokens."""
    content = [{"type": "image", "image": Image.new("RGB", (SIDE, SIDE))}, {"type": "text", "text": words}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, add_generation_prompt=True, return_dict=True
    )
    return list(inputs["input_ids"][0])


def _collate(processor: Processor, prompt: list[int], scenes: list[Scene]) -> Batch:
    """One batch; only the answers are learned. B pictures, T tokens, P patches of 3 × 2 × 16 × 16 values."""
    tokenizer = processor.tokenizer
    answers = [tokenizer(write_answer([(scene.label, scene.box)]) + "<|im_end|>").input_ids for scene in scenes]
    longest = max(map(len, answers))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([prompt + answer + [pad] * (longest - len(answer)) for answer in answers])  # (B, T)
    labels = torch.tensor(
        [[_IGNORED] * len(prompt) + answer + [_IGNORED] * (longest - len(answer)) for answer in answers]
    )  # (B, T)
    pictures = processor.image_processor(images=[scene.picture for scene in scenes], return_tensors="pt")
    return {
        "input_ids": ids,
        "attention_mask": (ids != pad).long(),  # (B, T)
        "mm_token_type_ids": (ids == processor.image_token_id).long(),  # (B, T): 1 where a picture is
        "labels": labels,
        "pixel_values": pictures["pixel_values"],  # (P, 1536)
        "image_grid_thw": pictures["image_grid_thw"],  # (B, 3)
    }
