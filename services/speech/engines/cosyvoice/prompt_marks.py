"""The marks that each family of models was trained to find around transcripts and instructions.

Upstream leaves most of them to whoever calls it, and stays silent when they are missing: family 1
and 2 then speak the instruction, family 3 refuses. Text comes from `text.normalise`, which holds
no mark of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from services.speech.engines.cosyvoice.text import Language


@dataclass(frozen=True)
class _Marks:
    """What goes around a text, by family.

    Attributes:
        transcript: before the transcript of a zero-shot prompt.
        instruction: before and after an instruction.
        cross_lingual: before each segment that follows no transcript.
    """

    transcript: str
    instruction: tuple[str, str]
    cross_lingual: str


_ASSISTANT: Final = "You are a helpful assistant."
_END: Final = "<|endofprompt|>"

_MARKS: Final = {
    # Family 1 Instruct was trained with a marker that is no token of its own. Upstream appended it
    # until commit 56d9876, whose example shows family 2's, which family 1's tokenizer lacks too.
    1: _Marks("", ("", "<endofprompt>"), "<|{language}|>"),
    2: _Marks("", ("", _END), ""),
    3: _Marks(_ASSISTANT + _END, (_ASSISTANT + " ", _END), _ASSISTANT + _END),
}


def prompt_text(family: int, transcript: str) -> str:
    """Return the prompt text of zero-shot cloning: what the recording says."""
    return _MARKS[family].transcript + transcript


def instruction(family: int, text: str) -> str:
    """Return the prompt text that makes a model speak as `text` says."""
    before, after = _MARKS[family].instruction
    return before + text + after


def cross_lingual(family: int, segment: str, language: Language) -> str:
    """Return a segment to speak like a recording whose words are not known.

    Family 1 is told the language (one of its five); Japanese is `ja` to its tokenizer, whatever
    upstream's older examples say.
    """
    return _MARKS[family].cross_lingual.format(language=language) + segment
