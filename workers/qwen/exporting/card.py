"""The model card: what a model is, where it comes from, how well it does, and the lines of code that ask it.

It knows no weights. The head is what hubs read: https://huggingface.co/docs/hub/model-cards#model-card-metadata.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from vlyard.jobs.export import Provenance
from vlyard.jobs.importing import HUB
from workers.qwen.exporting.merging import Merged
from workers.qwen.manifest import Manifest, read_manifest

_ON_ITS_DEVICE = 'dtype = "auto" if device == "cuda" else torch.float32  # a CPU is slow in 16 bits'
_AS_STORED = 'dtype = "auto"  # the scales of its layers have types of their own'
_LICENSE = ("license", "license_name", "license_link")  # as hubs call it
_ANY_QUESTION = "Find every object, and give each box with its label as JSON."


def loading_code(folder: str, question: str, picture: str) -> str:
    """Ten lines of plain transformers that load an exported folder and ask it about a picture, and print the answer.

    Where a model was trained with a system message, and the folder is here, they say it first.
    """
    manifest = read_manifest(Path(folder))
    return _code(folder, question, picture, manifest.system if manifest else None)


def as_stored(text: str) -> str:
    """A card, or its lines, for weights that are loaded in the types that they are stored in, wherever that is."""
    return text.replace(_ON_ITS_DEVICE, _AS_STORED)


def card(
    merged: Merged,
    manifest: Manifest | None,
    named: str,
    lineage: Provenance | None = None,
    license: Mapping[str, str] | None = None,
) -> str:
    """The card as Markdown; `named` is the base as a job names it, and `license` what the base's own card says."""
    base = manifest.base if manifest else named
    question = (manifest.prompt if manifest else None) or _ANY_QUESTION
    code = _code("<this folder>", question, "<a picture>", manifest.system if manifest else None)
    parts = (
        _head(base, merged, license or {}),
        f"# {_plain(base).rpartition('/')[2]}{', tuned' if manifest else ''}\n\n{_what(merged, base)}",
        f"## Ask it\n\n```python\n{code}```",
        *(_came(lineage) if lineage else ()),
        *(_trained(manifest) if manifest else ()),
        "Every box that it answers with is in 0..1000 of the picture's width and height: x1, y1, x2, y2. The files' "
        "SHA-256 are in `SHA256SUMS` (`sha256sum -c SHA256SUMS`).",
    )
    return "\n\n".join(parts) + "\n"


def _code(folder: str, question: str, picture: str, system: str | None) -> str:
    said = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    shown = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    messages = [*said, {"role": "user", "content": shown}]
    return f"""\
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
folder, device = {_literal(folder)}, "cuda" if torch.cuda.is_available() else "cpu"
processor = AutoProcessor.from_pretrained(folder)
{_ON_ITS_DEVICE}
model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).to(device)
messages = {_literal(messages)}
inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True, \
return_tensors="pt")
answer = model.generate(**inputs.to(device), do_sample=False, max_new_tokens=1024)[0, inputs["input_ids"].shape[1]:]
print(processor.decode(answer, skip_special_tokens=True))
"""


def _literal(value: object) -> str:
    """As Python reads it; JSON's is the same for words, lists and objects of them."""
    return json.dumps(value, ensure_ascii=False)


def _plain(base: str) -> str:
    """A name that a hub may know: without where it is from, and which revision it is."""
    return base.removeprefix(HUB).partition("@")[0]


def license_of(card: Path) -> Mapping[str, str]:
    """What the head of a card says of the licence; nothing where there is no card, or it cannot be read."""
    try:
        _, head, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        told: Any = yaml.safe_load(head)
        return {name: str(told[name]) for name in _LICENSE if told.get(name)}
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return {}


def _head(base: str, merged: Merged, license: Mapping[str, str]) -> str:
    """A base that is on no hub is left to the words below: hubs refuse a card with a `base_model` that they lack."""
    known = {"base_model": _plain(base)} if base.startswith(HUB) else {}
    about = {
        **known,
        **license,
        **({"base_model_relation": "finetune"} if known and merged.merged else {}),
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["qwen3_vl", "grounding", "vlyard"],
    }
    return f"---\n{yaml.safe_dump(about, sort_keys=False, allow_unicode=True)}---"


def _what(merged: Merged, base: str) -> str:
    numbers = f"{merged.parameters:,} parameters, {merged.bytes:,} bytes of weights in {merged.dtype}"
    how = "with the adapter of a training merged into its weights" if merged.merged else "as it was trained"
    return f"`{base}`, {how}: {numbers}. It loads as any Qwen3-VL does."


def _came(lineage: Provenance) -> Iterator[str]:
    rows = [("version", lineage.model, ""), ("base", lineage.base, "")]
    for stage in lineage.stages:
        told = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in stage.figures.items())
        rows.append((stage.kind.replace("_", " "), f"job `{stage.job}`", told))
    lines = [f"| {what} | {_cell(which)} | {told} |" for what, which, told in rows]
    yield "## Where it comes from\n\n" + "\n".join(["| | | |", "|---|---|---|", *lines])


def _trained(manifest: Manifest) -> Iterator[str]:
    yield "## How it was trained\n\n" + _table(
        {
            "base": manifest.base,
            "method": manifest.method,
            "dataset": manifest.dataset,
            "SHA-256 of the dataset": manifest.dataset_sha256,
            "pixels of a picture": f"{manifest.min_pixels:,} to {manifest.max_pixels:,}",
            "seed": manifest.seed,
            **({"question": manifest.prompt} if manifest.prompt else {}),
            **({"system message": manifest.system} if manifest.system else {}),
        }
    )
    if manifest.metrics:
        yield "## Metrics\n\n" + _table(manifest.metrics)
    if manifest.spec:
        spec = json.dumps(manifest.spec, indent=2, ensure_ascii=False, sort_keys=True)
        yield f"## Specification\n\n```json\n{spec}\n```"
    if manifest.libraries:
        yield "## Libraries\n\n" + _table(manifest.libraries)


def _table(rows: Mapping[str, object]) -> str:
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.replace("|", "\\|").split())
