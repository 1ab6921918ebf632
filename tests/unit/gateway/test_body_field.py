"""If backends have different models, a request's model is found in every kind of request."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import InvalidRequestError
from services.gateway.body import field_of
from services.openai import forms

JSON = b"application/json"
FORM = b'multipart/form-data; boundary="x y"'


def part(name: str, value: bytes, more: str = "") -> bytes:
    head = f'--x y\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + value + b"\r\n"


@given(cuts=st.lists(st.integers(1, 40), min_size=1))
async def test_a_forms_model_is_found_however_it_is_cut(cuts: list[int]) -> None:
    file = part("file", b"\r\n--x" + b'name="model"', '; filename="model"')
    whole = file + part("model", b"whisper-1") + part("language", b"en") + b"--x y--\r\n"
    pieces, turn = [], 0
    while whole:
        size = cuts[turn % len(cuts)]
        pieces.append(whole[:size])
        whole, turn = whole[size:], turn + 1
    assert await field_of("model", FORM, pieces) == "whisper-1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form",
        part("file", b"x") + b"--x y--\r\n",
        part("model", b" ") + b"--x y--\r\n",
        part("model", b"cut off"),
    ],
)
async def test_a_form_without_one_is_the_backends_to_judge(body: bytes) -> None:
    assert await field_of("model", FORM, [body]) is None
    assert await field_of("model", b"multipart/form-data", [body]) is None


async def test_a_form_of_endless_parts_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "MOST_PARTS", 10)
    model = part("model", b"m") + b"--x y--\r\n"
    assert await field_of("model", FORM, [part("a", b"") * 9, model]) == "m"
    assert await field_of("model", FORM, [part("a", b"") * 11, model]) is None
    headers = b"--x y\r\n" + b"a: b\r\n" * 20 + b"\r\n\r\n"
    assert await field_of("model", FORM, [headers, model]) is None


@pytest.mark.parametrize("content_type", [JSON, b"", b"text/plain", b"application/x"])
async def test_anything_else_is_read_as_json(content_type: bytes) -> None:
    body = json.dumps({"messages": [{"model": "b"}], "model": "a"}).encode()
    assert await field_of("model", content_type, [body[:9], body[9:]]) == "a"
    with pytest.raises(InvalidRequestError, match="not valid JSON") as refused:
        await field_of("model", content_type, [b"{"])
    assert refused.value.code == "invalid_json"


@pytest.mark.parametrize("body", [b"{}", b"[]", b"7", b'{"model": 7}', b'{"model": null}'])
async def test_json_without_a_name_is_the_backends_to_judge(body: bytes) -> None:
    assert await field_of("model", JSON, [body]) is None


async def test_a_name_of_megabytes_is_none() -> None:
    assert await field_of("model", JSON, [b'{"model": "' + b"a" * (1 << 20) + b'"}']) is None
    form = part("model", b"a" * (1 << 20)) + b"--x y--\r\n"
    assert await field_of("model", FORM, [form]) == "a" * 1024
