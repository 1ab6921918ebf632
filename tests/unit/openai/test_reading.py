"""Unknown fields: near misses are refused, others are ignored and listed."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from services.errors import InvalidRequestError
from services.openai.reading import (
    MOST_IGNORED,
    MOST_MARKS,
    MOST_NAMES,
    ignore,
    parse_object,
    read,
    sift,
    watch,
)


class _Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: str
    seed: int = 0


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    input: str
    voice: str | _Inner | None = None
    speed: float = 1.0
    formats: tuple[Literal["a", "b"], ...] = ()


def _fault(call: Any, *arguments: Any) -> tuple[str | None, str | None]:
    with pytest.raises(InvalidRequestError) as refused:
        call(*arguments)
    assert len(refused.value.message) < 400
    return refused.value.param, refused.value.code


@pytest.mark.parametrize("as_bytes", [True, False])
def test_what_nobody_knows_is_ignored_and_named_wherever_it_stands(*, as_bytes: bool) -> None:
    ignored = watch(strict=False)
    fields = {"input": "a", "lang_code": "e", "voice": {"id": "b", "blend": [1]}}
    body = read(_Body, json.dumps(fields).encode() if as_bytes else fields)
    assert body == _Body(input="a", voice=_Inner(id="b"))
    assert sorted(ignored.names) == ["lang_code", "voice.blend"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": "a", "spede": 2}, "spede"),
        ({"input": "a", "voice": {"id": "b", "sed": 1}}, "voice.sed"),
    ],
)
def test_what_is_nearly_ours_is_refused_and_ours_is_named(
    fields: dict[str, Any], param: str
) -> None:
    watch(strict=False)
    with pytest.raises(InvalidRequestError, match=r"did you mean '(speed|seed)'") as refused:
        read(_Body, fields)
    assert (refused.value.param, refused.value.code) == (param, "unknown_parameter")


@pytest.mark.parametrize(
    ("sent", "known"),
    [
        ("client_metadata", {"metadata"}),
        ("lang_code", {"language"}),
        ("reasoning_effort", {"reasoning"}),
    ],
)
def test_fields_that_real_clients_send_are_not_taken_for_slips(sent: str, known: set[str]) -> None:
    ignored = watch(strict=False)
    assert sift({sent: 1}, known) == {}
    assert ignored.names == [sent]


def test_null_is_not_given() -> None:
    watch(strict=False)
    assert read(_Body, b'{"input": "a", "speed": null, "formats": null}') == _Body(input="a")
    assert _fault(read, _Body, b'{"input": null}') == ("input", "missing_required_parameter")
    assert _fault(read, _Body, b'{"input": "a", "formats": [null]}') == (
        "formats.0",
        "invalid_value",
    )


def test_strict_refuses_what_is_unknown() -> None:
    watch(strict=True)
    assert _fault(read, _Body, {"input": "a", "colour": 1}) == ("colour", "unknown_parameter")
    assert _fault(ignore, "instructions") == ("instructions", "unknown_parameter")


def test_the_header_holds_nothing_that_a_header_may_not() -> None:
    ignored = watch(strict=False)
    for name in ("a\r\nset-cookie: b", "ж", "\ud800", "x" * 10_000):
        ignore(name)
    assert len(ignored.header()) < 1100
    assert all(32 <= byte < 127 for byte in ignored.header())


def test_a_flood_of_unknown_fields_is_refused() -> None:
    watch(strict=False)
    flood = {"input": "a", **{f"k{number}": 1 for number in range(MOST_IGNORED + 1)}}
    assert _fault(read, _Body, flood)[1] == "unknown_parameter"


@pytest.mark.parametrize(
    "document",
    [
        b"{" + b",".join(b'"k%d" :1' % number for number in range(MOST_NAMES + 1)) + b"}",
        b'{"input": [' + b"[]," * MOST_MARKS + b"1]}",
        b'{"input": "' + b'\\"' * (MOST_MARKS + 1) + b'"}',
    ],
)
def test_a_document_of_too_many_pieces_is_refused_before_it_is_read(document: bytes) -> None:
    assert _fault(read, _Body, document) == (None, "too_many_fields")
    assert _fault(parse_object, document.decode(), "the message") == (None, "too_many_fields")


@pytest.mark.parametrize("document", [b"[" * 100_000, b'{"a":' * 5_000, b"\xff", b"{", b"1" * 5000])
def test_what_is_no_json_is_400_however_deep(document: bytes) -> None:
    assert _fault(parse_object, document, "the body") == (None, "invalid_json")
    assert _fault(read, _Body, document)[1] in {"invalid_json", "invalid_type"}


@pytest.mark.parametrize("more", [b"", b', "unknown": 1'])
@pytest.mark.parametrize(
    "document",
    [
        b'\xef\xbb\xbf{"input": "a"%b}',
        b'{"input": "a", "\\ud800": 1%b}',
        b'{"input": "a", "other": ' + b"[" * 500 + b"]" * 500 + b"%b}",
    ],
)
def test_what_is_no_json_is_so_beside_an_unknown_field_too(document: bytes, more: bytes) -> None:
    watch(strict=False)
    assert _fault(read, _Body, document % more) == (None, "invalid_json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=9,
)


@given(st.dictionaries(st.sampled_from(["input", "voice", "speed", "formats", "id", "x"]), JSON))
def test_nothing_that_is_sent_is_a_fault_of_ours(fields: dict[str, Any]) -> None:
    watch(strict=False)
    for data in (fields, json.dumps(fields).encode()):
        with suppress(InvalidRequestError):
            assert isinstance(read(_Body, data), _Body)
