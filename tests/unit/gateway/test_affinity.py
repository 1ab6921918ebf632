from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.body import affinity_of

JSON = b"application/json"


def of(fields: Any, *headers: tuple[bytes, bytes]) -> str | None:
    return affinity_of({"headers": [*headers]}, JSON, [json.dumps(fields).encode()])


def said(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": role, "content": text} for role, text in turns]}


SYSTEM = ("system", "You are terse.")


def test_a_conversation_keeps_its_affinity_as_it_grows() -> None:
    first = said(SYSTEM, ("user", "Hello"))
    later = said(SYSTEM, ("user", "Hello"), ("assistant", "Hi"), ("user", "How are you?"))
    assert of(first) == of(later) == "You are terse.\nHello"


def test_other_conversations_have_others() -> None:
    asked = [of(said(SYSTEM, ("user", text))) for text in ("Hello", "Good morning")]
    assert len({*asked, of(said(("user", "Hello")))}) == 3


def test_parts_count_by_their_text() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 99_999}}
    text = {"type": "text", "text": "What is this?"}
    assert of(said(("user", [image, text]))) == "What is this?"


@pytest.mark.parametrize(
    ("fields", "affinity"),
    [
        ({"prompt": "Once upon"}, "Once upon"),
        ({"prompt": ["Once", "upon"]}, "Once\nupon"),
        ({"input": "Hello"}, "Hello"),
        (
            {"instructions": "Be terse.", "input": [{"role": "user", "content": "Hello"}]},
            "Be terse.\nHello",
        ),
        ({"input": "Hello", "voice": "alloy"}, '"alloy"'),
        ({"input": "Hello", "voice": {"id": "voice_1"}}, '{"id": "voice_1"}'),
        ({"prompt": [1, 2, 3]}, None),
        ({}, None),
    ],
)
def test_prompts_and_voices(fields: dict[str, Any], affinity: str | None) -> None:
    assert of(fields) == affinity


def test_a_session_goes_first() -> None:
    assert of(said(SYSTEM), (b"x-session-id", b"abc")) == "abc"


def test_a_form_has_none() -> None:
    assert affinity_of({"headers": []}, b"multipart/form-data; boundary=x", [b"--x--"]) is None


def test_a_long_prompt_counts_by_its_beginning() -> None:
    assert of(said(("user", "a" * 9000 + "b"))) == of(said(("user", "a" * 9000 + "c")))


def test_of_a_long_body_only_the_beginning_is_parsed() -> None:
    """Seconds of the event loop, if every object of the largest body became one of Python's."""
    turns = '{"role": "system"},' * 800_000
    body = f'{{"messages": [{{"role": "system", "content": "é"}}, {turns}'.encode()
    calls = 0

    def count(frame: Any, _event: str, _arg: Any) -> None:
        nonlocal calls
        calls += frame.f_code.co_name == "_texts"

    sys.setprofile(count)
    try:
        affinity = affinity_of({"headers": []}, JSON, [body[:99], body[99:]])
    finally:
        sys.setprofile(None)
    assert affinity == "é"
    assert 0 < calls < 100_000


@pytest.mark.parametrize("sizes", [(70_000,), (70_000, 3_000_000), (5_000,) * 40, (1_000,) * 400])
def test_images_do_not_hide_the_text_behind_them(sizes: tuple[int, ...]) -> None:
    images = [{"image_url": {"url": "data:image/png;base64," + "A" * size}} for size in sizes]
    text = {"type": "text", "text": "What is this?"}
    assert of(said(SYSTEM, ("user", [*images, text]))) == "You are terse.\nWhat is this?"


@pytest.mark.parametrize("cut", range(8))
def test_a_long_body_may_be_cut_within_a_character(cut: int) -> None:
    given = said(("user", "x" * cut + "é€😀" * 20_000))
    body = json.dumps(given, ensure_ascii=False).encode()
    affinity = affinity_of({"headers": []}, JSON, [body])
    assert affinity == given["messages"][0]["content"][:2048]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["messages", "content", "text", "role", "input", "voice"]), inner
            )
        ),
    )
)
def test_whatever_is_sent_is_no_error(fields: Any) -> None:
    affinity = of(fields)
    assert affinity is None or 0 < len(affinity) <= 2048


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"[" * 10_000])
def test_what_is_no_object_is_the_backends_to_refuse(body: bytes) -> None:
    assert affinity_of({"headers": []}, JSON, [body]) is None
