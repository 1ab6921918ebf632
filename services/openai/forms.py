"""multipart/form-data (RFC 7578), parsed as it arrives, with a limit for each field."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header
from starlette.types import Receive, Scope

from services.errors import InvalidRequestError, TooLargeError
from services.openai.body import header, not_read, pieces
from services.openai.reading import ignore_unknown, missing

TEXT_BYTES: Final = 8 * 1024
"""The most bytes of a text field; its schema limits characters further."""

_HEAD_BYTES: Final = 4 * 1024
"""Allowed for the headers of one part; the parser has its own limits."""

MOST_PARTS: Final = 1024

LIST_ITEMS: Final = 128
"""How often a list field may be repeated."""

_BOUNDARY_BYTES: Final = 70  # RFC 2046, section 5.1.1
_ENCODINGS: Final = (b"", b"7bit", b"8bit", b"binary")


@dataclass(frozen=True)
class FormFields:
    """The fields of a form; others are ignored, or refused if their name is nearly one of these."""

    texts: frozenset[str]
    files: Mapping[str, int]  # and the most bytes of each
    lists: frozenset[str] = frozenset()  # may be repeated; `name[]` is read as well
    foreign: frozenset[str] = frozenset()  # other servers', ignored however similar to one of these
    text_bytes: int = TEXT_BYTES  # the most of a text field

    @property
    def most_bytes(self) -> int:
        """The largest size that a valid form can have."""
        texts = len(self.texts) + len(self.lists) * LIST_ITEMS
        around = (texts + len(self.files) + 1) * (_HEAD_BYTES + _BOUNDARY_BYTES + 8)
        return sum(self.files.values()) + texts * self.text_bytes + around


@dataclass(frozen=True)
class Upload:
    """A file of a form."""

    data: bytes
    media_type: str  # as the client sent it, without parameters


@dataclass(frozen=True)
class Form:
    """A form's fields."""

    texts: Mapping[str, str]
    files: Mapping[str, Upload]
    lists: Mapping[str, Sequence[str]]

    def file(self, name: str) -> Upload:
        """Return a required file, or raise InvalidRequestError."""
        if name not in self.files:
            raise missing(name, ", a file")
        return self.files[name]


async def read_form(scope: Scope, receive: Receive, fields: FormFields) -> Form:
    """Return the form in the request's body.

    Raises:
        UnsupportedMediaError: the content type is another one.
        InvalidRequestError: it is not a complete form (`invalid_multipart`), or a field is nearly
            one of `fields`, sent twice, too long or not text.
        TooLargeError: a file, or the whole body, is over its limit.
        ClientGoneError: the client hung up while sending it.
    """
    reader = _Reader(fields)
    parser = parser_of(_boundary(scope), reader.begin, reader.data, reader.end)
    limits = ", ".join(f"{name} at most {most} bytes" for name, most in fields.files.items())
    body = pieces(scope, receive, fields.most_bytes, which=f" ({limits})")
    async with aclosing(body):
        async for piece in body:
            try:
                parser.write(piece)
            except FormParserError as error:
                raise _broken(f"{error}") from error
    if parser.state != MultipartState.END:
        raise _broken("it ends before its closing boundary")
    return Form(reader.texts, reader.files, reader.lists)


def _boundary(scope: Scope) -> bytes:
    given = header(scope, b"content-type")
    kind, options = parse_options_header(given)
    if kind != b"multipart/form-data":
        raise not_read(given, "multipart/form-data")
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= _BOUNDARY_BYTES:
        raise _broken(f"its content-type names no boundary of 1 to {_BOUNDARY_BYTES} bytes")
    return boundary


def _broken(why: str) -> InvalidRequestError:
    return InvalidRequestError(f"the body is not a complete form: {why}", code="invalid_multipart")


