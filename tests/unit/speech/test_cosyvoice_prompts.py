from __future__ import annotations

import pytest

from services.speech.engines.cosyvoice.text import cross_lingual, instruction, prompt_text


@pytest.mark.parametrize(
    ("family", "prompt"),
    [
        (1, "希望你以后能够做的比我还好呦。"),
        (2, "希望你以后能够做的比我还好呦。"),
        (3, "You are a helpful assistant.<|endofprompt|>希望你以后能够做的比我还好呦。"),
    ],
)
def test_a_transcript_is_marked_in_family_3_only(family: int, prompt: str) -> None:
    assert prompt_text(family, "希望你以后能够做的比我还好呦。") == prompt


@pytest.mark.parametrize(
    ("family", "prompt"),
    [
        (1, "请用广东话表达。<endofprompt>"),
        (2, "请用广东话表达。<|endofprompt|>"),
        (3, "You are a helpful assistant. 请用广东话表达。<|endofprompt|>"),
    ],
)
def test_an_instruction_ends_in_the_marker_that_the_family_knows(family: int, prompt: str) -> None:
    assert instruction(family, "请用广东话表达。") == prompt


@pytest.mark.parametrize(
    ("family", "given_to_the_model"),
    [
        (1, "<|ja|>{0}。"),
        (2, "{0}。"),
        (3, "You are a helpful assistant.<|endofprompt|>{0}。"),
    ],
)
def test_a_cross_lingual_segment_carries_its_own_mark(family: int, given_to_the_model: str) -> None:
    assert cross_lingual(family, "{0}。", "ja") == given_to_the_model
