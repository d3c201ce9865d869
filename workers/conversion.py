"""The conversion job: from an uploaded archive of YOLO labels to a grounding data set, its report and its picture."""

from vlyard.formats.archive import pack
from vlyard.formats.convert import CONTACT_SHEET, REPORT, Options, convert
from vlyard.jobs.conversion import ConversionResult, ConversionSpec
from workers.context import Context

_CONVERTED = 0.95  # of the attempt: what is left packs and stores the result


def run(spec: ConversionSpec, context: Context) -> ConversionResult:
    """Unpack, convert, pack and publish. Raises `InvalidInput` and `RefusedArchive` as `convert` does."""
    context.progress(None, "fetching the source")
    source = context.input(spec.source)
    folder = context.folder / "dataset"
    options = Options(name=spec.name, prompt=spec.prompt, policy=spec.policy, keep_empty=spec.keep_empty)

    def progress(fraction: float | None, text: str) -> None:
        context.progress(None if fraction is None else fraction * _CONVERTED, text)

    report = convert(source, folder, options, progress)
    context.progress(_CONVERTED, "packing the data set")
    archive = context.folder / "dataset.zip"
    pack(folder, archive)
    lines = report.totals["lines"]
    return ConversionResult(
        layout=report.layout,
        classes=report.classes,
        samples=report.samples,
        boxes=report.boxes,
        lines_kept=lines["kept"],
        lines_fixed=lines["fixed"],
        lines_refused=lines["refused"],
        pictures_refused=report.totals["pictures"]["refused"],
        artefacts={
            "dataset": context.publish(archive, "application/zip"),
            "report": context.publish(folder / REPORT, "application/json"),
            "contact_sheet": context.publish(folder / CONTACT_SHEET, "image/png"),
        },
    )
