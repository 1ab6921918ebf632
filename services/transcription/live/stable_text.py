"""The stable part of an unfinished turn's text: words that two guesses in a row agree on.

This is LocalAgreement from "Low-Latency Sequence-to-Sequence Speech Recognition" (Liu et al. 2020,
https://arxiv.org/abs/2005.11185), as in whisper_streaming.
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import Final

from services.languages import UNSPACED, gap

# In scripts without spaces each character counts as a word.
_WORD: Final = re.compile(rf"\s*(?:[{UNSPACED}]|[^\s{UNSPACED}]+)")


class StableText:
    """A text that only grows, by whole words, and never changes.

    Attributes:
        text: what is stable so far.
    """

    def __init__(self) -> None:
        self.text = ""
        self._before: list[str] = []

    def add(self, guess: str) -> str:
        """Take the next guess at the whole text; return what became stable with it.

        A guess that does not continue the stable text is ignored, and so is the last word of every
        guess, which may be incomplete.
        """
        guess = guess.strip()
        if not continues(guess, self.text):
            self._before = []
            return ""
        words = _WORD.findall(guess[len(self.text) :])[:-1]
        pairs = zip(words, self._before, strict=False)
        agreed = [word for word, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
        self._before = words[len(agreed) :]
        new = "".join(agreed)
        self.text += new
        return new


def continues(text: str, beginning: str) -> bool:
    """Return whether `text` begins with `beginning`, which does not end within a word."""
    if not text.startswith(beginning):
        return False
    if not beginning or text == beginning:
        return True
    last, first = beginning[-1], text[len(beginning)]
    inside = last.isalnum() and first.isalnum()
    return not inside or not gap(last, first)
