"""The whole proof, from what is cheap to look at to what is dear; each step stands on the ones before.

1. files and their sums   2. names, shapes and types of the tensors, and config.json   3. every weight
4. the questions: tokens, patches, logits and boxes
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from vlyard.errors import Complaint, VerificationFailed
from workers.qwen.checkpoint import CONFIG, headers, read_json, weight_files
from workers.qwen.exporting.folder import save_settings
from workers.qwen.exporting.merging import Merging, merge
from workers.qwen.exporting.shards import FLOATS, stored_tensors
from workers.qwen.inspection import DTYPES, MIXED
from workers.qwen.verifying import files, llama
from workers.qwen.verifying.answers import Question, plainly, reference
from workers.qwen.verifying.judging import Judged, bound_of, judge
from workers.qwen.verifying.weights import wrong_weights

Name: TypeAlias = Literal["files", "checksums", "names", "shapes", "dtypes", "weights", "processing", "logits", "boxes"]

_BESIDE = ("_weight_scale", "_weight_zero_point")  # what torchao stores with a quantised weight
GGUF = "gguf"  # as `Made.dtype`
_MOST = 20  # complaints that an error shows


class Right(NamedTuple):
    """One thing that was compared, and was right."""

    name: Name
    detail: str


@dataclass(frozen=True)
class Verified:
    """What was proved."""

    checks: Sequence[Right]
    parameters: int
    dtype: str  # bf16, fp16, fp32, int8, int4, gguf, or mixed
    judged: Judged | None  # None where no model was asked


@dataclass(frozen=True)
class Made:
    """An export, and what it was made of."""

    export: Path
    base: Path
    adapter: Path | None
    dtype: str | None = None  # of the weights, as `files.wrong_dtypes` takes it


def verify(
    made: Made,
    questions: Sequence[Question],
    work: Path,
    *,
    told: Callable[[float | None, str], None],
    check: Callable[[], None],
) -> Verified:
    """Prove that an export is the model that it was made of; `work` is an empty folder for what that needs.

    Raises `VerificationFailed` with a complaint for each file, tensor and question that is wrong, `InvalidInput` where
    the base or the adapter cannot be used, and `OutOfMemory`.
    """
    export = made.export
    told(0.0, "looking at the files")
    _expect(files.wrong_files(export))
    _expect(files.wrong_sums(export, check))
    told(0.2, "looking at names, shapes and types")
    _expect(files.wrong_tensors(export))
    _expect(files.wrong_dtypes(export, made.base, made.dtype))
    expected = work / "expected"
    expected.mkdir()
    save_settings(made.base, made.adapter, expected)
    _expect(files.wrong_settings(export, made.base, expected))
    told(0.3, "comparing every weight")
    _expect(wrong_weights(export, made.base, made.adapter, check))
    told(0.6, "asking the model that it was made of")
    wanted = reference(made.base, made.adapter, questions, check)
    told(0.8, "asking the export, in plain transformers")
    loaded = plainly(export, questions, wanted, work, check)
    _expect(loaded.complaints)
    dtype = _dtype(export)
    judged = judge(questions, wanted.answered, loaded.answered, bound_of(dtype, wanted.dtype))
    _expect(judged.complaints)
    parameters = sum(tensor.numbers for name, tensor in stored_tensors(export).items() if not name.endswith(_BESIDE))
    return Verified(list(rights_of(export, dtype, judged, questions)), parameters, dtype, judged)


def verify_for_llama(
    made: Made, work: Path, *, told: Callable[[float | None, str], None], check: Callable[[], None]
) -> Verified:
    """Prove that an export for llama.cpp has the weights of the model that it was made of; no model is asked.

    `work` is an empty folder, with room for the whole weights. Raises as `verify`.
    """
    export, whole = made.export, work / "whole"
    told(0.0, "looking at the files")
    _expect(llama.wrong_files_for_llama(export))
    _expect(files.wrong_sums(export, check))
    if made.dtype not in {None, GGUF}:
        _expect([Complaint(export.name, f"it is for llama.cpp, and not {made.dtype}", files.AGAIN)])
    told(0.1, "merging the weights once more")
    merged = merge(made.base, made.adapter, whole, Merging(), told=lambda *_: None, check=check)
    told(0.5, "comparing every weight")
    _expect(wrong_weights(whole, made.base, made.adapter, check))
    deep = read_json(made.base / CONFIG)["vision_config"]["deepstack_visual_indexes"]
    _expect(llama.wrong_tensors_for_llama(export, whole, deep, check, tied=merged.tied))
    count = f"{len(llama.parts_of(whole, deep))} tensors"
    checks = (
        Right("files", "all that llama.cpp needs, and nothing else"),
        Right("checksums", f"{sum(1 for path in export.rglob('*') if path.is_file()) - 1} files"),
        Right("names", count),
        Right("shapes", count),
        Right("weights", f"every number of {count}, rounded once"),
    )
    return Verified(checks, merged.parameters, GGUF, None)


def _expect(complaints: Iterable[Complaint]) -> None:
    every = list(complaints)
    if every:
        left = len(every) - _MOST
        more = [Complaint("and", f"{left} more", "mend the first ones, and look again")] if left > 0 else []
        raise VerificationFailed(complaints=[*every[:_MOST], *more])


def _dtype(export: Path) -> str:
    if bits := files.quantised_bits(export):
        return bits
    kinds = {header.dtype for file in weight_files(export) for header in headers(file).values()}
    return DTYPES.get(kinds.pop(), MIXED) if len(kinds) == 1 else MIXED


def rights_of(export: Path, dtype: str, judged: Judged, questions: Sequence[Question]) -> Iterator[Right]:
    """What was compared and found right, once nothing was found wrong."""
    tensors = stored_tensors(export)
    floats = sum(tensor.dtype in FLOATS for tensor in tensors.values())
    asked = f"{len(questions)} questions"
    yield Right("files", "all that a model needs, and nothing else")
    yield Right("checksums", f"{sum(1 for path in export.rglob('*') if path.is_file()) - 1} files")
    yield Right("names", f"{len(tensors)} tensors")
    yield Right("shapes", f"{len(tensors)} tensors")
    yield Right("dtypes", dtype)
    yield Right("weights", f"every number of {floats} tensors")
    yield Right("processing", f"the same tokens and patches for {asked}")
    yield Right("logits", f"at most {judged.logits:.2g} apart for {asked}")
    if judged.mean_iou is not None:
        yield Right("boxes", f"a mean IoU of {judged.mean_iou:.4f} over {judged.boxes}")
    else:
        yield Right("boxes", f"no boxes were answered to {asked}, by neither: ask about a dataset that has some")
