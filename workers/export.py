"""The export job: a model taken out, its adapter merged in, as one complete folder."""

from control.settings import Settings, load_settings
from vlyard.jobs.export import MODEL, ExportResult, ExportSpec
from workers.context import Context
from workers.models import origin, resolve
from workers.pushing import place, require_place
from workers.qwen.exporting.folder import complete
from workers.qwen.exporting.merging import Merging, merge


def run(spec: ExportSpec, context: Context) -> ExportResult:
    """Export. Raises `InvalidInput`, `RefusedArchive`, `Unavailable` and `DiskFull`."""
    return export(spec, context, load_settings())


def export(spec: ExportSpec, context: Context, settings: Settings) -> ExportResult:
    """The same with these settings."""
    if spec.folder:
        require_place(spec.folder, settings.export_dir)  # before any work is done in vain
    context.progress(None, "fetching the weights")
    output = context.folder / MODEL
    with resolve(spec.model, spec.adapter, 1, context, settings) as source:
        base, wanted = origin(spec.model, source), Merging(spec.dtype, spec.shard_bytes)
        merged = merge(source.folder, source.adapter, output, wanted, told=context.progress, check=context.check)
        files = complete(source.folder, source.adapter, output, merged, named=base)
    context.progress(None, "storing the export")
    artefact = context.publish_tree(output, MODEL)
    return ExportResult(
        base=base,
        merged=merged.merged,
        dtype=merged.dtype,
        parameters=merged.parameters,
        bytes=merged.bytes,
        files=dict(files),
        folder=place(output, spec.folder, settings.export_dir).name if spec.folder else None,
        artefacts={MODEL: artefact},
    )
