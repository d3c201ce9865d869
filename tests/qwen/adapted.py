"""Adapters for tests: of every kind that there is, and what a model says with them."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from workers.qwen.loading import Model, load_model
from workers.qwen.manifest import Manifest

LANGUAGE = r"model\.language_model\..*\.(q_proj|v_proj|down_proj)"


def said_by(model: Model) -> torch.Tensor:
    """Scores of every token, (1, 12, 1024), of which the first four are a picture's 4 × 4 patches."""
    tokens = torch.arange(100, 112)[None]
    tokens[0, :4] = model.config.image_token_id
    patches = torch.linspace(-1, 1, 16 * 1536).view(16, 1536)
    kinds = (tokens == model.config.image_token_id).long()
    with torch.inference_mode():
        scores: torch.Tensor = model(
            input_ids=tokens, pixel_values=patches, image_grid_thw=torch.tensor([[1, 4, 4]]), mm_token_type_ids=kinds
        ).logits
    return scores


def make_adapter(base: Path, folder: Path, **settings: Any) -> torch.Tensor:
    """Save an adapter that is not zero for a base, and return what PEFT's own model says with it."""
    torch.manual_seed(4)
    wanted = {"r": 4, "target_modules": LANGUAGE, "init_lora_weights": False, **settings}
    adapted = get_peft_model(load_model(base).model, LoraConfig(**wanted))
    adapted.save_pretrained(str(folder))
    return said_by(adapted.eval())


# fmt: off
KINDS: list[dict[str, Any]] = [
    {},
    {"use_dora": True},
    {"use_rslora": True, "lora_alpha": 3, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 5}},
    {"target_modules": "all-linear"},
    {"target_modules": r".*(patch_embed\.proj|pos_embed|qkv)"},
    {"target_modules": r".*patch_embed\.proj", "use_dora": True},
    {"modules_to_save": ["norm"]},
    {"bias": "all", "target_modules": r"model\.visual\..*\.qkv"},
]
# Of a base whose words in and out are one tensor.
WORDS: list[dict[str, Any]] = [
    {"target_modules": ["embed_tokens"]},
    {"target_modules": ["lm_head"]},
    {"target_modules": ["lm_head"], "use_dora": True},
    {"target_modules": ["embed_tokens", "lm_head"]},
    {"target_modules": ["lm_head"], "ensure_weight_tying": True, "lora_alpha": 0.1},
    {"target_modules": r".*(embed_tokens|q_proj)", "ensure_weight_tying": True, "lora_alpha": 0.1},
]
# fmt: on


def manifest(**values: Any) -> Manifest:
    """What a training may say of its model."""
    made: dict[str, Any] = {
        "base": "demo", "method": "lora", "prompt": None, "system": None, "chat_template": None, "min_pixels": 4096,
        "max_pixels": 4096, "dataset": "some", "dataset_sha256": "", "spec": {}, "metrics": {}, "libraries": {},
        "seed": 0, **values,
    }  # fmt: skip
    return Manifest.model_validate(made)
