"""What is sure of a speaker who has not finished: words that two guesses in a row agree on.

LocalAgreement of "Low-Latency Sequence-to-Sequence Speech Recognition" (Liu et al. 2020,
https://arxiv.org/abs/2005.11185), as whisper_streaming has it.
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import Final

# Scripts without spaces between words: a character of these is a word.
_ALONE: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD: Final = re.compile(rf"\s*(?:[{_ALONE}]|[^\s{_ALONE}]+)")
_IS_ALONE: Final = re.compile(rf"[{_ALONE}]")


class StableText:
    """The part of a text that does not change any more; it only grows, and by whole words.

    Attributes:
        text: that part.
    """

    def __init__(self) -> None:
        self.text = ""
        self._before: list[str] = []

    def add(self, guess: str) -> str:
        """Take the next guess at the whole text; return what has become stable by it.

        A guess that does not continue the stable text is left out. So is the last word of each,
        which may be half a word still.
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
    """Return whether `text` begins with `beginning`, and not in the middle of a word."""
    if not text.startswith(beginning):
        return False
    if not beginning or text == beginning:
        return True
    last, first = beginning[-1], text[len(beginning)]
    inside = last.isalnum() and first.isalnum()
    return not inside or bool(_IS_ALONE.match(last) or _IS_ALONE.match(first))


def gap(before: str, after: str) -> str:
    """Return what stands between two pieces of a text: a space, but for scripts without."""
    if not before or not after or _IS_ALONE.match(before[-1]) or _IS_ALONE.match(after[0]):
        return ""
    return " "
