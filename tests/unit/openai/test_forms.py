from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import InvalidRequestError, ServiceError, TooLargeError, UnsupportedMediaError
from services.openai import reading
from services.openai.body import ClientGoneError
from services.openai.forms import TEXT_BYTES, Form, FormFields, read_form

FIELDS = FormFields(frozenset({"name", "text"}), {"file": 1000})
TYPE = b"multipart/form-data; boundary=xYz"


def part(name: str, data: bytes, *more: bytes) -> bytes:
    head = [b'content-disposition: form-data; name="%s"' % name.encode(), *more]
    return b"--xYz\r\n" + b"\r\n".join(head) + b"\r\n\r\n" + data + b"\r\n"


END = b"--xYz--\r\n"
WHOLE = (
    part("name", "Änne".encode())
    + part("file", b"\x00\r\n--xY\r\n-", b"Content-Type: Audio/WAV; rate=1")
    + END
)


class Sender:
    """Sends the pieces of a body, then hangs up."""

    def __init__(self, pieces: list[bytes], *, whole: bool = True) -> None:
        self.left = [
            {"type": "http.request", "body": piece, "more_body": n < len(pieces) or not whole}
            for n, piece in enumerate(pieces, 1)
        ]

    async def receive(self) -> dict[str, Any]:
        return self.left.pop(0) if self.left else {"type": "http.disconnect"}


async def read(
    body: bytes, kind: bytes = TYPE, *headers: tuple[bytes, bytes], at_once: int = 1 << 16
) -> Form:
    pieces = [body[begin : begin + at_once] for begin in range(0, len(body), at_once)] or [b""]
    scope: Any = {"headers": [(b"content-type", kind), *headers]}
    return await read_form(scope, Sender(pieces).receive, FIELDS)


async def refusal(body: bytes, kind: bytes = TYPE) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await read(body, kind)
    return caught.value


@given(at_once=st.integers(1, len(WHOLE)))
async def test_a_form_is_the_same_in_whatever_pieces_it_comes(at_once: int) -> None:
    form = await read(WHOLE, at_once=at_once)
    assert form.texts == {"name": "Änne"}
    assert form.file("file").data == b"\x00\r\n--xY\r\n-"
    assert form.file("file").media_type == "audio/wav"


async def test_the_field_decides_what_is_a_file_and_not_its_file_name() -> None:
    named = b'content-disposition: form-data; name="text"; filename="a.txt"\r\n\r\nhi\r\n'
    form = await read(b"--xYz\r\n" + named + part("file", b"bare") + END)
    assert form.texts == {"text": "hi"}
    assert form.file("file").data == b"bare"


async def test_what_comes_after_the_end_is_let_be() -> None:
    assert (await read(part("name", b"a") + END + b"epilogue")).texts == {"name": "a"}


async def test_a_form_without_fields_is_one() -> None:
    assert (await read(END)).texts == {}


@pytest.mark.parametrize("length", range(0, len(WHOLE) - 3, 7))
async def test_a_form_that_ends_early_is_refused(length: int) -> None:
    error = await refusal(WHOLE[:length])
    assert isinstance(error, InvalidRequestError)
    assert error.code == "invalid_multipart"


@pytest.mark.parametrize(
    "body",
    [
        b"not a form at all",
        b"\r\n" * 50,
        b"--other\r\n\r\n",
        b"--xYz\r\n\r\nno name\r\n" + END,
        b'--xYz\r\ncontent-disposition: attachment; name="name"\r\n\r\na\r\n' + END,
        b"--xYz\r\nbad header\r\n\r\na\r\n" + END,
        part("name", b"a", b"x-many: 1" * 600) + END,
        part("name", b"a", *(b"x-%d: 1" % n for n in range(2000))) + END,
        part("name", b"YQ==", b"content-transfer-encoding: base64") + END,
    ],
)
async def test_what_is_no_form_is_400(body: bytes) -> None:
    error = await refusal(body)
    assert isinstance(error, InvalidRequestError)
    assert error.code == "invalid_multipart"


