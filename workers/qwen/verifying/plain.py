"""What plain transformers make of a folder: run as a program of its own, it imports nothing of VLyard.

`python -P plain.py <folder of work>` reads `asked.json` there, and leaves `answered.json` and `answered.safetensors`.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

ASKED, ANSWERED, NUMBERS = "asked.json", "answered.json", "answered.safetensors"
LOADED = ("missing_keys", "unexpected_keys", "mismatched_keys")  # of transformers' report: each has to be empty

_OF_PROMPT = "mm_token_type_ids"  # 1 where a token stands for a part of a picture


def answer_to(model: Any, inputs: Mapping[str, torch.Tensor], most: int) -> torch.Tensor:
    """The likeliest tokens one after the other, (tokens,), with the one that ends them, and at most that many."""
    length = inputs["input_ids"].shape[1]
    made: torch.Tensor = model.generate(**inputs, do_sample=False, max_new_tokens=most)[0, length:]
    return made


def logits_of(model: Any, inputs: Mapping[str, torch.Tensor], answer: torch.Tensor) -> torch.Tensor:
    """What the model thinks of each place of an answer that is given to it: (tokens, words), fp32, on the CPU."""
    ids = torch.cat([inputs["input_ids"], answer[None]], dim=1)
    more = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if _OF_PROMPT in inputs:
        more[_OF_PROMPT] = torch.nn.functional.pad(inputs[_OF_PROMPT], (0, len(answer)))
    with torch.no_grad():
        found = model(**{**inputs, **more}, logits_to_keep=len(answer) + 1).logits
    told: torch.Tensor = found[0, :-1].float().cpu()
    return told


def main(work: Path) -> None:
    """Load, answer, and write what came of it."""
    asked = json.loads((work / ASKED).read_text(encoding="utf-8"))
    torch.set_num_threads(asked["threads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reader: Any = AutoModelForImageTextToText
    reading: Any = AutoProcessor
    dtype = asked["dtype"] if asked["dtype"] == "auto" else getattr(torch, asked["dtype"])
    model, report = reader.from_pretrained(asked["folder"], dtype=dtype, output_loading_info=True)
    model = model.to(device).eval()
    processor = reading.from_pretrained(asked["folder"])
    texts, numbers = [], {}
    for number, question in enumerate(asked["questions"]):
        inputs = processor.apply_chat_template(
            question["messages"], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(device)
        answer = answer_to(model, inputs, asked["most"])
        given = torch.tensor(question["answer"], device=device)
        texts.append(processor.decode(answer, skip_special_tokens=True))
        numbers[f"{number}.ids"] = inputs["input_ids"][0].cpu()
        numbers[f"{number}.pixels"] = inputs["pixel_values"].float().cpu()
        numbers[f"{number}.logits"] = logits_of(model, inputs, given)
    save_file({name: tensor.contiguous() for name, tensor in numbers.items()}, work / NUMBERS)
    loaded = {name: sorted(map(str, report.get(name) or ())) for name in LOADED}
    (work / ANSWERED).write_text(json.dumps({"loaded": loaded, "texts": texts}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
