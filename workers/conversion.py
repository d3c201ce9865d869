"""The conversion job: from an uploaded data set to another one, its report, its statistics and its pictures."""

from vlyard.formats.archive import pack
from vlyard.formats.convert import CONTACT_SHEET, PLOTS, REPORT, STATISTICS, TABLE, convert
from vlyard.formats.crew import usable_cores
from vlyard.jobs.conversion import ConversionOptions, ConversionResult, ConversionSpec
from workers.context import Context

_CONVERTED = 0.95  # of the attempt: what is left packs and stores the result
_PUBLISHED = {
    "report": (REPORT, "application/json"),
    "report_table": (TABLE, "text/csv"),
    "statistics": (STATISTICS, "application/json"),
    "plots": (PLOTS, "image/png"),
    "contact_sheet": (CONTACT_SHEET, "image/png"),
}


def run(spec: ConversionSpec, context: Context) -> ConversionResult:
    """Unpack, convert, pack and publish. Raises `InvalidInput` and `RefusedArchive` as `convert` does."""
    context.progress(None, "fetching the source")
    source = context.input(spec.source)
    tokenizer = None if spec.tokenizer is None else context.input(spec.tokenizer)
    folder = context.folder / "dataset"
    options = ConversionOptions(**{name: getattr(spec, name) for name in ConversionOptions.model_fields})

    def progress(fraction: float | None, text: str) -> None:
        context.progress(None if fraction is None else fraction * _CONVERTED, text)

    report = convert(
        source, folder, options, progress, pictures="link", processes=usable_cores(), tokenizer=tokenizer
    )  # fmt: skip
    context.progress(_CONVERTED, "packing the data set")
    archive = context.folder / "dataset.zip"
    pack(folder, archive)
    annotations = report.totals["annotations"]
    return ConversionResult(
        format=report.format,
        layout=report.layout,
        classes=report.classes,
        samples=report.samples,
        boxes=report.boxes,
        annotations_kept=annotations["kept"],
        annotations_fixed=annotations["fixed"],
        annotations_refused=annotations["refused"],
        annotations_left_out=annotations["left_out"],
        pictures_refused=report.totals["pictures"]["refused"],
        artefacts={
            "dataset": context.publish(archive, "application/zip"),
            **{name: context.publish(folder / file, media_type) for name, (file, media_type) in _PUBLISHED.items()},
        },
    )
