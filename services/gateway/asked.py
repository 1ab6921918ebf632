"""The model that a request asks for, where that decides which backend answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from services.openai.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME_BYTES: Final = 1024
_MOST_HEADERS: Final = 1024  # of all parts of a form, more than any form here has
_AT_ONCE_BYTES: Final = 1 << 20  # of a form, before others have their turn


class _Body(BaseModel):
    """Of a JSON body no more than this becomes Python's: it is parsed in Rust, and not deeply."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    model: Annotated[str, Field(max_length=_NAME_BYTES)] | None = None


async def asked_model(content_type: bytes, body: Sequence[bytes]) -> str | None:
    """Return the `model` of a body, JSON or a form; None where it names none.

    Whether the rest of it is as it should be, the backend says.

    Raises:
        InvalidRequestError: it is no JSON, or nested too deeply.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        return await _of_form(options.get(b"boundary", b""), body)
    return _of_json(b"".join(body))


def _of_json(body: bytes) -> str | None:
    try:
        return _Body.model_validate_json(body).model
    except ValidationError as error:
        # A `model` that is no name is the backend's to refuse.
        if error.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid":
            raise refusal(error, "the body") from error
        return None


async def _of_form(boundary: bytes, body: Sequence[bytes]) -> str | None:
    reader = _Reader()
    read_bytes = 0
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": reader.begin_part,
                "on_header_field": reader.header_name,
                "on_header_value": reader.header_value,
                "on_header_end": reader.end_header,
                "on_part_data": reader.data,
                "on_part_end": reader.end_part,
            },
        )
        for piece in body:
            parser.write(piece)
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
    """Looks for the part that is called `model`; of all others it keeps nothing."""

    def __init__(self) -> None:
        self.found: str | None = None
        self._is_model = False
        self._headers = 0
        self._held = bytearray()
        self._header_name = bytearray()
        self._header_value = bytearray()

    def begin_part(self) -> None:
        self._count()
        self._is_model = False
        self._held.clear()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        _append(self._header_name, data, start, end)

    def header_value(self, data: bytes, start: int, end: int) -> None:
        _append(self._header_value, data, start, end)

    def end_header(self) -> None:
        self._count()
        if self._header_name.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._header_value))
            self._is_model = options.get(b"name") == b"model"
        self._header_name.clear()
        self._header_value.clear()

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._is_model:
            _append(self._held, data, start, end)

    def end_part(self) -> None:
        if self._is_model and self._held.strip():
            self.found = self._held.decode("utf-8", "replace").strip()

    def _count(self) -> None:
        self._headers += 1
        if self._headers > _MOST_HEADERS:
            raise FormParserError


def _append(held: bytearray, data: bytes, start: int, end: int) -> None:
    held += data[start : min(end, start + _NAME_BYTES - len(held))]
