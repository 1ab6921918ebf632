"""How this role refuses a field of a request."""

from __future__ import annotations

from services.errors import InvalidRequestError


def refusal(field: str, why: str, code: str = "invalid_value") -> InvalidRequestError:
    """Return the error that names `field`, and says `why` it is refused."""
    return InvalidRequestError(f"{field}: {why}", param=field, code=code)


def too_many(field: str, why: str, setting: str) -> InvalidRequestError:
    """Return the error for what is over a bound of ours, with the setting that raises it."""
    named = f" (BENTOVOX_CHAT__{setting})" if setting else ""
    return refusal(field, f"{why}{named}", "array_above_max_length")
