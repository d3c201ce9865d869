"""A small tokenizer that cuts text exactly as Qwen3's does, with a vocabulary of 1,024 instead of 151,669.

It has Qwen's normaliser, its pre-tokenizer (every digit is a token of its own, so coordinates need nothing special)
and its 26 added tokens in their order. It knows no model.
"""

import json
import random
from collections.abc import Iterator
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import AddedToken, Qwen2Tokenizer

from vlyard.demo.shapes import CLASSES, COLOURS, SHAPES

VOCABULARY = 1_024
CONTEXT = 8_192  # tokens

# In the order of their ids, 151643 and up, in the tokenizer.json of every Qwen3 model.
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
PLAIN_TOKENS = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip

_SENTENCES = (
    "Locate all objects in this image and output the bbox coordinates in JSON format using relative coordinates in "
    "the range [0, 1000].",
    "Detect every {thing} in the picture. Output the bounding boxes in JSON format.",
    'locate every instance that belongs to the following categories: "{thing}, {thing}". Report bbox coordinates in '
    "JSON format.",
    "Where is the {thing}? It is at the bottom right of the image, and there is another one at the top left.",
    "How many {thing}s are there? There are {number}.",
    "Describe this image. What is in the picture, and what is behind it?",
    "You are a helpful assistant.",
    "user\nassistant\nsystem\n",
    "描述这张图片中的场景和主要对象",
    "请检测图像中的所有目标，并以JSON格式输出边界框坐标。图中有{number}个目标。",
    "<0.5 seconds>",
    "That this model answers at all shows that the pieces around it work: which of them would fail with a larger one "
    "is a question for a larger one. With time, people have found their way through words such as these before.",
)
# The classes of COCO, which most labels are among.
_COCO = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag,
tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote,
keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush""".replace("\n", " ").split(", ")
_THINGS = (*CLASSES, *COLOURS, *SHAPES, *_COCO, "house", "triangle", "square", "star", "yellow", "black", "white")


def train_tokenizer(seed: int = 0) -> Qwen2Tokenizer:
    """Learn the merges from prompts and answers such as the demo model meets; takes about a second."""
    backend = Qwen2Tokenizer().backend_tokenizer
    added = (*SPECIAL_TOKENS, *PLAIN_TOKENS)
    trainer = BpeTrainer(
        vocab_size=VOCABULARY - len(added), initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False
    )
    backend.train_from_iterator(_corpus(random.Random(seed)), trainer)  # noqa: S311 - sentences, not secrets
    learned = json.loads(backend.to_str())["model"]
    ids = learned["vocab"] | {token: len(learned["vocab"]) + place for place, token in enumerate(added)}
    make: Any = Qwen2Tokenizer  # its annotations refuse what its code takes
    tokenizer: Qwen2Tokenizer = make(
        vocab=ids,
        merges=[tuple(pair) for pair in learned["merges"]],
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        unk_token=None,
        extra_special_tokens=list(SPECIAL_TOKENS),
        model_max_length=CONTEXT,
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in PLAIN_TOKENS])
    return tokenizer


def _corpus(rng: random.Random) -> Iterator[str]:
    for _ in range(2_000):
        sentence = rng.choice(_SENTENCES).replace("{number}", str(rng.randint(0, 20)))
        while "{thing}" in sentence:
            sentence = sentence.replace("{thing}", rng.choice(_THINGS), 1)
        yield sentence
        objects = [
            {"bbox_2d": [rng.randint(0, 1000) for _ in range(4)], "label": rng.choice(_THINGS)}
            for _ in range(rng.randint(0, 3))
        ]
        yield json.dumps(objects)
        yield f"```json\n{json.dumps(objects, indent=1)}\n```"
