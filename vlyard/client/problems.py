"""From what an HTTP server answers back to the error tree. Knows problem documents, and nothing of jobs or tries."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import httpx
from pydantic import BaseModel, ValidationError

from vlyard.errors import Complaint, InvalidInput, Unavailable, UserError, VLyardError
from vlyard.problems import complaints_of

GATEWAY_TROUBLE = frozenset({502, 503, 504})


def _tree(top: type[VLyardError]) -> Iterator[type[VLyardError]]:
    yield top
    for below in top.__subclasses__():
        yield from _tree(below)


BY_CODE: Mapping[str, type[VLyardError]] = {kind.code: kind for kind in _tree(VLyardError)}


class _Entry(BaseModel):
    pointer: str = ""
    detail: str = ""
    fix: str = ""


class Problem(BaseModel):
    """A problem document as RFC 9457 defines it, with the members that VLyard adds."""

    title: str = ""
    detail: str = ""
    code: str = ""
    request_id: str = ""
    errors: tuple[_Entry, ...] = ()


def error_of(reply: httpx.Response) -> VLyardError:
    """The error that a reply with a status of 300 and more stands for; the reply's body must have been read.

    The problem document's `code` chooses the class. A code that this version does not know, or a reply that is no
    problem document, becomes `Unavailable` (502, 503, 504), `UserError` (another 4xx) or `VLyardError`. The
    request's id is attached as a note where the server is at fault.
    """
    problem = _problem(reply)
    message = problem.detail or problem.title or _plainly(reply)
    complaints = [Complaint(entry.pointer, entry.detail, entry.fix) for entry in problem.errors]
    error = BY_CODE.get(problem.code, _by_status(reply.status_code))(message, complaints)
    if problem.request_id and reply.is_server_error:
        error.add_note(f"request {problem.request_id}")
    return error


def _problem(reply: httpx.Response) -> Problem:
    if "json" not in reply.headers.get("Content-Type", ""):
        return Problem()
    try:
        return Problem.model_validate_json(reply.content)
    except ValidationError:
        return Problem()


def _by_status(status: int) -> type[VLyardError]:
    if status in GATEWAY_TROUBLE:
        return Unavailable
    return UserError if 400 <= status < 500 else VLyardError


def _plainly(reply: httpx.Response) -> str:
    said = f"{reply.request.method} {shown(reply.url)} answered {reply.status_code} {reply.reason_phrase}".rstrip()
    elsewhere = reply.headers.get("Location", "")
    return f"{said}, to {elsewhere}" if elsewhere else said


def shown(url: httpx.URL) -> str:
    """A URL as people may see it: without the query, where presigned links carry their signature."""
    return str(url.copy_with(query=None))


def invalid(error: ValidationError, what: str, fixes: Mapping[str | type, str] | None = None) -> InvalidInput:
    """What pydantic says about a value, in the words in which the API would: a complaint a fault, by JSON pointer.

    `fixes` say what else to do than the API would, by the type of the fault or the class of our error.
    """
    faults = ({**fault, "loc": ("body", *fault["loc"])} for fault in error.errors(include_url=False))
    complaints = [replace(each, where=each.where or "/") for each in complaints_of(faults, fixes)]
    return InvalidInput(f"{what} is not valid", complaints)
