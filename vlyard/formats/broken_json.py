"""Reading the JSON that is somewhere in a text, as far as it goes. It knows nothing of boxes.

A model's answer may be cut off in the middle, stand in prose or have a comma too many. What a strict reader gives up,
this one gives back in part. It never raises, and takes time in proportion to the text's length.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

_DEEPEST = 32  # levels of nesting; what lies deeper is taken for rubbish
_LONGEST_NUMBER = 18  # digits of a whole one

_SPACE = re.compile(r"[\s,]*")  # a comma too many does no harm
_START = re.compile(r"[\[{]")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_WORD = re.compile(r"true|false|null|True|False|None|NaN|-?Infinity")
_STRING = {quote: re.compile(rf"{quote}((?:[^{quote}\\]|\\.)*)({quote}?)", re.DOTALL) for quote in "\"'"}
_HALF_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?$")
_WORDS = {"true": True, "True": True, "false": False, "False": False}  # all others are None


class CutList(list[Any]):
    """A list whose closing bracket is not where it should be."""


class CutObject(dict[str, Any]):
    """An object whose closing brace is not where it should be."""


class _Rubbish(Exception):  # it never leaves this file
    """Here is no value."""


def read_values(text: str) -> Iterator[tuple[Any, int, int]]:
    """Every outermost list and object in the text, with the offsets where it begins and where it ends.

    A container that is cut off or interrupted by rubbish is a `CutList` or `CutObject` with what came before; reading
    goes on behind it.
    """
    place = 0
    while start := _START.search(text, place):
        value, place = _read(text, start.start(), 0)
        yield value, start.start(), place


def _read(text: str, place: int, depth: int) -> tuple[Any, int]:
    """The value that begins at `place`, and the offset behind it."""
    first = text[place : place + 1]
    if first in {"[", "{"} and first:
        if depth == _DEEPEST:
            raise _Rubbish
        return (_read_list if first == "[" else _read_object)(text, place + 1, depth + 1)
    if first in _STRING:
        string, place, _ = _read_string(text, place)
        return string, place
    if number := _NUMBER.match(text, place):
        return _number(number[0]), number.end()
    if word := _WORD.match(text, place):
        return _WORDS.get(word[0]), word.end()
    raise _Rubbish


def _number(digits: str) -> int | float:
    """As a strict reader has it, but for whole numbers of more digits than anyone means."""
    return int(digits) if len(digits) <= _LONGEST_NUMBER and digits.lstrip("+-").isdecimal() else float(digits)


def _read_list(text: str, place: int, depth: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    while True:
        place = _skip(text, place)
        if text.startswith("]", place):
            return items, place + 1
        try:
            item, place = _read(text, place, depth)
        except _Rubbish:
            return CutList(items), place
        items.append(item)


def _read_object(text: str, place: int, depth: int) -> tuple[dict[str, Any], int]:
    members: dict[str, Any] = {}
    while True:
        place = _skip(text, place)
        if text.startswith("}", place):
            return members, place + 1
        if text[place : place + 1] not in _STRING:
            return CutObject(members), place
        name, place, closed = _read_string(text, place)
        place = _skip(text, place)
        if not closed or not text.startswith(":", place):
            return CutObject(members), place
        try:
            members[name], place = _read(text, _skip(text, place + 1), depth)
        except _Rubbish:
            return CutObject(members), place


def _read_string(text: str, place: int) -> tuple[str, int, bool]:
    """A string with its escapes resolved, the offset behind it, and whether its closing quote is there."""
    quote = text[place]
    match = _STRING[quote].match(text, place)
    if match is None:  # the pattern matches any text that begins with the quote
        raise _Rubbish
    body, closed = match[1], bool(match[2])
    end = match.end()
    if not closed:  # a backslash is the last character, or an escape is incomplete
        body, end = _HALF_ESCAPE.sub("", body), len(text)
    return _unescape(body, quote), end, closed


def _unescape(body: str, quote: str) -> str:
    if "\\" not in body:
        return body
    if quote == "'":
        body = body.replace("\\'", "'").replace('"', '\\"')
    try:
        return str(json.loads(f'"{body}"', strict=False))
    except ValueError:
        return body


def _skip(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match else place
