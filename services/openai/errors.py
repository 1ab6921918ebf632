"""OpenAI's error object, and the one table that turns a `ServiceError` into HTTP."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from http.client import responses
from typing import Any, NamedTuple

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


class ErrorKind(NamedTuple):
    """How one class of error looks on the wire."""

    status: int
    code: str | None = None

    @property
    def type(self) -> str:
        """OpenAI's `type`, which goes by the status."""
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            return "requests"
        ours = self.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return "server_error" if ours else "invalid_request_error"


ERROR_TABLE: dict[type[errors.ServiceError], ErrorKind] = {
    errors.InvalidRequestError: ErrorKind(400),
    errors.AuthenticationError: ErrorKind(401, "invalid_api_key"),
    errors.PermissionDeniedError: ErrorKind(403, "permission_denied"),
    errors.NotFoundError: ErrorKind(404, "not_found"),
    errors.MethodNotAllowedError: ErrorKind(405, "method_not_allowed"),
    errors.RequestTimeoutError: ErrorKind(408, "request_timeout"),
    errors.ConflictError: ErrorKind(409, "conflict"),
    errors.TooLargeError: ErrorKind(413, "request_too_large"),
    errors.UnsupportedMediaError: ErrorKind(415, "unsupported_content_type"),
    errors.OverloadedError: ErrorKind(429, "rate_limit_exceeded"),
    errors.EngineError: ErrorKind(500, "engine_error"),
    errors.BackendError: ErrorKind(502, "bad_gateway"),
    errors.UnavailableError: ErrorKind(503, "service_unavailable"),
    errors.DeadlineError: ErrorKind(504, "deadline_exceeded"),
    errors.StorageError: ErrorKind(507, "storage_failed"),
}
"""Status and default `code` of each error (SDK: openai/_exceptions.py)."""

_CLASS_BY_TYPE = {
    "invalid_request_error": errors.InvalidRequestError,
    "requests": errors.OverloadedError,
}
_BY_STATUS = {kind.status: (error, kind) for error, kind in ERROR_TABLE.items()}


def kind_of(error: errors.ServiceError) -> ErrorKind:
    """Return the table's row for `error`, found through its class and bases."""
    for cls in type(error).__mro__:
        if cls in ERROR_TABLE:
            return ERROR_TABLE[cls]
    return ErrorKind(500)


def fault_of(error: errors.ServiceError) -> Fault:
    """Return the inner part of OpenAI's error object for `error`."""
    kind = kind_of(error)
    return _fault(error.message, kind.type, error.param, error.code or kind.code)


def error_body(message: str, type_: str, param: str | None, code: str | None) -> bytes:
    """Return OpenAI's error object as JSON."""
    return _as_json(_fault(message, type_, param, code))


def _as_json(fault: Fault) -> bytes:
    error: Error = {"error": fault}
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


def error_response(error: errors.ServiceError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return status, headers and body for `error`.

    If the error says when to try again, both headers that OpenAI's SDKs obey are set:
    `retry-after` in whole seconds, and `retry-after-ms`.
    """
    kind = kind_of(error)
    body = _as_json(fault_of(error))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
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
    return _as_json(_foreign(status, body))


def _foreign(status: int, body: bytes) -> Fault:
    try:
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError):
        parsed = body.decode("utf-8", "replace").strip()
    fault: Any = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    kind = _BY_STATUS[status][1] if status in _BY_STATUS else ErrorKind(status)
    fallback = responses.get(status, f"HTTP status {status}")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        fallback = INTERNAL_MESSAGE
        if fault is parsed or not isinstance(fault, dict):
            fault = None
    message, param, code = _words(fault)
    if not isinstance(code, str) or code.isdigit():
        code = kind.code
    if status == HTTPStatus.NOT_FOUND and param == "model":
        code = "model_not_found"  # as OpenAI does; vLLM only sends 404
    param = param if isinstance(param, str) else None
    return _fault(message or fallback, kind.type, param, code)


def error_from(status: int, body: bytes, retry_after_s: float | None = None) -> errors.ServiceError:
    """Return the error that another server answered with; see `normalise`.

    A status that is not in the table becomes 400 or 502.
    """
    ours = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    fallback = errors.BackendError if ours else errors.InvalidRequestError
    cls = _BY_STATUS[status][0] if status in _BY_STATUS else fallback
    return _told(cls, _foreign(status, body), retry_after_s)


def error_told(fault: Mapping[str, Any]) -> errors.ServiceError:
    """Return the error that another server's event told, from the inner part of its object."""
    return _told(_CLASS_BY_TYPE.get(fault.get("type") or "", errors.BackendError), fault)


def _told(
    cls: type[errors.ServiceError], fault: Mapping[str, Any], retry_after_s: float | None = None
) -> errors.ServiceError:
    error = cls(str(fault.get("message")))
    error.param, error.code = fault.get("param"), fault.get("code")
    error.retry_after_s = retry_after_s
    return error


def _words(fault: Any) -> tuple[str, Any, Any]:
    """Return message, param and code from another server's error; the message may be empty."""
    if not isinstance(fault, dict):
        return fault if isinstance(fault, str) else "", None, None
    said = fault.get("message") or fault.get("detail")
    if isinstance(said, list) and said and isinstance(said[0], dict):  # FastAPI's validation
        place = said[0].get("loc")
        field = str(place[-1]) if isinstance(place, list) and place else None
        return str(said[0].get("msg") or ""), field, None
    return said if isinstance(said, str) else "", fault.get("param"), fault.get("code")
