"""Single values of a label file: numbers, attributes, and how a report shows them. It knows no format."""

import re
from collections.abc import Container, Mapping, Sequence
from math import isfinite

from vlyard.formats import faults
from vlyard.formats.faults import Finding
from vlyard.formats.reading import Refused
from vlyard.formats.record import Value
from vlyard.formats.tree import storable

_PLAIN = frozenset({float, int})
_MOST = 1e15  # integers beyond are taken as doubles, since they may be too long to calculate with
_SHOWN = 60  # characters of a value that a report repeats
_INTEGER = re.compile(r"[+-]?[0-9]{1,15}", re.ASCII)


def number(value: object) -> float | None:
    """The number, also where it is written as text, and also where it is not finite; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:
        return float("inf")


def numbers(field: str, value: object, count: int | None = None) -> tuple[list[float], tuple[Finding, ...]]:
    """All numbers of a list, and what was mended in it. Raises `Refused`; `count` is how many there must be."""
    if not isinstance(value, Sequence) or isinstance(value, str) or count not in (None, len(value)):
        due = "a list of numbers" if count is None else f"a list of {count} numbers"
        raise Refused(faults.MALFORMED.found(field=field, value=shown(value), due=due))
    if set(map(type, value)) <= _PLAIN and all(-_MOST < each < _MOST for each in value):
        return list(value), ()
    found = []
    for each in value:
        one = number(each)
        if one is None:
            raise Refused(faults.NOT_A_NUMBER.found(field=field, value=shown(each)))
        if not isfinite(one):
            raise Refused(faults.NOT_FINITE.found(field=field, value=shown(each)))
        found.append(one)
    as_text = any(isinstance(each, str) for each in value)
    return found, (faults.NUMBER_AS_TEXT.found(field=field),) if as_text else ()


def size(width: object, height: object) -> tuple[float, float] | None:
    """What a label says of its picture's size; None where it says nothing that can be."""
    across, down = number(width), number(height)
    if across is None or down is None or not (isfinite(across) and isfinite(down)) or min(across, down) <= 0:
        return None
    return across, down


def attributes(said: object, without: Container[str] = ()) -> dict[str, Value]:
    """The entries of a table that are text, a number, true or false."""
    if not isinstance(said, Mapping):
        return {}
    return {
        storable(str(name)): storable(value) if isinstance(value, str) else value
        for name, value in said.items()
        if name not in without and isinstance(value, str | int | float) and value != "" and _is_storable(value)
    }


def value_of(text: str) -> Value:
    """What an attribute that is written as text means: `1` is a number, `true` is true."""
    text = text.strip()
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    written = number(text)
    return written if written is not None and isfinite(written) else storable(text)


def shown(value: object) -> str:
    """The value as a report repeats it: short, and nothing that no JSON can hold."""
    text = repr(value) if isinstance(value, int | float | str | None) else _outline(value)
    return storable(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…")


def _outline(value: object) -> str:
    """A container without what is deep inside it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(each) if not _holds(each) else '…' for each in value[:8])}]"
    return "a table" if isinstance(value, Mapping) else type(value).__name__


def _holds(value: object) -> bool:
    return isinstance(value, list | tuple | Mapping)


def _is_storable(value: str | float) -> bool:
    return isinstance(value, str) or (abs(value) < 2**63 and isfinite(value))
