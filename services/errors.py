"""Bentovox's error classes, independent of HTTP.

Every error that a client sees is one of these, and one table in `services.openai.errors` maps them
to HTTP. A message names the field, the value and what would be accepted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_SHOWN_CHARACTERS: Final = 64


def shown(text: str) -> str:
    """Return a client's text quoted for a message, cut to 64 characters."""
    cut = text[:_SHOWN_CHARACTERS]
    return repr(text if cut == text else f"{cut}…")


class ServiceError(Exception):
    """A request could not be served; the client may see the message."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Set the message, the field at fault, a stable code and when to try again."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s


class InvalidRequestError(ServiceError):
    """The request is malformed or unsupported; nothing was done."""


class AuthenticationError(ServiceError):
    """The API key is missing or unknown."""


class PermissionDeniedError(ServiceError):
    """The API key is known, but does not permit this."""


class NotFoundError(ServiceError):
    """The path, model, voice or item does not exist."""


class ConflictError(ServiceError):
    """The request conflicts with what exists: a name is taken, or an item is in use."""


class MethodNotAllowedError(ServiceError):
    """The path exists, but does not allow this method; `methods` are the allowed ones."""

    def __init__(self, message: str, *, methods: Iterable[str] = ()) -> None:
        """Set the message and the allowed methods."""
        super().__init__(message)
        self.methods = tuple(sorted(methods))


class TooLargeError(ServiceError):
    """The body, text or upload is over its limit."""


class RequestTimeoutError(ServiceError):
    """The request's body came too slowly or not at all."""


class UnsupportedMediaError(ServiceError):
    """This path does not accept the content type."""


class OverloadedError(ServiceError):
    """All slots and the queue are full; `retry_after_s` says when to try again."""


class DeadlineError(ServiceError):
    """The request took longer than its deadline allows."""


class EngineError(ServiceError):
    """The engine failed on this request; it is not the client's fault."""


class BackendError(ServiceError):
    """A backend broke off, or its answer was invalid."""


class UnavailableError(ServiceError):
    """The engine or backend for this is not ready at the moment."""


class StorageError(ServiceError):
    """The disk could not be read or written: it is full, read-only or missing."""


class ConfigurationError(ServiceError):
    """The operator's settings are invalid; raised at start, never for a request."""


def no_such_model(name: str) -> NotFoundError:
    """Return the error for an unknown model, in OpenAI's words."""
    return NotFoundError(
        f"The model '{name}' does not exist.", param="model", code="model_not_found"
    )
