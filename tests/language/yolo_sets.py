"""Small YOLO data sets, written to a folder for a test: real pictures, real label files."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
from PIL import Image

from vlyard.formats.convert import ConversionReport, convert
from vlyard.formats.faults import Policy
from vlyard.jobs.conversion import ConversionOptions

LINE = "0 0.5 0.5 0.5 0.5\n"
BOX_OF_LINE = [250, 250, 750, 750]


def picture(size: tuple[int, int] = (40, 30), *, file_format: str = "JPEG", turned: int = 1) -> bytes:
    """A file with a red left half; `turned` is the EXIF orientation that it carries."""
    image = Image.new("RGB", size, "white")
    image.paste("red", (0, 0, size[0] // 2, size[1]))
    exif = image.getexif()
    if turned != 1:
        exif[0x0112] = turned
    file = io.BytesIO()
    image.save(file, file_format, exif=exif, quality=95)
    return file.getvalue()


def write_set(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files below a folder; returns the folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def one_picture(labels: str | bytes, names: str = "[cat, dog]") -> dict[str, str | bytes]:
    """An Ultralytics set of one picture with these label lines."""
    return {
        "data.yaml": f"train: images\nnames: {names}\n",
        "images/a.jpg": picture(),
        "labels/a.txt": labels,
    }


def options(policy: Policy = "fix", *, prompt: str = "Locate every object.", **more: Any) -> ConversionOptions:
    """Options for a test: the name is `grounding`, and there is one prompt."""
    return ConversionOptions(**{"prompts": (prompt,), "policy": policy, **more})


def converted(
    source: Path,
    output: Path,
    chosen: ConversionOptions | None = None,
    progress: Callable[[float | None, str], object] = print,
    **how: Any,
) -> tuple[ConversionReport, dict[str, Any]]:
    """Convert; returns the value and `report.json` as it was written."""
    report = convert(source, output, chosen or options(), progress, **how)
    return report, orjson.loads((output / "report.json").read_bytes())


def samples(output: Path, name: str = "grounding") -> list[dict[str, Any]]:
    return orjson.loads((output / f"{name}.json").read_bytes())  # type: ignore[no-any-return]


def answers(output: Path, name: str = "grounding") -> dict[str, list[dict[str, Any]]]:
    """Picture -> the objects of its answer."""
    return {s["images"][0]: orjson.loads(s["messages"][1]["content"]) for s in samples(output, name)}
