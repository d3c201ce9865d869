"""Every error as an RFC 9457 problem document. The HTTP status of an error is decided here and nowhere else."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from api.request_id import HEADER
from vlyard import errors
from vlyard.errors import VLyardError

log = structlog.get_logger()

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

RETRY_AFTER_SECONDS = 1

# What is said of a validation error, and what to do about it, where pydantic's own words do not help.
_TEXTS: Mapping[str, tuple[str, str]] = {
    "extra_forbidden": ("there is no such field", "remove it, or correct its name"),
    "missing": ("{msg}", "add it"),
    "union_tag_invalid": ("there is no kind {tag!r}", "use one of {expected_tags}"),
    "union_tag_not_found": ("it is missing", "add it: it says what kind of job this is"),
    "json_invalid": ("the body is not JSON: {error}", "send a JSON object"),
    "model_attributes_type": ("{msg}", "send a JSON object, with Content-Type: application/json"),
}


def install(app: FastAPI) -> None:
    """Make every error of the application leave as a problem document."""
    app.add_exception_handler(VLyardError, _on_vlyard_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_surprise)


def status_of(error: VLyardError) -> int:
    """The HTTP status of an error."""
    return next(STATUS[ancestor] for ancestor in type(error).__mro__ if ancestor in STATUS)


def _on_vlyard_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, VLyardError)
    complaints = [{"pointer": c.where, "detail": c.what, "fix": c.fix} for c in error.complaints]
    return _problem(request, status_of(error), error.code, error.message, complaints)


def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    complaints = [_complaint(row) for row in error.errors()]
    return _problem(request, 422, errors.InvalidInput.code, "the request is not valid", complaints)


def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: errors.NotFound.code, 405: "method_not_allowed"}.get(error.status_code, "http_error")
    reply = _problem(request, error.status_code, code, str(error.detail), [])
    reply.headers.update(error.headers or {})  # such as Allow
    return reply


def _on_surprise(request: Request, error: Exception) -> JSONResponse:
    log.error("unforeseen error", path=request.url.path, exc_info=error)
    return _problem(request, 500, VLyardError.code, "something went wrong inside VLyard; its log says what", [])


def _problem(
    request: Request, status: int, code: str, detail: str, complaints: Sequence[Mapping[str, str]]
) -> JSONResponse:
    request_id = getattr(request.state, "request_id", "")
    body: dict[str, Any] = {
        "type": f"urn:vlyard:problem:{code}",
        "title": code.replace("_", " "),
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        "code": code,
        "request_id": request_id,
        "errors": list(complaints),
    }
    headers = {HEADER: request_id}  # here too, because the answer to a surprise does not pass the middleware
    if status == 503 or code == errors.InFlight.code:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status, headers, media_type=MEDIA_TYPE)


def _complaint(row: Mapping[str, Any]) -> dict[str, str]:
    detail, fix = _TEXTS.get(row["type"], ("{msg}", ""))
    facts = {"msg": row["msg"], **row.get("ctx", {})}
    return {"pointer": _pointer(row), "detail": detail.format_map(facts), "fix": fix.format_map(facts)}


def _pointer(row: Mapping[str, Any]) -> str:
    """The JSON pointer of a validation error: into the body, or `/query/limit`, `/header/...` and the like."""
    part, *path = row["loc"]
    if part != "body":
        path = [part, *path]
    elif row["type"] == "json_invalid":  # FastAPI puts the character's position there
        path = []
    elif row["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        path.append("kind")
    elif path[:1] == ["spec"]:
        del path[1:2]  # pydantic puts the union's tag into the path; no body has it there
    elif path[:1] == ["jobs"] and path[2:3] == ["spec"]:
        del path[3:4]
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
