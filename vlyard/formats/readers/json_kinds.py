"""Which kind of label file a JSON file is, by how it begins, and reading its entries one by one.

It knows what distinguishes the kinds, and nothing of what their entries mean.
"""

import io
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

import ijson  # type: ignore[import-untyped]

from vlyard.formats.tree import storable

SUFFIXES = frozenset({".json", ".jsonl", ".ndjson"})
_HEADS = (4_096, 65_536)  # bytes that are looked into before a whole file is
_BOM = b"\xef\xbb\xbf"
_WIDE = (b"\xff\xfe", b"\xfe\xff")  # UTF-16 and UTF-32
_BUFFER = 65_536
_LONGEST_PIECE = 2**26
_DEEPEST = 10_000  # brackets that are open, as far as counting them in texts, too, can tell
_DEEP = re.compile(rb'(?:[\[{]\s{0,4}(?:"[^"]{0,20}"\s{0,2}:\s{0,4})?){400}')
_LONGEST = 2**21  # bytes of a string in a text that is not JSON as it stands
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NO_NUMBER = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b|(?<![\w.+-])-?[0-9]{19,}(?![\w.])', re.DOTALL)


class Kind(StrEnum):
    """What a JSON file can be to us."""

    COCO = "coco"  # images, annotations and categories
    RESULTS = "results"  # a bare list of detections, as COCO's tools write and read
    LABELME = "labelme"  # one picture with its shapes
    SAMPLES = "samples"  # what a chat model is trained on, as a list or a line each
    OTHER = "other"


class BrokenJson(Exception):
    """The file is not JSON, or no UTF-8."""


_TABLES = frozenset({"images", "annotations", "categories"})
_SHAPES = frozenset({"shapes", "imagePath", "imageData"})
_TURNS = frozenset({"messages", "conversations", "completion"})


def kind_of(path: Path) -> Kind:
    """Reads as little of the file as tells."""
    try:
        for size in _HEADS:
            with path.open("rb") as file:
                head = file.read(size)
            kind = _kind(_Growing(io.BytesIO(head.removeprefix(_BOM))))
            if kind is not None or len(head) < size:
                return kind or Kind.OTHER
        with opened(path) as file:
            return _kind(_Growing(file)) or Kind.OTHER
    except (OSError, BrokenJson):
        return Kind.OTHER


def _kind(file: "_Growing") -> Kind | None:
    """None where what is there does not tell."""
    tables = False
    detection: set[str] = set()
    try:
        for prefix, event, value in ijson.parse(file, multiple_values=True, use_float=True):
            if event == "map_key" and prefix == "item":
                detection.add(value)
            tables = tables or (event == "start_array" and prefix in _TABLES)
            kind = _sign(prefix, event, value)
            if kind is None and {"image_id", "category_id"} <= detection:
                kind = Kind.RESULTS
            if kind is not None:
                return kind
    except (ijson.JSONError, ValueError):
        pass
    return Kind.COCO if tables else None


def _sign(prefix: str, event: str, value: object) -> Kind | None:
    """What one event says of the whole file."""
    match prefix, event, value:
        case "" | "item", "map_key", str(key) if key in _TURNS:
            return Kind.SAMPLES
        case "", "map_key", str(key) if key in _SHAPES:
            return Kind.LABELME
        case "images.item", "map_key", "file_name" | "id" | "width":  # samples may have a table of images, too
            return Kind.COCO
        case "annotations.item" | "categories.item", "start_map", _:
            return Kind.COCO
        case "", "string" | "number" | "boolean" | "null", _:
            return Kind.OTHER
    return None


def opened(path: Path) -> IO[bytes]:
    """The file behind its byte order mark. Raises `BrokenJson` where it is not UTF-8 by its first bytes."""
    file = path.open("rb", _BUFFER)
    head = file.read(3)
    if head.startswith(_WIDE):
        file.close()
        raise BrokenJson("it is UTF-16 and not UTF-8: save it as UTF-8")
    file.seek(3 if head == _BOM else 0)
    return file


def entries(path: Path, prefix: str) -> Iterator[Any]:
    """What lies at an ijson prefix such as `images.item`, one by one; memory does not grow with the file.

    NaN, Infinity, which some tools write and JSON does not know, and very long integers come as text. Raises
    `BrokenJson`.
    """
    given = 0
    try:
        with opened(path) as file:
            for each in ijson.items(_Growing(file), prefix, use_float=True):
                yield each
                given += 1
    except (ijson.JSONError, ValueError) as error:
        first = error
    else:
        return
    try:
        with opened(path) as file:
            for place, each in enumerate(ijson.items(_Quoting(file), prefix, use_float=True)):
                if place >= given:
                    yield each
    except (ijson.JSONError, ValueError):
        raise BrokenJson(_words(first)) from None


class _Growing:
    """A JSON text in pieces that grow inside of a long string: ijson reads a string again for each piece of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._size, self._depth = file, _BUFFER, 0

    def read(self, size: int = -1) -> bytes:
        if size == 0:
            return b""  # ijson asks so what kind of file this is
        piece = self._file.read(self._size)
        self._depth += piece.count(b"[") + piece.count(b"{") - piece.count(b"]") - piece.count(b"}")
        if self._depth > _DEEPEST or _DEEP.search(piece):
            raise BrokenJson("it is nested too deeply")  # ijson's memory grows with the square of the depth
        self._size = _BUFFER if b'"' in piece else min(2 * self._size, _LONGEST_PIECE)
        return piece


class _Quoting:
    """A JSON text whose NaN and Infinity are put in quotes, and integers that are too long for ijson."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._rest = file, b""

    def read(self, size: int = -1) -> bytes:
        if size == 0:
            return b""  # ijson asks so what kind of file this is
        while True:
            chunk = self._file.read(_LONGEST // 8)
            text = self._rest + chunk
            cut = _outside_of_strings(text) if chunk else len(text)
            self._rest = text[cut:]
            if cut or not chunk:
                return _NO_NUMBER.sub(_quoted, text[:cut])
            if len(self._rest) > _LONGEST:
                raise ValueError(f"a text in it has more than {_LONGEST} bytes")


def _quoted(found: re.Match[bytes]) -> bytes:
    return found[0] if found[0].startswith(b'"') else b'"%s"' % found[0]


def _outside_of_strings(text: bytes) -> int:
    """A place at which the text, which begins outside of a string, can be cut in two."""
    behind = 0
    for string in _STRING.finditer(text):
        behind = string.end()
    begun = text.find(b'"', behind)
    return begun if begun >= 0 else max(behind, text.rfind(b",", behind) + 1)


def _words(error: Exception) -> str:
    return storable(" ".join(str(error).split())[:200]) or type(error).__name__