@pytest.mark.parametrize("end", [b"", b"; boundary=", b'; boundary=""', b"; boundary=" + b"x" * 71])
async def test_a_form_without_a_usable_boundary_is_400(end: bytes) -> None:
    assert (await refusal(WHOLE, b"multipart/form-data" + end)).code == "invalid_multipart"


@pytest.mark.parametrize("kind", [b"application/json", b"", b"multipart/mixed; boundary=xYz"])
async def test_another_content_type_is_415(kind: bytes) -> None:
    assert isinstance(await refusal(WHOLE, kind), UnsupportedMediaError)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (part("names", b"a") + END, "names", "unknown_parameter"),
        (part("name", b"a") + part("name", b"a") + END, "name", "duplicate_parameter"),
        (part("file", b"a") + part("file", b"a") + END, "file", "duplicate_parameter"),
        (part("name", b"\xff") + END, "name", "invalid_value"),
        (part("name", b"a" * (TEXT_BYTES + 1)) + END, "name", "string_above_max_length"),
    ],
)
async def test_a_bad_field_is_400_and_named(body: bytes, param: str, code: str) -> None:
    error = await refusal(body)
    assert isinstance(error, InvalidRequestError)
    assert (error.param, error.code) == (param, code)


async def test_a_file_over_its_limit_is_413_before_the_rest_is_read() -> None:
    sender = Sender([part("file", b"a" * 1001), b"left"])
    with pytest.raises(TooLargeError) as caught:
        await read_form({"headers": [(b"content-type", TYPE)]}, sender.receive, FIELDS)
    assert (caught.value.param, caught.value.code) == ("file", "audio_too_large")
    assert len(sender.left) == 1


async def test_a_body_that_is_said_to_be_too_large_is_not_read() -> None:
    sender = Sender([WHOLE])
    headers = [(b"content-type", TYPE), (b"content-length", b"%d" % (FIELDS.most_bytes + 1))]
    with pytest.raises(TooLargeError):
        await read_form({"headers": headers}, sender.receive, FIELDS)
    assert len(sender.left) == 1


async def test_what_is_around_the_fields_is_bounded_too() -> None:
    body = part("name", b"a") + END + b"epilogue" * FIELDS.most_bytes
    with pytest.raises(TooLargeError):
        await read(body)


async def test_a_missing_file_is_named() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        (await read(END)).file("file")
    assert (caught.value.param, caught.value.code) == ("file", "missing_required_parameter")


async def test_a_client_that_hangs_up_in_the_middle_is_told_apart_from_a_broken_form() -> None:
    sender = Sender([WHOLE[:100]], whole=False)
    with pytest.raises(ClientGoneError):
        await read_form({"headers": [(b"content-type", TYPE)]}, sender.receive, FIELDS)


async def test_how_long_a_text_may_be_is_the_paths_to_say() -> None:
    for most, length in [(10, 10), (10, 11), (TEXT_BYTES * 2, TEXT_BYTES + 1)]:
        fields = FormFields(frozenset({"text"}), {}, text_bytes=most)
        scope: Any = {"headers": [(b"content-type", TYPE)]}
        sender = Sender([part("text", b"a" * length) + END])
        if length <= most:
            form = await read_form(scope, sender.receive, fields)
            assert len(form.texts["text"]) == length
        else:
            with pytest.raises(InvalidRequestError, match="longer than 10 bytes"):
                await read_form(scope, sender.receive, fields)


async def test_another_servers_field_is_ignored_however_near_it_is_to_one_of_these() -> None:
    ignored = reading.watch(strict=False)
    sender = Sender([part("names", b"a") + part("name", b"b") + END])
    fields = FormFields(frozenset({"name"}), {}, foreign=frozenset({"names"}))
    form = await read_form({"headers": [(b"content-type", TYPE)]}, sender.receive, fields)
    assert (form.texts, ignored.names) == ({"name": "b"}, ["names"])
