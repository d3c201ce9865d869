"""The export job: a model taken out, its adapter merged in, as one complete folder; then brought to where it was to go.

An export that is verified comes here twice: once to write the folder, and, when a verification has passed it, once more
to bring it away. One that is not verified does both at once.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from control.settings import Settings, load_settings
from vlyard.jobs.export import MODEL, SUMMARY, ExportResult, ExportSpec
from vlyard.jobs.verification import REPORT, VerificationResult
from workers.context import Context
from workers.hub_pushing import push, require_hub
from workers.lasting import lasting
from workers.models import cache_of, origin, resolve
from workers.pushing import place, require_place
from workers.qwen.exporting.folder import complete
from workers.qwen.exporting.gguf import require_converter, to_gguf
from workers.qwen.exporting.journal import JOURNAL
from workers.qwen.exporting.merging import Merging, merge
from workers.qwen.exporting.quantising import quantise, require_torchao

_PLACE = "exports"  # beside the machine's cache of models: where exports are written
_WHOLE = "whole"  # the folder where merged weights wait to become of another format


class _Written(NamedTuple):
    """What was written, and the folder where it lies."""

    result: ExportResult
    folder: Path


def run(spec: ExportSpec, context: Context) -> ExportResult:
    """Export. Raises `InvalidInput`, `RefusedArchive`, `Unavailable` and `DiskFull`."""
    return export(spec, context, load_settings())


def export(spec: ExportSpec, context: Context, settings: Settings) -> ExportResult:
    """The same with these settings."""
    _require(spec, context, settings)
    if spec.written is None or spec.summary is None or spec.verified is None:
        with lasting(cache_of(settings).folder.with_name(_PLACE), context.job, context.check) as place:
            written = _write(spec, context, settings, place)
            return written.result if spec.verify else _bring_away(spec, written, context, settings)
    told = ExportResult.model_validate_json(context.input(spec.summary).read_bytes())
    report = VerificationResult.model_validate_json(context.input(spec.verified).read_bytes())
    artefacts = {MODEL: spec.written, SUMMARY: spec.summary, REPORT: spec.verified}
    result = told.model_copy(update={"verification": report.checks, "artefacts": artefacts})
    if spec.folder is None and spec.push_to is None:
        return result
    return _bring_away(spec, _Written(result, context.input(spec.written)), context, settings)


def _require(spec: ExportSpec, context: Context, settings: Settings) -> None:
    """Raise `InvalidInput` for what this worker cannot do, before any work is done in vain."""
    if spec.folder and context.attempt == 1:  # later, what is there may be the job's own
        require_place(spec.folder, settings.export_dir)
    if spec.push_to:
        require_hub(spec.push_to, settings)
    if spec.format == "gguf":
        require_converter(settings.gguf_converter)
    elif spec.format != "safetensors":
        require_torchao()


def _write(spec: ExportSpec, context: Context, settings: Settings, place: Path) -> _Written:
    """Write the export below a place where an attempt that was killed may have begun."""
    context.progress(None, "fetching the weights")
    folder, journal = place / MODEL, place / JOURNAL
    merged_into = folder if spec.format == "safetensors" else place / _WHOLE
    with resolve(spec.model, spec.adapter, 1, context, settings) as source:
        base, wanted = origin(spec.model, source), Merging(spec.dtype, spec.shard_bytes)
        heard: dict[str, Any] = {"told": context.progress, "check": context.check, "journal": journal}
        merged = merge(source.folder, source.adapter, merged_into, wanted, **heard)
        files = complete(source.folder, source.adapter, merged_into, merged, named=base, lineage=spec.lineage)
    if spec.format != "safetensors":
        context.progress(None, f"making {spec.format} of it")
        shutil.rmtree(folder, ignore_errors=True)  # what was cut off
        files = _in_format(spec, merged_into, folder, context, settings)
    result = ExportResult(
        base=base,
        merged=merged.merged,
        format=spec.format,
        dtype=merged.dtype if spec.format == "safetensors" else spec.format,
        parameters=merged.parameters,
        bytes=sum((folder / name).stat().st_size for name in files),
        files=dict(files),
    )
    context.progress(None, "storing the export")
    model = context.publish_tree(folder, MODEL)
    summary = context.folder / "summary.json"
    summary.write_text(result.model_dump_json(indent=2), encoding="utf-8")
    artefacts = {MODEL: model, SUMMARY: context.publish(summary, "application/json")}
    return _Written(result.model_copy(update={"artefacts": artefacts}), folder)


def _in_format(spec: ExportSpec, whole: Path, folder: Path, context: Context, settings: Settings) -> Mapping[str, str]:
    """Make a folder of the wanted format from one of whole weights; returns the SHA-256 of its files."""
    if spec.format == "gguf":
        return to_gguf(whole, folder, settings.gguf_converter, context.check)
    assert spec.format != "safetensors"
    return quantise(whole, folder, spec.format, spec.shard_bytes)


def _bring_away(spec: ExportSpec, written: _Written, context: Context, settings: Settings) -> ExportResult:
    result, folder = written
    if spec.push_to and spec.repository:
        context.progress(None, f"sending it to {spec.repository}")
        pushed = push(folder, spec.push_to, spec.repository, settings, private=spec.private, check=context.check)
        result = result.model_copy(update={"pushed": pushed})
    if spec.folder:
        context.progress(None, f"copying it to the folder {spec.folder}")
        result = result.model_copy(update={"folder": place(folder, spec.folder, settings.export_dir).name})
    return result
