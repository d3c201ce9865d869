"""Every error as an RFC 9457 problem document. The HTTP status of an error is decided here and nowhere else."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

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
    complaints = [{"pointer": _pointer(row["loc"]), "detail": row["msg"], "fix": _fix(row)} for row in error.errors()]
    return _problem(request, 422, errors.InvalidInput.code, "the request is not valid", complaints)


def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: errors.NotFound.code, 405: "method_not_allowed"}.get(error.status_code, "http_error")
    return _problem(request, error.status_code, code, str(error.detail), [])


def _on_surprise(request: Request, error: Exception) -> JSONResponse:
    log.error("unforeseen error", path=request.url.path, exc_info=error)
    return _problem(request, 500, VLyardError.code, "something went wrong inside VLyard; its log says what", [])


def _problem(
    request: Request, status: int, code: str, detail: str, complaints: Sequence[Mapping[str, str]]
) -> JSONResponse:
    body: dict[str, Any] = {
        "type": f"urn:vlyard:problem:{code}",
        "title": code.replace("_", " "),
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        "code": code,
        "request_id": getattr(request.state, "request_id", ""),
        "errors": list(complaints),
    }
    headers = {}
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status, headers, media_type=MEDIA_TYPE)


def _pointer(location: Sequence[str | int]) -> str:
    """The JSON pointer of a validation error. Pydantic puts the union's tag into the path; no body has it there."""
    parts = [str(part) for part in location]
    if parts[:1] == ["body"]:
        parts = parts[1:]
        if parts[:1] == ["spec"] and len(parts) > 2:
            parts = [parts[0], *parts[2:]]
        elif parts[:1] == ["spec"] and len(parts) == 2 and location[-1] not in {"kind"}:
            parts = parts[:1] if parts[1] in _kinds() else parts
    return "/" + "/".join(parts)


def _kinds() -> frozenset[str]:
    from vlyard.jobs.kinds import KINDS

    return frozenset(KINDS)


def _fix(row: Mapping[str, Any]) -> str:
    if row["type"] == "extra_forbidden":
        return "remove it, or correct its name"
    if row["type"] == "missing":
        return "add it"
    return ""
