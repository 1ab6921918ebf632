from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chat.fields import body_with_known_fields
from services.errors import InvalidRequestError, UnsupportedMediaError

PATH = "/v1/chat/completions"
KNOWN = {PATH: frozenset({"model", "messages", "temperature"})}
JSON = [(b"host", b"x"), (b"content-type", b"application/json")]


def read(
    *pieces: bytes, path: str = PATH, headers: list[tuple[bytes, bytes]] | None = None
) -> bytes:
    messages = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces) - 1}
        for number, piece in enumerate(pieces)
    ]

    async def receive() -> Any:
        return messages.pop(0)

    given_headers = JSON if headers is None else headers
    return asyncio.run(body_with_known_fields(path, given_headers, receive, KNOWN))


def test_a_body_of_known_fields_passes_unchanged() -> None:
    body = b' {"model": "m",\n "temperature": 1e0, "messages": []} '
    assert read(body) == body
    assert read(body[:7], b"", body[7:]) == body


@given(st.lists(st.integers(0, 60), max_size=6))
def test_how_the_body_came_in_pieces_does_not_matter(cuts: list[int]) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "é"}]}).encode()
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[a:b] for a, b in itertools.pairwise(edges)]
    assert read(*pieces) == body


@pytest.mark.parametrize("field", ["user", "store", "metadata", "reasoning_effort"])
def test_openais_own_fields_pass_though_the_engine_lacks_them(field: str) -> None:
    body = json.dumps({field: None}).encode()
    assert read(body) == body


def test_an_unknown_field_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        InvalidRequestError, match=r"'temprature'\. Did you mean 'temperature'\?"
    ) as refused:
        read(b'{"model": "m", "temprature": 1}')
    assert (refused.value.param, refused.value.code) == ("temprature", "unknown_parameter")


def test_one_far_from_any_is_refused_without_a_guess() -> None:
    with pytest.raises(InvalidRequestError, match=r"^Unknown parameter: 'zzzz'\.$"):
        read(b'{"zzzz": 1}')


def test_a_path_that_is_not_declared_is_not_checked() -> None:
    assert read(b'{"anything": 1}', path="/v1/score") == b'{"anything": 1}'


@pytest.mark.parametrize("body", [b"", b"{", b"nul", b'{"a": 1,}', b"\xff", b'{"a": 1} x'])
def test_malformed_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="not valid JSON") as refused:
        read(body)
    assert refused.value.code == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"model"'])
def test_json_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="must be a JSON object"):
        read(body)


@pytest.mark.parametrize("kind", [b"application/json; charset=utf-8", b"Application/JSON"])
def test_the_content_type_may_say_its_charset(kind: bytes) -> None:
    assert read(b"{}", headers=[(b"content-type", kind)]) == b"{}"


@pytest.mark.parametrize("headers", [[], [(b"content-type", b"text/plain")]])
def test_another_content_type_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(UnsupportedMediaError, match="reads application/json"):
        read(b"{}", headers=headers)
