from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.affinity import affinity_of

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
