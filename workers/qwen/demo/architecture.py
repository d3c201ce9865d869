"""The demo model before it has learned anything: transformers' own Qwen3-VL classes with small numbers in them.

Every part of the real architecture is there: vision tower, DeepStack, interleaved M-RoPE, the real patch size. It
knows no training data.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from workers.qwen.demo.tokenizer import CONTEXT, train_tokenizer
from workers.qwen.loading import Model, Processor

SIDE = 128  # pixels: every picture is brought to about SIDE × SIDE, so that any picture costs 16 tokens
_HEAD = 32  # a head's width in the language model

_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


@dataclass(frozen=True)
class Shape:
    """How many layers there are, and how wide. Widths are multiples of 64, which every quantiser asks for."""

    layers: int = 3
    hidden: int = 128
    vision_layers: int = 3
    vision_hidden: int = 64
    deepstack: tuple[int, ...] = (0, 1)  # vision layers whose output is added after the first language layers


DEMO = Shape()  # 1.1 million parameters
SMALLEST = Shape(layers=1, vision_layers=2, deepstack=(0,))


def build_untrained(folder: Path, seed: int, shape: Shape = SMALLEST) -> None:
    """Write a complete checkpoint with random fp32 weights; the same seed gives the same weights on one machine."""
    model, processor = build(seed, shape)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def build(seed: int, shape: Shape = DEMO) -> tuple[Model, Processor]:
    """The model in fp32 on the CPU and its processor, in memory."""
    tokenizer = train_tokenizer()
    config = _config(tokenizer, shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(config)
        # With the usual 0.02 the model answers without looking for about a thousand steps: positions drown.
        torch.nn.init.normal_(model.model.visual.pos_embed.weight, std=1.0)
    model.generation_config = _generation(tokenizer)
    return model, _processor(tokenizer)


def _config(tokenizer: Qwen2Tokenizer, shape: Shape) -> Qwen3VLConfig:
    number: Any = tokenizer.convert_tokens_to_ids
    return Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": shape.hidden,
            "intermediate_size": 2 * shape.hidden,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.hidden // _HEAD,
            "num_key_value_heads": shape.hidden // _HEAD // 2,
            "head_dim": _HEAD,
            "max_position_embeddings": CONTEXT,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [6, 5, 5],  # time, height, width: half a head in the real one's 24:20:20
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "bos_token_id": number("<|endoftext|>"),
            "eos_token_id": number("<|im_end|>"),
        },
        vision_config={
            "depth": shape.vision_layers,
            "hidden_size": shape.vision_hidden,
            "intermediate_size": 2 * shape.vision_hidden,
            "num_heads": shape.vision_hidden // _HEAD,
            "out_hidden_size": shape.hidden,
            "num_position_embeddings": 24**2,
            "deepstack_visual_indexes": list(shape.deepstack),
        },
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def _generation(tokenizer: Qwen2Tokenizer) -> Any:
    """As Qwen3-VL's own, which samples with temperature 0.7, top-p 0.8 and top-k 20."""
    end, stop = tokenizer.pad_token_id, tokenizer.eos_token_id
    make: Any = GenerationConfig
    return make(do_sample=True, temperature=0.7, top_p=0.8, top_k=20, pad_token_id=end, eos_token_id=[stop, end])


def _processor(tokenizer: Qwen2Tokenizer) -> Processor:
    area = SIDE * SIDE
    cut: dict[str, Any] = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    make: Any = Qwen3VLProcessor
    return make(
        # The edges are areas in pixels; a quarter of play, because sides are rounded to multiples of 32.
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": area * 3 // 4, "longest_edge": area}, **cut),
        video_processor=Qwen3VLVideoProcessor(size={"shortest_edge": area, "longest_edge": 16 * area}, **cut),
        tokenizer=tokenizer,
        chat_template=_TEMPLATE.read_text(encoding="utf-8"),
    )
