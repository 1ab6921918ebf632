"""The error tree of Bentovox: what can be wrong with a request, without a word of HTTP.

Every refusal that reaches a client is one of these. `services.openai.errors` holds the one
table that turns them into HTTP. A message names the field, the value and what would be accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHOWN_CHARACTERS: Final = 64


def shown(text: str) -> str:
    """Return a client's own word as a message quotes it: not more than its beginning."""
    cut = text[:_SHOWN_CHARACTERS]
    return repr(text if cut == text else f"{cut}…")


class ServiceError(Exception):
    """A request could not be served, for a reason that the client may be told."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Keep the message, the field at fault, a stable code and when to try again."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s


class InvalidRequestError(ServiceError):
    """The request is malformed or asks for what is not offered; nothing was done."""


class AuthenticationError(ServiceError):
    """No API key, or one that is not known."""


class PermissionDeniedError(ServiceError):
    """The key is known and does not cover this."""


class NotFoundError(ServiceError):
    """The path, model, voice or item does not exist."""


class ConflictError(ServiceError):
    """The request does not fit what is there: a name is taken, or an item is in use."""


class MethodNotAllowedError(ServiceError):
    """The path exists and does not take this method; `methods` are those that it takes."""

    def __init__(self, message: str, *, methods: Iterable[str] = ()) -> None:
        """Keep the message and the methods that would be taken."""
        super().__init__(message)
        self.methods = tuple(sorted(methods))


class TooLargeError(ServiceError):
    """The body, text or upload is over its limit."""


class RequestTimeoutError(ServiceError):
    """The request's body came too slowly, or not at all."""


class UnsupportedMediaError(ServiceError):
    """The content type is not one that this path reads."""


class OverloadedError(ServiceError):
    """Every slot and every place in the queue is taken; `retry_after_s` says when to come back."""


class DeadlineError(ServiceError):
    """The request waited or worked for longer than its deadline allows."""


class EngineError(ServiceError):
    """The engine failed on this request; the fault is ours."""


class BackendError(ServiceError):
    """A backend broke off or answered nonsense."""


class UnavailableError(ServiceError):
    """The engine or backend that serves this is not ready, for now."""


class StorageError(ServiceError):
    """What was to be kept or read could not be: the disk is full, read-only or not there."""


class ConfigurationError(ServiceError):
    """The operator's settings cannot work; raised at start, never for a request."""


def no_such_model(name: str) -> NotFoundError:
    """Return the error for a model that nobody serves, in OpenAI's words."""
    return NotFoundError(
        f"The model '{name}' does not exist.", param="model", code="model_not_found"
    )
