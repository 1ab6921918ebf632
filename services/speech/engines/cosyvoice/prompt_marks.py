"""The marks that each family of models was trained to find around transcripts and instructions.

Upstream leaves most of them to its callers, and says nothing when they are missing: families 1 and
2 then speak the instruction, family 3 refuses. Text comes from `text.normalise`, which leaves no
marks in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from services.speech.engines.cosyvoice.text import Language

_ASSISTANT: Final = "You are a helpful assistant."
_END: Final = "<|endofprompt|>"

_TRANSCRIPT: Final = {1: "", 2: "", 3: _ASSISTANT + _END}
# Family 1 Instruct was trained with a marker that is no token of its own. Upstream appended it
# until commit 56d9876, whose example shows family 2's, which family 1's tokenizer lacks too.
_INSTRUCTION: Final = {1: ("", "<endofprompt>"), 2: ("", _END), 3: (_ASSISTANT + " ", _END)}
_SEGMENT: Final = {1: "<|{language}|>", 2: "", 3: _ASSISTANT + _END}


def prompt_text(family: int, transcript: str) -> str:
    """Return the prompt text of zero-shot cloning: what the recording says."""
    return _TRANSCRIPT[family] + transcript


def instruction(family: int, text: str) -> str:
    """Return the prompt text that makes a model speak as `text` says."""
    before, after = _INSTRUCTION[family]
    return before + text + after


def cross_lingual(family: int, segment: str, language: Language) -> str:
    """Return a segment to speak like a recording without a transcript.

    Family 1 is told the language (one of its five); Japanese is `ja` to its tokenizer, whatever
    upstream's older examples say.
    """
    return _SEGMENT[family].format(language=language) + segment
