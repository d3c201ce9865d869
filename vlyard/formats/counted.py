"""The number in an answer that is one: `3`, `{"count": 3}`, "There are three cats." It knows no boxes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlyard.formats.answer_entries import places

_LONGEST = 300  # characters; what is longer says more than a number
_KEYS = ("count", "number", "total", "数量", "总数")
_WORDS: Mapping[str, int] = {
    word: number
    for words in (
        "zero one two three four five six seven eight nine ten eleven twelve",
        "no",
        "零 一 二 三 四 五 六 七 八 九 十",
        "〇 一 两",
    )
    for number, word in enumerate(words.split())
}
_ENGLISH = "|".join(word for word in _WORDS if word.isascii())
_NUMBER = re.compile(rf"\d+(?:[.,:/]\d+)*|\b(?:{_ENGLISH})\b|[零〇一二两三四五六七八九十]+", re.IGNORECASE)
_MEANS_COUNT = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"(?:\\boxed)?\W*#\W*",
        r"\W*#\s+[\w-]+(?: [\w-]+){0,2}\W*",
        r"(?:there (?:is|are)|i (?:can )?(?:see|count|find))\b[^#]*#.*",
        r"the (?:image|picture|photo) (?:shows|contains|has)\b[^#]*#.*",
        r"[^#]*\b(?:answer|count|number|total)\b[^#]*#\W*",
        r"[^#]*(?:有|共|是|为)\s*#.*",
        r"\W*#\s*[个只辆人名张把条头件]\w{0,20}\W*",
    )
)


def counted(text: str, values: Sequence[Any]) -> int | None:
    """The number, from the answer's JSON or else from its words; None where it could mean anything else.

    Never raises. `values` are the lists and objects in the text.
    """
    values = [value for value in values if _is_data(value)]
    if not values:
        return _of_words(text)
    value = values[0] if len(values) == 1 else None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict) or places(value):
        return None
    found = [_whole(value[key]) for key in _KEYS if key in value]
    return found[0] if len(found) == 1 else None


def _is_data(value: Any) -> bool:
    """Not the brackets of the prose around."""
    return bool(value) if isinstance(value, dict) else any(isinstance(each, dict) for each in value)


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}\s*", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9 else None


def _of_words(text: str) -> int | None:
    text = text.replace("一共", "共").strip()
    if len(text) > _LONGEST:
        return None
    numbers = _NUMBER.findall(text)
    if len(numbers) != 1 or "#" in text:
        return None
    said = _NUMBER.sub("#", text)
    if not any(pattern.fullmatch(said) for pattern in _MEANS_COUNT):
        return None
    word = numbers[0].lower()
    return int(word) if re.fullmatch(r"\d{1,9}", word) else _WORDS.get(word)
