"""From a picture and a question to the tensors that the model takes. It knows no weights.

The steps are those of Qwen's own recipe: a chat message, the checkpoint's template, its tokenizer and its picture
processor with its pixel budget.
"""

from typing import Any

import torch
from PIL import Image

from vlyard.errors import Complaint, InvalidInput
from workers.qwen.loading import Processor

Inputs = dict[str, torch.Tensor]

# Where these stand in the tokens, pictures are put: a question that contains them would take a picture's place.
_PLACEHOLDERS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


def encode(processor: Processor, picture: Image.Image, prompt: str) -> Inputs:
    """One user turn, picture first, and the beginning of the answer. T tokens, P patches of 3 × 2 × 16 × 16 values.

    Returns input_ids, attention_mask and mm_token_type_ids (1, T), pixel_values (P, 1536) and image_grid_thw (1, 3),
    on the CPU. The picture is an upright RGB one. Raises `InvalidInput`.
    """
    for word in _PLACEHOLDERS:
        if word in prompt:
            raise InvalidInput(
                "The question is not valid", [Complaint("/spec/prompt", f"it contains {word}", "leave it out")]
            )
    content: list[dict[str, Any]] = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]
    try:
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
    except ValueError as error:  # such as a picture that is more than 200 times as wide as high
        raise InvalidInput(f"the model's processor refuses the picture: {error}") from error
    return dict(inputs)
