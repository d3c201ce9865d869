"""What belongs beside the weights, so that a folder loads everywhere and asks as it was trained. It merges nothing."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlyard.errors import InvalidInput
from vlyard.jobs.export import Provenance
from workers.qwen.checkpoint import CONFIG, read_json, refused
from workers.qwen.exporting.card import card, license_of
from workers.qwen.exporting.digest import sha256_of
from workers.qwen.exporting.merging import Merged
from workers.qwen.loading import Processor, as_trained
from workers.qwen.manifest import MANIFEST, read_manifest

SUMS, CARD = "SHA256SUMS", "README.md"
LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
# As config.json has the types of weights: https://huggingface.co/docs/transformers/main_classes/configuration.
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64"}
_TIED = "tie_word_embeddings"
_GENERATION = "generation_config.json"
_TOKENIZER = "tokenizer_config.json"
_OF_THIS_MACHINE = frozenset({"is_local", "local_files_only"})  # how the base was read here
_WORDS = ("vocab.json", "merges.txt")  # for those who do not read tokenizer.json
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OSError, ImportError)


def complete(
    base: Path, adapter: Path | None, output: Path, merged: Merged, *, named: str, lineage: Provenance | None = None
) -> Mapping[str, str]:
    """Put everything that a model needs beside its weights, which `merge` has written, and say the files' SHA-256.

    The processor has the pixel budget and the chat template that the model was trained with, where transformers looks
    for them. `named` is how the base is called, as a job names it: `demo`, `hub:owner/name@commit`, ..., and `lineage`
    what is known of its history. There are no dates and no folders of this machine: the same model has the same files.
    Raises `InvalidInput`.
    """
    _write(output / CONFIG, _config(base, merged))
    save_settings(base, adapter, output)
    manifest = next((found for folder in (adapter, base) if folder and (found := folder / MANIFEST).is_file()), None)
    if manifest:
        shutil.copyfile(manifest, output / MANIFEST)
    for name in LICENSES:
        if (base / name).is_file():
            shutil.copyfile(base / name, output / name)
    words = card(merged, read_manifest(output), named, lineage, license_of(base / CARD))
    (output / CARD).write_text(words, encoding="utf-8")
    return write_sums(output, merged.sums)


def save_settings(base: Path, adapter: Path | None, output: Path) -> None:
    """Write how a model is asked: what makes tokens and patches of a question, and how an answer is generated.

    Raises `InvalidInput` where the base does not tell that.
    """
    _copy_generation(base, output)
    _save_processor(base, adapter, output)


def write_sums(folder: Path, known: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Write `SHA256SUMS` over all other files, for `sha256sum -c`; `known` are those that need not be read again."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    sums = {name: (known or {}).get(name) or sha256_of(folder / name) for name in files if name != SUMS}
    (folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()), encoding="utf-8")
    return sums


def read_sums(folder: Path) -> Mapping[str, str]:
    """The SHA-256 of each file by its name, as `SHA256SUMS` has them. Raises `InvalidInput`."""
    where = f"{folder.name}/{SUMS}"
    if not (folder / SUMS).is_file():
        raise refused(folder.name, f"it has no {SUMS}", "export it again")
    sums = {}
    for number, line in enumerate((folder / SUMS).read_text(encoding="utf-8").splitlines(), 1):
        digest, gap, name = line.partition("  ")
        if not gap or not name or len(digest) != 64:
            raise refused(f"{where}:{number}", "it is not a SHA-256, two spaces and a name", "export it again")
        sums[name] = digest
    return sums


def _config(base: Path, merged: Merged) -> dict[str, Any]:
    """The base's config.json with the type that the weights have, in every part that tells one.

    Words that became two tensors are said to be so where transformers look, and where those do that load the language
    model alone.
    """
    config = read_json(base / CONFIG)
    dtype = _DTYPES.get(merged.dtype)
    for part in (config, *(each for each in config.values() if isinstance(each, dict))):
        if dtype and (part is config or part.keys() & {"dtype", "torch_dtype"}):
            part["dtype"] = dtype
            part.pop("torch_dtype", None)  # what it was called before
    if config.get(_TIED) and not merged.tied:
        config[_TIED] = config["text_config"][_TIED] = False
    return config


def _copy_generation(base: Path, output: Path) -> None:
    if (base / _GENERATION).is_file():
        _write(output / _GENERATION, read_json(base / _GENERATION))
        return
    from transformers import GenerationConfig, Qwen3VLConfig

    made: Any = GenerationConfig.from_model_config(Qwen3VLConfig.from_pretrained(base, local_files_only=True))
    made.save_pretrained(output)


def _save_processor(base: Path, adapter: Path | None, output: Path) -> None:
    processor = _processor(base)
    for folder in (base, adapter):
        if folder:
            processor, _ = as_trained(folder, processor, None)
    processor.save_pretrained(output)
    words = read_json(output / _TOKENIZER)
    _write(output / _TOKENIZER, {name: value for name, value in words.items() if name not in _OF_THIS_MACHINE})
    # Where older versions, and other programs, look.
    _write(output / "preprocessor_config.json", processor.image_processor.to_dict())
    _write(output / "video_preprocessor_config.json", processor.video_processor.to_dict())
    for name in _WORDS:
        if (base / name).is_file():
            shutil.copyfile(base / name, output / name)


def _processor(base: Path) -> Processor:
    from transformers import Qwen3VLProcessor

    try:
        found: Any = Qwen3VLProcessor.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except _UNREADABLE as damage:
        raise _unreadable(base, damage) from damage
    if not found.chat_template:
        raise refused(base.name, "it has no chat template", "copy chat_template.jinja too, or chat_template.json")
    return found


def _unreadable(base: Path, damage: BaseException) -> InvalidInput:
    first = next(iter(str(damage).splitlines()), "") or type(damage).__name__
    return refused(base.name, f"its processor cannot be read: {first}", "copy the whole checkpoint again")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
