"""Every error leaves as an RFC 9457 problem document, which `vlyard.problems` writes."""

from collections.abc import Sequence

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from api.request_id import HEADER
from vlyard import errors
from vlyard.errors import Complaint, VLyardError
from vlyard.problems import MEDIA_TYPE, document, refusal, status_of

log = structlog.get_logger()

RETRY_AFTER_SECONDS = 1


def install(app: FastAPI) -> None:
    """Make every error of the application leave as a problem document."""
    app.add_exception_handler(VLyardError, _on_vlyard_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_surprise)


def _on_vlyard_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, VLyardError)
    return _problem(request, status_of(error), error.code, error.message, error.complaints)


def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _on_vlyard_error(request, refusal(error.errors()))


def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: errors.NotFound.code, 405: "method_not_allowed"}.get(error.status_code, "http_error")
    reply = _problem(request, error.status_code, code, str(error.detail), [])
    reply.headers.update(error.headers or {})  # such as Allow
    return reply


def _on_surprise(request: Request, error: Exception) -> JSONResponse:
    log.error("unforeseen error", path=request.url.path, exc_info=error)
    return _problem(request, 500, VLyardError.code, "something went wrong inside VLyard; its log says what", [])


def _problem(request: Request, status: int, code: str, detail: str, complaints: Sequence[Complaint]) -> JSONResponse:
    request_id = getattr(request.state, "request_id", "")
    body = document(status, code, detail, complaints, path=request.url.path, request_id=request_id)
    headers = {HEADER: request_id}  # here too, because the answer to a surprise does not pass the middleware
    if status == 503 or code == errors.InFlight.code:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status, headers, media_type=MEDIA_TYPE)
