"""Problem documents (RFC 9457) as the API answers with them. The HTTP status of an error is decided here alone."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlyard import errors
from vlyard.errors import Complaint, VLyardError
from vlyard.jobs.spec import NoArtefact

MEDIA_TYPE = "application/problem+json"

# The nearest class in an error's ancestry decides.
STATUS: Mapping[type[VLyardError], int] = {
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.IdempotencyMismatch: 422,
    errors.InvalidInput: 422,
    errors.UserError: 400,
    errors.Unavailable: 503,
    VLyardError: 500,
}

# What is said of a validation error, of pydantic's type or our class, and what to do about it, where pydantic's own
# words do not help.
_TEXTS: Mapping[str | type, tuple[str, str]] = {
    "extra_forbidden": ("there is no such field", "remove it, or correct its name"),
    "missing": ("{msg}", "add it"),
    "union_tag_invalid": ("there is no kind {tag!r}", "use one of {expected_tags}"),
    "union_tag_not_found": ("it is missing", "add it: it says what this is"),
    NoArtefact: ("{msg}", "upload the file, and give the id that it gets"),
    "json_invalid": ("the body is not JSON: {error}", "send a JSON object"),
    "model_attributes_type": ("{msg}", "send a JSON object, with Content-Type: application/json"),
}


def status_of(error: VLyardError) -> int:
    """The HTTP status of an error."""
    return next(STATUS[ancestor] for ancestor in type(error).__mro__ if ancestor in STATUS)


def document(
    status: int, code: str, detail: str, complaints: Iterable[Complaint], *, path: str, request_id: str
) -> dict[str, Any]:
    """A problem document, as JSON has it."""
    return {
        "type": f"urn:vlyard:problem:{code}",
        "title": code.replace("_", " "),
        "status": status,
        "detail": detail,
        "instance": path,
        "code": code,
        "request_id": request_id,
        "errors": [{"pointer": each.where, "detail": each.what, "fix": each.fix} for each in complaints],
    }


def refusal(faults: Iterable[Mapping[str, Any]]) -> errors.InvalidInput:
    """What to say of a request that pydantic refuses; `faults` are its errors, located below `body`, `query` or so."""
    return errors.InvalidInput("the request is not valid", complaints_of(faults))


def complaints_of(
    faults: Iterable[Mapping[str, Any]], fixes: Mapping[str | type, str] | None = None
) -> list[Complaint]:
    """What to say of pydantic's errors, located below `body`, `query` or so, one by one.

    `fixes` go before what is said here to do about an error of that type. A list of which
    nothing is left, because all that is in it is faulty, is no fault of its own.
    """
    every = list(faults)
    within = {fault["loc"][:length] for fault in every for length in range(len(fault["loc"]))}
    return [
        _complaint(fault, fixes or {}) for fault in every if fault["type"] != "too_short" or fault["loc"] not in within
    ]


def _complaint(fault: Mapping[str, Any], fixes: Mapping[str | type, str]) -> Complaint:
    facts = {"msg": fault["msg"].removeprefix("Value error, "), **fault.get("ctx", {})}
    ours = type(facts.get("error"))
    what = ours if ours in _TEXTS else fault["type"]
    detail, fix = _TEXTS.get(what, ("{msg}", ""))
    return Complaint(_pointer(fault), detail.format_map(facts), fixes.get(what) or fix.format_map(facts))


def _pointer(fault: Mapping[str, Any]) -> str:
    """The JSON pointer of a validation error: into the body, or `/query/limit`, `/header/...` and the like."""
    part, *path = fault["loc"]
    if part != "body":
        path = [part, *path]
    elif fault["type"] == "json_invalid":  # FastAPI puts the character's position there
        path = []
    elif fault["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        path = [*without_tags(path), "kind" if path[-1] == "spec" else "type"]
    else:
        path = without_tags(path)
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def without_tags(path: Sequence[str | int]) -> list[str | int]:
    """Pydantic puts the tags of unions into the path, a specification's kind and a part's type; no body has them."""
    steps: list[str | int] = []
    at = 0
    while at < len(path):
        steps.append(path[at])
        is_spec = steps == ["spec"] or (len(steps) == 3 and steps[0] == "jobs" and steps[2] == "spec")
        is_part = steps[-4:-3] == ["messages"] and steps[-2:-1] == ["content"]
        at += 2 if is_spec or is_part else 1
    return steps
