"""One field of a body that the gateway looks at: the model, or a key."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from services.openai.forms import Parts
from services.openai.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NAME_BYTES: Final = 1024
_MOST_PAIRS: Final = 1024  # of a form, more than any form here has
_AT_ONCE_BYTES: Final = 1 << 20  # of a form, before others have their turn


class _Body(BaseModel):
    """Of a JSON body no more than this becomes Python's: it is parsed in Rust, and not deeply."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    model: Annotated[str, Field(max_length=_NAME_BYTES)] | None = None
    api_key: Annotated[str, Field(max_length=_NAME_BYTES)] | None = None


async def asked(
    field: str, content_type: bytes, body: Sequence[bytes], query: bytes = b""
) -> str | None:
    """Return `model` or `api_key` of a body, JSON or a form, or of a query in place of a body.

    None where there is none. Whether the rest of it is as it should be, the backend says.

    Raises:
        InvalidRequestError: it is no JSON, or nested too deeply.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        return await _of_form(field, options.get(b"boundary", b""), body)
    if kind == b"application/x-www-form-urlencoded":
        return _of_pairs(field, b"".join(body))
    if not kind and query:
        return _of_pairs(field, query)
    return _of_json(field, b"".join(body))


def _of_json(field: str, body: bytes) -> str | None:
    try:
        found: str | None = getattr(_Body.model_validate_json(body), field)
    except ValidationError as error:
        # A value that is no name is the backend's to refuse.
        if error.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid":
            raise refusal(error, "the body") from error
        return None
    return found


def _of_pairs(field: str, text: bytes) -> str | None:
    try:
        pairs = dict(parse_qsl(text.decode("utf-8", "replace"), max_num_fields=_MOST_PAIRS))
    except ValueError:
        return None  # the backend says what is wrong with it
    return pairs.get(field)


async def _of_form(field: str, boundary: bytes, body: Sequence[bytes]) -> str | None:
    read_bytes = 0
    reader = _Reader(field)
    try:
        parts = Parts(boundary, reader.begin, reader.data, reader.end)
        for piece in body:
            parts.write(piece)
            if reader.found is not None:
                return reader.found
            read_bytes += len(piece)
            if read_bytes >= _AT_ONCE_BYTES:
                read_bytes = 0
                await asyncio.sleep(0)
    except FormParserError:
        return None  # the backend says what is wrong with it
    return None


class _Reader:
    """Looks for the part that is called `field`; of all others it keeps nothing."""

    def __init__(self, field: str) -> None:
        self.found: str | None = None
        self._field = field
        self._held: bytearray | None = None

    def begin(self, name: str | None, _: Mapping[bytes, bytes]) -> None:
        self._held = bytearray() if name == self._field else None

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._held is not None:
            self._held += data[start : min(end, start + _NAME_BYTES - len(self._held))]

    def end(self) -> None:
        if self._held is not None and self._held.strip():
            self.found = self._held.decode("utf-8", "replace").strip()
