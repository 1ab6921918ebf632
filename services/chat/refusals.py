"""Errors for a field of a chat request."""

from __future__ import annotations

from services.errors import InvalidRequestError


def refusal(field: str, why: str, code: str = "invalid_value") -> InvalidRequestError:
    """Return the error for `field`, with the reason."""
    return InvalidRequestError(f"{field}: {why}", param=field, code=code)


def too_many(field: str, why: str, setting: str) -> InvalidRequestError:
    """Return the error for exceeding a limit, with the setting that raises it."""
    named = f" (BENTOVOX_CHAT__{setting})" if setting else ""
    return refusal(field, f"{why}{named}", "array_above_max_length")
