"""Documents and points as a model writes them in tags: `qwenvl html`, `qwenvl markdown`, `<point x="" y="">`.

It knows no JSON. It is no browser: it takes the tags as they come, in one pass, and never raises.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from vlyard.formats.answer_parts import (
    AnswerElement,
    AnswerPart,
    AnswerPoint,
    Flag,
    Note,
    box_of,
    plain_attributes,
    point_of,
    storable,
)

_Read: TypeAlias = tuple[list[AnswerPart], list[Note]]

_LONGEST_TEXT = 20_000  # characters of one element
_BOX = "data-bbox"
_VOID = frozenset({"area", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"})
_INLINE = frozenset({"a", "b", "code", "em", "i", "mark", "s", "small", "span", "strong", "sub", "sup", "u"})

# No quantifier gives back what it took, and none runs past the next tag: reading takes time as the text is long.
_TAG = re.compile(r"<(?P<close>/?)(?P<tag>[a-zA-Z][\w:-]*+)(?P<rest>[^<>]*+)>|<!(?:[^<>]*+)>")
_ATTRIBUTE = re.compile(r"""(?<![\w:-])([\w:-]++)\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s"'<>]++))""")
_HALF_TAG = re.compile(r"<[^<>]*+\Z")
_NUMBER = re.compile(r"[-+]?\d++(?:\.\d++)?")
_COMMENT = re.compile(r"<!--\s*+(?P<tag>[A-Za-z]++)\s*+(?P<box>\([^()<>]*+\))\s*+-->")
_HALF_COMMENT = re.compile(r"<!--[^<>]*+\Z|<!?-?\Z")
_POINTS = re.compile(r"<(?P<tag>points?)\b(?P<rest>[^<>]*+)>(?P<text>[^<]*+)(?P<end></points?>)?", re.IGNORECASE)
_FENCE = re.compile(r"\A\s*+```[a-zA-Z0-9]*+|```\s*+\Z")


def read_document(text: str) -> _Read:
    """The parts of an answer in HTML or Markdown, or its points in tags; nothing where it is neither."""
    for sign, read in ((_BOX, _read_html), ("<!--", _read_markdown), ("<point", _read_points)):
        if sign in text.lower():
            parts, notes = read(_FENCE.sub("", text))
            if parts or Note.ENTRY_WITHOUT_BOX in notes:
                none = [] if parts else [Note.NOTHING_FOUND]
                return parts, [*([Note.FENCED] if _FENCE.search(text) else []), *notes, *none]
    return [], []


# --- HTML -----------------------------------------------------------------------------------------------------


@dataclass
class _Open:
    """A tag that has begun, and the text in it that is in no other tag with a box."""

    tag: str
    said: Mapping[str, str]
    words: list[str] = field(default_factory=list)
    closed: bool = False


class _Tags:
    """The tags that are open, and all with a box in their order."""

    def __init__(self) -> None:
        self.boxed: list[_Open] = []
        self._open: list[_Open] = []
        self._inside: list[_Open] = []  # of these, those with a box
        self._names: Counter[str] = Counter()

    def text(self, words: str) -> None:
        if self._inside:
            self._inside[-1].words.append(words)

    def open(self, tag: str, rest: str) -> None:
        self.text("" if tag in _INLINE else " ")
        one = _Open(tag, _attributes(rest))
        boxed = _BOX in one.said
        if boxed:
            self.boxed.append(one)
        if tag in _VOID or rest.endswith("/"):
            one.closed = True
            return
        self._open.append(one)
        self._names[tag] += 1
        if boxed:
            self._inside.append(one)

    def close(self, tag: str) -> None:
        while self._names[tag]:
            last = self._open.pop()
            self._names[last.tag] -= 1
            last.closed = True
            if self._inside and self._inside[-1] is last:
                self._inside.pop()
            if last.tag == tag:
                break
        self.text("" if tag in _INLINE else " ")


def _read_html(text: str) -> _Read:
    tags, place = _Tags(), 0
    for match in _TAG.finditer(text):
        tags.text(text[place : match.start()])
        place = match.end()
        if match["tag"]:
            (tags.close(match["tag"].lower()) if match["close"] else tags.open(match["tag"].lower(), match["rest"]))
    half = _HALF_TAG.search(text, place)
    tags.text(text[place : half.start() if half else len(text)])
    parts = [part for each in tags.boxed for part in _element(each)]
    notes = [Note.ENTRY_WITHOUT_BOX] if len(parts) < len(tags.boxed) else []
    if half or any(not each.closed for each in tags.boxed):
        notes.append(Note.TRUNCATED)
    return parts, notes


