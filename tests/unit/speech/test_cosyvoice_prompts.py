from __future__ import annotations

import pytest

from services.speech.engines.cosyvoice.text import instruction, with_mark


@pytest.mark.parametrize(
    ("family", "prompt"),
    [
        (2, "希望你以后能够做的比我还好呦。"),
        (3, "You are a helpful assistant.<|endofprompt|>希望你以后能够做的比我还好呦。"),
    ],
)
def test_what_goes_with_a_recording_is_marked_in_family_3_only(family: int, prompt: str) -> None:
    assert with_mark(family, "希望你以后能够做的比我还好呦。") == prompt


@pytest.mark.parametrize(
    ("family", "prompt"),
    [
        (2, "请用广东话表达。<|endofprompt|>"),
        (3, "You are a helpful assistant. 请用广东话表达。<|endofprompt|>"),
    ],
)
def test_an_instruction_ends_in_the_marker_that_the_family_knows(family: int, prompt: str) -> None:
    assert instruction(family, "请用广东话表达。") == prompt
