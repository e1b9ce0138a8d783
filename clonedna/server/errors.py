"""An error as a response: OpenAI's shape under ``/v1``, ``{"error": {"code", "message", "hint"}}`` elsewhere.

The status is the error's own (``http_status``); what a client sends wrong is 400, never FastAPI's 422. An error of ours that nobody
foresaw is answered with 500 and no details. The request's id stands in the bodies of our own shape.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from clonedna.app.logs import REQUEST
from clonedna.core.errors import (
    DnaError,
    InputError,
    Internal,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    TooSlow,
)

log = logging.getLogger(__name__)

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class OpenAIErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None
    hint: str


class OpenAIError(BaseModel):
    """What every route under ``/v1`` answers when it fails."""

    error: OpenAIErrorDetail


class ErrorDetail(BaseModel):
    """``request_id`` is the answer's ``X-Request-ID``; the server's log has it. Facts that belong to the error stand beside these."""

    code: str
    message: str
    hint: str
    request_id: str | None = None


class Error(BaseModel):
    """What every other route answers when it fails."""

    error: ErrorDetail


def too_large() -> TooLarge:
    return TooLarge("the request is larger than this server takes", "send less, or raise max_body_bytes")


def documented(model: type[BaseModel], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route for its OpenAPI description."""
    return {status: {"model": model} for status in statuses}


V1 = documented(OpenAIError, 400, 401, 403, 404, 405, 408, 413, 422, 429, 500, 503)
OURS = documented(Error, 400, 401, 403, 404, 405, 408, 413, 422, 429, 500, 503)


def body(path: str, error: DnaError) -> dict[str, Any]:
    """The error's JSON for a route. Notes its code for the log and the figures."""
    asked = REQUEST.get()
    if asked is not None:
        asked.code = error.code
    if not (path == "/v1" or path.startswith("/v1/")):
        told: dict[str, Any] = error.as_json()
        if asked is not None:
            told["error"]["request_id"] = asked.id
        return told
    hint = f" ({error.hint})" if error.hint else ""
    param = error.facts.get("param")
    return {
        "error": {
            "message": f"{error.message}{hint}",
            "type": KINDS.get(
                error.http_status, "invalid_request_error" if error.http_status < 500 else "server_error"
            ),
            "param": param if isinstance(param, str) else None,
            "code": error.code,
            "hint": error.hint,
        }
    }


def response(path: str, error: DnaError) -> JSONResponse:
    headers: dict[str, str] = {}
    if error.http_status == 429:
        after = error.facts.get("retry_after")
        headers["Retry-After"] = str(max(1, round(after))) if isinstance(after, (int, float)) else "1"
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body(path, error), status_code=error.http_status, headers=headers)


def leaf(error: BaseException) -> BaseException:
    """The first single error inside groups, as task groups make them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def install(app: FastAPI) -> None:
    """Let every error of ``app`` end here."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, DnaError)
        if error.http_status >= 500:  # its class and where it was raised; its words may quote what was asked
            log.warning("failed", exc_info=error, extra={"event": "failed", "fields": {"code": error.code}})
        return response(request.url.path, error)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return response(request.url.path, _invalid(error))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        made = response(request.url.path, _http(request, error))
        made.headers.update(error.headers or {})
        return made

    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        # starlette raises the error again: the outermost layer writes down where it happened (telling.py).
        return response(
            request.url.path, Internal("the server failed at this request", "its log says why; please report it")
        )

    app.add_exception_handler(DnaError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unforeseen)


def _invalid(error: RequestValidationError) -> DnaError:
    """The first thing that is wrong, by its place; never the value itself, which may be long or private."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    if first["type"].startswith("union_tag"):  # which of several bodies it is
        field = str(first["ctx"]["discriminator"]).strip("'")
        known = first["ctx"].get("expected_tags", "one of those in /openapi.json")
        return InputError(f"{field}: no such {field} of a body", f"give one of: {known}", param=field)
    if first["type"] == "json_invalid" or first["loc"] == ("body",):
        return InputError("the body is no JSON object", "send one, with content-type application/json", param="body")
    return InputError(f"{place}: {first['msg']}", "correct this field", param=place)


def _http(request: Request, error: HTTPException) -> DnaError:
    path = request.url.path
    match error.status_code:
        case 404:
            return NotFound(f"no route {path[:200]}", "see /openapi.json")
        case 405:
            return MethodNotAllowed(f"{request.method} is not for {path[:200]}", "see /openapi.json")
        case 408:
            return TooSlow("the body did not come in time", "send it at once")
        case 413:
            return too_large()
        case status if status < 500:
            return InputError("the request cannot be read", "send a JSON object with content-type application/json")
        case _:
            return Internal("the server failed at this request", "its log says why; please report it")
