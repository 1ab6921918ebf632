"""Refusals that only speech has."""

from __future__ import annotations

from services.errors import InvalidRequestError


def check_alone(field: str, given: str | None) -> None:
    """Refuse a field that goes with `ref_audio` where there is none.

    Raises:
        InvalidRequestError: it is there (`invalid_value`).
    """
    if given is not None:
        raise InvalidRequestError(
            f"{field} goes with ref_audio, which is not there; leave it out",
            param=field,
            code="invalid_value",
        )
