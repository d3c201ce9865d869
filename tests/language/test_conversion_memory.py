"""A conversion streams: what it holds does not grow with what it writes."""

import tracemalloc
from pathlib import Path

from tests.language.yolo_sets import options, picture, write_set
from vlyard.formats.convert import convert

PNG = picture((4, 4), file_format="PNG")


def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    def peak(pictures: int) -> int:
        names = (f"a_rather_long_name_{number:05}" for number in range(pictures))
        lines = "".join(f"0 0.5 0.5 0.5 0.{digits}\n0 0.5 0.5 0.5 0.{digits} 0.9\n" for digits in range(101, 131))
        files: dict[str, str | bytes] = {"data.yaml": "train: images\nnames: [cat]\n"}
        for name in names:
            files |= {f"images/{name}.png": PNG, f"labels/{name}.txt": lines}
        source = write_set(tmp_path / f"set{pictures}", files)
        del files
        tracemalloc.start()
        try:
            converted_boxes = converted_quietly(source, tmp_path / f"out{pictures}")
            assert converted_boxes == pictures * 30
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)  # what is loaded once
    small, large = peak(80), peak(240)
    written = sum((tmp_path / "out240" / name).stat().st_size for name in ("report.json", "grounding.json"))
    assert large - small < written / 8


def converted_quietly(source: Path, output: Path) -> int:
    """Convert without reading the report, which would be measured too."""

    def silent(fraction: float | None, text: str) -> None: ...

    return convert(source, output, options(), silent).boxes
