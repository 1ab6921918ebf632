"""OpenAI's error object, and the one table that turns a `ServiceError` into HTTP."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from http import HTTPStatus
from http.client import responses
from typing import Any

from pydantic import with_config
from typing_extensions import TypedDict

from services import errors

_MESSAGE_CHARACTERS = 2000
_PARAM_CHARACTERS = 128

INTERNAL_MESSAGE = "The server had an error while processing your request."


@with_config(extra="forbid")
class Fault(TypedDict):
    """The inner part of OpenAI's error object; all four keys are there."""

    message: str
    type: str
    param: str | None
    code: str | None


@with_config(extra="forbid")
class Error(TypedDict):
    """OpenAI's error object."""

    error: Fault


@dataclass(frozen=True)
class ErrorKind:
    """How one class of error looks on the wire."""

    status: int
    type: str
    code: str | None = None


ERROR_TABLE: dict[type[errors.ServiceError], ErrorKind] = {
    errors.InvalidRequestError: ErrorKind(400, "invalid_request_error"),
    errors.AuthenticationError: ErrorKind(401, "invalid_request_error", "invalid_api_key"),
    errors.PermissionDeniedError: ErrorKind(403, "invalid_request_error", "permission_denied"),
    errors.NotFoundError: ErrorKind(404, "invalid_request_error", "not_found"),
    errors.MethodNotAllowedError: ErrorKind(405, "invalid_request_error", "method_not_allowed"),
    errors.RequestTimeoutError: ErrorKind(408, "invalid_request_error", "request_timeout"),
    errors.ConflictError: ErrorKind(409, "invalid_request_error", "conflict"),
    errors.TooLargeError: ErrorKind(413, "invalid_request_error", "request_too_large"),
    errors.UnsupportedMediaError: ErrorKind(
        415, "invalid_request_error", "unsupported_content_type"
    ),
    errors.OverloadedError: ErrorKind(429, "requests", "rate_limit_exceeded"),
    errors.EngineError: ErrorKind(500, "server_error", "engine_error"),
    errors.BackendError: ErrorKind(502, "server_error", "bad_gateway"),
    errors.UnavailableError: ErrorKind(503, "server_error", "service_unavailable"),
    errors.DeadlineError: ErrorKind(504, "server_error", "deadline_exceeded"),
    errors.StorageError: ErrorKind(507, "server_error", "storage_failed"),
}
"""Status, OpenAI's `type` and the default `code` of each error (SDK: openai/_exceptions.py)."""

_TYPE_BY_STATUS = {kind.status: kind.type for kind in ERROR_TABLE.values()}
_CODE_BY_STATUS = {kind.status: kind.code for kind in ERROR_TABLE.values()}
_CLASS_BY_STATUS = {kind.status: error for error, kind in ERROR_TABLE.items()}


def kind_of(error: errors.ServiceError) -> ErrorKind:
    """Return the table's row for `error`, found through its class and bases."""
    for cls in type(error).__mro__:
        if cls in ERROR_TABLE:
            return ERROR_TABLE[cls]
    return ErrorKind(500, "server_error")


def fault_of(error: errors.ServiceError) -> Fault:
    """Return the inner part of OpenAI's error object for `error`."""
    kind = kind_of(error)
    return _fault(error.message, kind.type, error.param, error.code or kind.code)


def error_body(message: str, type_: str, param: str | None, code: str | None) -> bytes:
    """Return OpenAI's error object as JSON."""
    error: Error = {"error": _fault(message, type_, param, code)}
    return json.dumps(error, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _fault(message: str, type_: str, param: str | None, code: str | None) -> Fault:
    """Return the inner part; what a client sent is repeated only up to a length."""
    return {
        "message": _cut(message, _MESSAGE_CHARACTERS),
        "type": type_,
        "param": param and _cut(param, _PARAM_CHARACTERS),
        "code": code and _cut(code, _PARAM_CHARACTERS),
    }


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def error_response(
    error: errors.ServiceError,
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return status, headers and body for `error`.

    If the error says when to try again, both headers that OpenAI's SDKs obey are set:
    `retry-after` in whole seconds, and `retry-after-ms`.
    """
    kind = kind_of(error)
    body = error_body(error.message, kind.type, error.param, error.code or kind.code)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if error.retry_after_s is not None:
        headers += [
            (b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()),
            (b"retry-after-ms", str(max(1, math.ceil(error.retry_after_s * 1000))).encode()),
        ]
    if isinstance(error, errors.AuthenticationError):
        headers.append((b"www-authenticate", b"Bearer"))  # RFC 9110, section 11.6.1
    if isinstance(error, errors.RequestTimeoutError):
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    if isinstance(error, errors.MethodNotAllowedError) and error.methods:
        headers.append((b"allow", ", ".join(error.methods).encode()))
    return kind.status, headers, body


def normalise(status: int, body: bytes) -> bytes:
    """Return a foreign error body (vLLM's, Starlette's, BentoML's) as OpenAI's error object.

    vLLM sends a numeric `code`, FastAPI a `detail`, BentoML `{"error": "text"}`, Starlette plain
    text. From status 500 on, the message is kept only if the body already is an error object.
    """
    try:
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError):
        parsed = body.decode("utf-8", "replace").strip()
    fault: Any = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    proper = isinstance(fault, dict) and fault is not parsed
    fallback = INTERNAL_MESSAGE
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        proper, fallback = True, responses.get(status, f"HTTP status {status}")
    message, param, code = _words(fault) if proper else ("", None, None)
    if not isinstance(code, str) or code.isdigit():
        code = _CODE_BY_STATUS.get(status)
    type_ = _TYPE_BY_STATUS.get(
        status,
        "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error",
    )
    if status == HTTPStatus.NOT_FOUND and param == "model":
        code = "model_not_found"  # as OpenAI does; vLLM only sends 404
    return error_body(message or fallback, type_, param if isinstance(param, str) else None, code)


def error_from(status: int, body: bytes, retry_after_s: float | None = None) -> errors.ServiceError:
    """Return the error that another server answered with; see `normalise`.

    A status that is not in the table becomes 400 or 502.
    """
    fault = json.loads(normalise(status, body))["error"]
    ours = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    fallback = errors.BackendError if ours else errors.InvalidRequestError
    kind = _CLASS_BY_STATUS.get(status, fallback)
    error = kind(fault["message"])
    error.param, error.code, error.retry_after_s = fault["param"], fault["code"], retry_after_s
    return error


def _words(fault: Any) -> tuple[str, Any, Any]:
    """Return message, param and code from another server's error; the message may be empty."""
    if isinstance(fault, str):
        return fault, None, None
    if not isinstance(fault, dict):
        return "", None, None
    said = fault.get("message") or fault.get("detail")
    if isinstance(said, str):
        return said, fault.get("param"), fault.get("code")
    if isinstance(said, list) and said and isinstance(said[0], dict):  # FastAPI's validation
        place = said[0].get("loc")
        field = str(place[-1]) if isinstance(place, list) and place else None
        return str(said[0].get("msg") or ""), field, None
    return "", fault.get("param"), fault.get("code")