def _attributes(rest: str) -> dict[str, str]:
    """Names in small letters; of a name that comes again the first counts, as in a browser."""
    said: dict[str, str] = {}
    for match in _ATTRIBUTE.finditer(rest):
        said.setdefault(match[1].lower(), html.unescape(match[2] or match[3] or match[4] or ""))
    return said


def _element(one: _Open) -> Iterator[AnswerPart]:
    words = " ".join(html.unescape("".join(one.words)).split())
    unfinished = () if one.closed else (Flag.TRUNCATED,)
    rest = {name: value for name, value in one.said.items() if name != _BOX}
    yield from _boxed(one.tag, one.said[_BOX], words, unfinished, rest)


def _boxed(tag: str, box: str, words: str, flags: tuple[Flag, ...], rest: Mapping[str, str]) -> Iterator[AnswerPart]:
    numbers = _NUMBER.findall(box)
    if len(numbers) != 4:
        return
    attributes, shortened = plain_attributes(rest)
    if len(words) > _LONGEST_TEXT:
        shortened = (Flag.SHORTENED,)
    for found, more in box_of(numbers):
        yield AnswerElement(
            storable(tag), storable(words[:_LONGEST_TEXT]), found, (*flags, *more, *shortened), attributes
        )


# --- Markdown -------------------------------------------------------------------------------------------------


def _read_markdown(text: str) -> _Read:
    """Each comment with a box, and what follows it up to the next; where the last one's text ends, nothing says."""
    parts: list[AnswerPart] = []
    notes = []
    half = _HALF_COMMENT.search(text, max(text.rfind("<"), 0))
    comments = list(_COMMENT.finditer(text))
    ends = [match.start() for match in comments[1:]] + [half.start() if half else len(text)]
    for match, end in zip(comments, ends, strict=False):
        words = text[match.end() : end].strip()
        unfinished = (Flag.TRUNCATED,) if words.count("\\begin{") > words.count("\\end{") else ()
        made = list(_boxed(match["tag"].lower(), match["box"], words, unfinished, {}))
        parts += made
        notes += [Note.TRUNCATED] if unfinished else []
        notes += [] if made else [Note.ENTRY_WITHOUT_BOX]
    return parts, [*notes, Note.TRUNCATED] if half else notes


# --- points ---------------------------------------------------------------------------------------------------


def _read_points(text: str) -> _Read:
    parts: list[AnswerPart] = []
    notes = []
    for match in _POINTS.finditer(text):
        alone = match["rest"].endswith("/")
        closed = alone or bool(match["end"])
        made = list(_pointed("" if alone else match["text"], _attributes(match["rest"]), closed))
        parts += made
        notes += [] if made else [Note.ENTRY_WITHOUT_BOX]
        notes += [] if closed else [Note.TRUNCATED]
    around = _POINTS.sub("", text)
    half = _HALF_TAG.search(around, max(around.rfind("<"), 0))
    if half:
        notes.append(Note.TRUNCATED)
    if (around[: half.start()] if half else around).strip(" \t\r\n,;"):
        notes.append(Note.PROSE)
    return parts, notes


def _pointed(words: str, said: Mapping[str, str], closed: bool) -> Iterator[AnswerPart]:
    """One point of `x` and `y`, several of `x1`, `y1`, `x2`, `y2` …"""
    inside, alt = " ".join(html.unescape(words).split()), said.get("alt", "")
    label = inside or alt
    own = () if inside else (Flag.OTHER_LABEL_KEY,) if alt else (Flag.NO_LABEL,)
    flags = own if closed else (*own, Flag.TRUNCATED)
    numbered = [name[1:] for name in said if name[0] == "x" and f"y{name[1:]}" in said]
    places = {f"{axis}{each}" for each in numbered for axis in "xy"}
    attributes, shortened = plain_attributes(
        {name: value for name, value in said.items() if name not in places and (name, value) != ("alt", label)}
    )
    for each in numbered:
        for (x, y), more in point_of((said[f"x{each}"], said[f"y{each}"])):
            yield AnswerPoint(storable(label), x, y, (*flags, *more, *shortened), attributes)