def parser_of(
    boundary: bytes,
    begin: Callable[[str | None, Mapping[bytes, bytes]], None],
    data: Callable[[bytes, int, int], None],
    end: Callable[[], None],
) -> MultipartParser:
    """Return what parses a form part by part, written to it in whatever pieces it arrives.

    For each part it calls `begin` with its name (None without one) and its headers, then `data`
    with a buffer and the start and end of the part's bytes in it, then `end`. FormParserError, also
    from `write`, if the boundary is too long, or the form is malformed or has too much.
    """
    count = 0
    head: dict[bytes, bytes] = {}
    header_name, header_value = bytearray(), bytearray()

    def begin_part() -> None:
        nonlocal count
        head.clear()
        count += 1
        if count > MOST_PARTS:
            raise FormParserError(f"it has over {MOST_PARTS} parts")

    def end_header() -> None:
        head[bytes(header_name).lower()] = bytes(header_value)
        header_name.clear()
        header_value.clear()

    def end_headers() -> None:
        kind, options = parse_options_header(head.get(b"content-disposition"))
        name = options.get(b"name") if kind == b"form-data" else None
        begin(None if name is None else name.decode("utf-8", "replace"), head)

    return MultipartParser(
        boundary,
        {
            "on_part_begin": begin_part,
            "on_header_field": lambda data, start, end: header_name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: header_value.extend(data[start:end]),
            "on_header_end": end_header,
            "on_headers_finished": end_headers,
            "on_part_data": data,
            "on_part_end": end,
        },
    )


class _Reader:
    """Collects the fields, and refuses at once what they do not allow."""

    def __init__(self, fields: FormFields) -> None:
        self.texts: dict[str, str] = {}
        self.files: dict[str, Upload] = {}
        self.lists: dict[str, list[str]] = {}
        self._fields = fields
        self._name = ""
        self._media_type = ""
        self._most_bytes = 0
        self._held = BytesIO()  # `getvalue` makes no copy

    def begin(self, name: str | None, head: Mapping[bytes, bytes]) -> None:
        self._held = BytesIO()
        self._name = ""
        if name is None:
            raise _broken("a part has no name")
        if head.get(b"content-transfer-encoding", b"").strip().lower() not in _ENCODINGS:
            raise _broken("a part has a content-transfer-encoding, which RFC 7578 rules out")
        fields = self._fields
        if name.removesuffix("[]") in fields.lists:
            name = name.removesuffix("[]")
        known = (*sorted(fields.texts | fields.lists), *fields.files)
        if name not in known:
            ignore_unknown(name, known, foreign=fields.foreign)
            return
        if name in self.texts or name in self.files:
            raise InvalidRequestError(
                f"{name} was sent twice", param=name, code="duplicate_parameter"
            )
        if len(self.lists.get(name, ())) >= LIST_ITEMS:
            raise InvalidRequestError(
                f"{name} was sent more than {LIST_ITEMS} times",
                param=name,
                code="array_above_max_length",
            )
        self._name = name
        self._most_bytes = fields.files.get(name, fields.text_bytes)
        self._media_type = parse_options_header(head.get(b"content-type"))[0].decode("latin-1")

    def data(self, data: bytes, start: int, end: int) -> None:
        if not self._name:
            return
        self._held.write(memoryview(data)[start:end])
        if self._held.tell() <= self._most_bytes:
            return
        if self._name in self._fields.files:
            raise TooLargeError(
                f"{self._name} has over {self._most_bytes} bytes, the most that is accepted",
                param=self._name,
                code="audio_too_large",
            )
        raise InvalidRequestError(
            f"{self._name} is longer than {self._fields.text_bytes} bytes",
            param=self._name,
            code="string_above_max_length",
        )

    def end(self) -> None:
        data, self._held = self._held.getvalue(), BytesIO()
        if not self._name:
            return
        if self._name in self._fields.files:
            self.files[self._name] = Upload(data, self._media_type)
            return
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequestError(
                f"{self._name} is not text in UTF-8", param=self._name, code="invalid_value"
            ) from error
        if not text:
            return  # an empty field counts as not sent
        if self._name in self._fields.lists:
            self.lists.setdefault(self._name, []).append(text)
        else:
            self.texts[self._name] = text
