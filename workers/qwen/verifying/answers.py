"""The same questions to both: to the base with its adapter beside it, as serving has it, and to the export.

The export is asked by plain transformers in a fresh process, when the other model has left the memory.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open

from vlyard.errors import Complaint, OutOfMemory
from workers.qwen.inputs import encode, patches
from workers.qwen.loading import LoadedModel, load_model
from workers.qwen.memory import naming_out_of_memory
from workers.qwen.programs import last_words, run_program
from workers.qwen.request import Request, Turn
from workers.qwen.sharing import put_on
from workers.qwen.verifying import plain
from workers.qwen.verifying.files import quantised_bits

LONGEST = 512  # tokens of an answer
FORCED = 32  # tokens of it whose logits are compared
_SHOWN = 3  # names in a complaint
_KILLED = -9  # the return code of a process that the system ended, for its memory


@dataclass(frozen=True)
class Question:
    """What is asked about an upright RGB picture."""

    picture: Image.Image
    words: str
    name: str  # the picture's


@dataclass(frozen=True)
class Answered:
    """What a model made of a question: T tokens of it, P patches of its picture, and W words that there are."""

    ids: torch.Tensor  # (T,)
    pixels: torch.Tensor  # (P, values of a patch)
    logits: torch.Tensor  # (at most FORCED, W): of the first tokens of the answer that the model gave that was made of
    text: str


@dataclass(frozen=True)
class Reference:
    """What an export has to answer."""

    answered: Sequence[Answered]
    answers: Sequence[Sequence[int]]  # the first tokens of each answer
    system: str | None
    dtype: torch.dtype


@dataclass(frozen=True)
class Loaded:
    """What plain transformers made of an export."""

    answered: Sequence[Answered]
    complaints: Sequence[Complaint]  # about tensors that it lacks, or has too many


def reference(base: Path, adapter: Path | None, questions: Sequence[Question], check: Callable[[], None]) -> Reference:
    """The base's answers, with the adapter beside it. Raises `InvalidInput` and `OutOfMemory`."""
    loaded = load_model(base)
    if adapter:
        loaded = put_on(loaded, adapter)
    answered, answers = [], []
    for question in questions:
        check()
        one, tokens = naming_out_of_memory(partial(_ask, loaded, question))
        answered.append(one)
        answers.append(tokens)
    found = Reference(answered, answers, loaded.system, loaded.dtype)
    del loaded
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def _ask(loaded: LoadedModel, question: Question) -> tuple[Answered, list[int]]:
    turn = Turn("user", (question.picture, question.words))
    encoded = encode(loaded.processor, Request((turn,), system=loaded.system))
    pixels = torch.cat([patches(loaded.processor, shown) for shown in encoded.shown])
    ids = encoded.ids[None].to(loaded.device)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == loaded.model.config.image_token_id).long(),
        "pixel_values": pixels.to(loaded.device, loaded.dtype),
        "image_grid_thw": encoded.grids.to(loaded.device) if encoded.grids is not None else None,
    }
    answer = plain.answer_to(loaded.model, inputs, LONGEST)
    forced = answer[:FORCED]
    logits = plain.logits_of(loaded.model, inputs, forced)
    text = loaded.processor.decode(answer, skip_special_tokens=True)
    return Answered(encoded.ids, pixels, logits, text), forced.tolist()


def plainly(
    export: Path, questions: Sequence[Question], wanted: Reference, work: Path, check: Callable[[], None]
) -> Loaded:
    """The export's answers, computed in the reference's dtype, or, where it is quantised, in its own.

    `work` is an empty folder. Raises `OutOfMemory`, and as `check`.
    """
    asked = {
        "folder": str(export.resolve()),
        "dtype": "auto" if quantised_bits(export) else str(wanted.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "most": LONGEST,
        "questions": [
            {"messages": _messages(question, work / f"{number}.png", wanted.system), "answer": answer}
            for number, (question, answer) in enumerate(zip(questions, wanted.answers, strict=True))
        ],
    }
    (work / plain.ASKED).write_text(json.dumps(asked), encoding="utf-8")
    failed = _run(work, check)
    if failed is not None:
        return Loaded((), [Complaint(export.name, f"plain transformers cannot use it: {failed}", "export it again")])
    told = json.loads((work / plain.ANSWERED).read_text(encoding="utf-8"))
    return Loaded(list(_read(work, told["texts"])), list(_misfits(export, told["loaded"])))


def _messages(question: Question, path: Path, system: str | None) -> list[dict[str, Any]]:
    question.picture.save(path)
    first = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system is not None else []
    shown = [{"type": "image", "image": str(path)}, {"type": "text", "text": question.words}]
    return [*first, {"role": "user", "content": shown}]


def _run(work: Path, check: Callable[[], None]) -> str | None:
    """Run plain transformers; their last words where they failed. Raises `OutOfMemory`, and as `check`."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    said = work / "said.txt"
    code = run_program([sys.executable, "-P", plain.__file__, str(work)], said, check, environment)
    if code == 0:
        return None
    last = last_words(said)
    if code == _KILLED or "out of memory" in last.lower() or "MemoryError" in last:
        raise OutOfMemory(f"plain transformers ran out of memory with the export: {last}")
    return last or f"it ended with {code}"


def _read(work: Path, texts: Sequence[str]) -> Iterator[Answered]:
    opening: Any = safe_open
    with opening(work / plain.NUMBERS, framework="pt") as file:
        for number, text in enumerate(texts):
            ids, pixels, logits = (file.get_tensor(f"{number}.{name}") for name in ("ids", "pixels", "logits"))
            yield Answered(ids, pixels, logits, text)


def _misfits(export: Path, loaded: Mapping[str, Sequence[str]]) -> Iterator[Complaint]:
    for sort, names in loaded.items():
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            what = f"plain transformers tell of {sort.replace('_', ' ')}: {', '.join(names[:_SHOWN])}{more}"
            yield Complaint(export.name, what, "export it again")
