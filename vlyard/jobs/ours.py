"""Fields of a specification that VLyard sets by itself, such as when it splits a job up: no client may, and no job that
repeats another one takes them over. Pure.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from vlyard.errors import Complaint
from vlyard.jobs.spec import Spec

_SET_BY_US = "Set by VLyard"  # begins the description of such a field


@cache
def fields_set_by_us(spec: type[Spec]) -> tuple[str, ...]:
    """The fields that VLyard sets, and no user does."""
    fields = spec.model_fields.items()
    return tuple(name for name, field in fields if (field.description or "").startswith(_SET_BY_US))


def as_asked(kind: type[Spec], spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a user asked for, of a specification as its JSON has it: without what VLyard has set since."""
    ours = fields_set_by_us(kind)
    return {name: value for name, value in spec.items() if name not in ours}


def presumed(spec: Spec, where: str) -> Iterator[Complaint]:
    """A complaint about each field of VLyard's that a client has set; `where` is the specification's place."""
    for name in fields_set_by_us(type(spec)):
        if getattr(spec, name) != type(spec).model_fields[name].get_default(call_default_factory=True):
            yield Complaint(f"{where}/spec/{name}", "VLyard sets this field by itself", "leave it out")
