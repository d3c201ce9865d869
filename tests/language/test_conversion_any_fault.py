"""Any fault, anywhere, in any format: whatever is wrong with a set, its account is whole."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.language.llama_factory import problems
from tests.language.test_conversion_faults import RED, Files, account, saved
from tests.language.yolo_sets import answers, converted, options, picture, write_set
from vlyard.errors import InvalidInput
from vlyard.formats.faults import Policy
from vlyard.formats.tree import is_picture

SIZE = (40, 30)
PICTURE = picture(SIZE)
ODD = ("nan", "inf", "1e999", "-3", "0", "99999", "1e-9", "0,5", "0x1", "１", "''", "cat", "null", "true", "[]", "{}",
       "[1]", '"7"', '"\\ud800"', "9" * 400, "<b/>", "&x;", "../a", "", "\x00")  # fmt: skip
Numbers = tuple[int, int, int, int]  # corners in pixels


def yolo(boxes: list[list[Numbers]]) -> Files:
    def line(box: Numbers) -> str:
        x1, y1, x2, y2 = box
        numbers = ((x1 + x2) / 2 / SIZE[0], (y1 + y2) / 2 / SIZE[1], (x2 - x1) / SIZE[0], (y2 - y1) / SIZE[1])
        return " ".join(map(str, (1, *numbers)))

    return {f"labels/{number}.txt": "\n".join(map(line, of_one)) for number, of_one in enumerate(boxes)}


def coco(boxes: list[list[Numbers]]) -> Files:
    images = [{"id": n, "file_name": f"{n}.jpg", "width": SIZE[0], "height": SIZE[1]} for n in range(len(boxes))]
    annotations = [
        {"id": 10 * n + k, "image_id": n, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for n, of_one in enumerate(boxes)
        for k, (x1, y1, x2, y2) in enumerate(of_one)
    ]
    said = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "dog"}]}
    return {"labels/instances.json": json.dumps(said)}


def voc(boxes: list[list[Numbers]]) -> Files:
    def one(number: int, of_one: list[Numbers]) -> str:
        objects = "".join(
            "<object><name>dog</name><bndbox>"
            + "".join(f"<{key}>{v}</{key}>" for key, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
            + "</bndbox></object>"
            for box in of_one
        )
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
        return f"<annotation><filename>{number}.jpg</filename>{size}{objects}</annotation>"

    return {f"labels/{number}.xml": one(number, of_one) for number, of_one in enumerate(boxes)}


def labelme(boxes: list[list[Numbers]]) -> Files:
    def one(number: int, of_one: list[Numbers]) -> str:
        shapes = [{"label": "dog", "points": [box[:2], box[2:]], "shape_type": "rectangle"} for box in of_one]
        size = {"imageWidth": SIZE[0], "imageHeight": SIZE[1]}
        return json.dumps({"version": "5", "shapes": shapes, "imagePath": f"../images/{number}.jpg", **size})

    return {f"labels/{number}.json": one(number, of_one) for number, of_one in enumerate(boxes)}


def samples_of(boxes: list[list[Numbers]]) -> Files:
    def one(number: int, of_one: list[Numbers]) -> dict[str, Any]:
        across, down = 1000 / SIZE[0], 1000 / SIZE[1]
        places = [[round(x1 * across), round(y1 * down), round(x2 * across), round(y2 * down)]
                  for x1, y1, x2, y2 in of_one]  # fmt: skip
        answer = json.dumps([{"bbox_2d": place, "label": "dog"} for place in places])
        turns = [{"role": "user", "content": "<image>\nFind."}, {"role": "assistant", "content": answer}]
        return {"messages": turns, "images": [f"../images/{number}.jpg"]}

    return {"labels/samples.json": json.dumps([one(number, of_one) for number, of_one in enumerate(boxes)])}


WRITTEN: tuple[Callable[[list[list[Numbers]]], Files], ...] = (yolo, coco, voc, labelme, samples_of)
PICTURES = (
    *[PICTURE] * 6, picture((90, 90)), saved("CMYK", "JPEG"), saved("I;16", "PNG"), picture(SIZE, turned=6),
    saved("RGB", "WEBP", save_all=True, append_images=[RED]), saved("RGBA", "PNG"), PICTURE[:-200], b"",
)  # fmt: skip
NAMES_TOO = ("{0}.JPG", "{0}.png", "deep/{0}.jpg", "猫 {0}.jpg", "{0}.jpg.jpg")
ROWS_TOO = ("1 .5 .5 .4 .4 .9", "1 .9 .5 .5 .4 .4", "1 .5 .5 .4 .4", "1 .5 .5 .4 .4", "1 20 15 20 15",
            "1 .1 .1 .9 .1 .9 .9", "1 .5 .5 .4 .4 .5 .5 2", "7 .5 .5 .4 .4", "1 1.4 .5 .4 .4", "1 .5 .5 1.01 .4",
            "1,.5,.5,.4,.4", "1 .5 .5 .00001 .4", "1 .5 .5 0 0")  # fmt: skip
ABOUT_OBJECTS = {"point_alone", "too_small", "other_class"}  # rows of pictures that are written all the same
LONG_INTEGER = labelme([[(0, 0, 20, 10**400)]])["labels/0.json"]
BOXES = st.tuples(st.integers(0, 18), st.integers(0, 13), st.integers(20, 40), st.integers(15, 30))


def another_token(draw: st.DrawFn, content: bytes) -> bytes:
    """One of its numbers, words, keys or tags is another."""
    tokens = list(re.finditer(rb"[\w.+-]+", content))
    token = draw(st.sampled_from(tokens)) if tokens else None
    start, end = token.span() if token else (0, 0)
    return content[:start] + draw(st.sampled_from(ODD)).encode() + content[end:]


def one_piece_gone(draw: st.DrawFn, content: bytes) -> bytes:
    start = draw(st.integers(0, len(content)))
    return content[:start] + content[start + draw(st.integers(1, 60)) :]


MUTATIONS: tuple[Callable[[st.DrawFn, bytes], bytes], ...] = (
    *[another_token] * 3,
    one_piece_gone,
    lambda draw, content: content[: draw(st.integers(0, len(content)))],
    lambda _, content: b"\xef\xbb\xbf" + content,
    lambda _, content: content.replace(b"\n", b"\r\n") + b"\r\n \n",
    lambda _, content: content.decode("utf-8", "replace").encode("utf-16"),
    lambda _, content: content + content,
    lambda _, content: b"\xff\xfe\x00" + content,
    lambda _, __: b"",
)


@st.composite
def faulty_sets(draw: st.DrawFn) -> Files:
    """A set in one of the formats: up to four pictures, odd ones, and up to four mutations of its files."""
    boxes = draw(st.lists(st.lists(BOXES, min_size=1, max_size=3), min_size=2, max_size=4))
    files = draw(st.sampled_from(WRITTEN))(boxes)
    for number in range(len(boxes)):
        name = draw(st.sampled_from(NAMES_TOO)) if draw(st.integers(0, 5)) == 0 else "{0}.jpg"
        files["images/" + name.format(number)] = draw(st.sampled_from(PICTURES))
        rows = f"labels/{number}.txt"
        if rows in files and draw(st.booleans()):
            files[rows] = "\n".join([str(files[rows]), *draw(st.lists(st.sampled_from(ROWS_TOO), max_size=3))])
            files |= {f"labels/{number}.TXT": "1 .5 .5 .4 .4"} if draw(st.integers(0, 9)) == 0 else {}
    for _ in range(draw(st.integers(0, 4))):
        file = draw(st.sampled_from(sorted(files)))
        content = files[file]
        mutate = draw(st.sampled_from(MUTATIONS))
        files[file] = mutate(draw, content.encode() if isinstance(content, str) else content)
        if draw(st.integers(0, 9)) == 0 and len(files) > 2:  # missing, or far from where it belongs
            content = files.pop(file)
            files |= {f"elsewhere/{file}": content} if draw(st.booleans()) else {}
    return files


def rows_in(label: Path) -> int:
    """How many lines that are not blank a label file has."""
    with label.open(encoding="utf-8-sig", errors="replace") as file:
        return sum(bool(line.strip()) for line in file)


@settings(max_examples=30)
@example(labelme([[(0, 0, 20, 15)], [(5, 5, 20, 15)]]) | {"labels/0.json": LONG_INTEGER, "images/0.jpg": PICTURE,
         "images/1.jpg": PICTURE}, "fix", "header", "sharegpt")  # fmt: skip
@example(yolo([[(0, 0, 20, 15)]]) | {"labels/0.TXT": "1 .5 .5 .4 .4".encode("utf-16"), "images/0.jpg": PICTURE},
         "fix", "header", "sharegpt")  # fmt: skip
@given(
    faulty=faulty_sets(),
    policy=st.sampled_from(["fix", "fix", "skip", "strict"]),
    check=st.sampled_from(["header", "header", "decode", "none"]),
    to=st.sampled_from(["sharegpt"] * 4 + ["tutorial", "trl", "yolo", "coco", "voc"]),
)
def test_whatever_is_wrong_with_a_set_each_picture_and_annotation_is_accounted_for_once(
    faulty: Files, policy: Policy, check: str, to: str
) -> None:
    with TemporaryDirectory() as folder:
        source, output = write_set(Path(folder) / "set", faulty), Path(folder) / "out"
        try:
            _, report = converted(source, output, options(policy, check=check, to=to), max_pixels=2_000)
        except InvalidInput:
            assert not output.exists()
            return
        rows = account(output, report)
        assert policy != "strict" or not any(row["status"] == "refused" for row in rows)
        names = [name for name in faulty if is_picture(name)]
        out = [row["file"] for row in rows if row["status"] in {"refused", "ignored"} and row["file"] in names
               and not ABOUT_OBJECTS & {*row["codes"]}]  # fmt: skip
        assert len(out) == len({*out}), rows
        kept = [name for name in names if name not in out]
        assert report["totals"]["pictures"]["kept"] == len(kept)
        written = [path for path in output.rglob("*") if path.is_file() and is_picture(path)]
        assert len(written) == len(kept) + len(("statistics.png", "contact_sheet.png"))
        counts = report["totals"]["annotations"]
        if report["source"]["format"] == "yolo":
            labels = (source / name for name in faulty if name.lower().endswith(".txt"))
            assert counts["read"] == sum(map(rows_in, labels)), rows
        if to != "sharegpt":
            return
        told = answers(output)
        assert {*told} == {f"images/{name}" for name in kept}
        for found in (found for objects in told.values() for found in objects):
            x1, y1, x2, y2 = found["bbox_2d"]
            assert 0 <= x1 <= x2 <= 1000, found
            assert 0 <= y1 <= y2 <= 1000, found
        assert (
            counts["kept"] - report["totals"]["spelling"]["said_again"]
            <= sum(map(len, told.values()))
            <= counts["kept"] + counts["fixed"]
        )
        assert problems(output) == []
