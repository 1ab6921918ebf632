"""Words that a model says wrong, and spellings that it says right."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from services.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_CJK = "\u3041-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff"  # written without spaces


class Lexicon:
    """Spellings by word; a word is whole, in any case, and the longest one at a place wins."""

    def __init__(self, spellings: Mapping[str, str]) -> None:
        self._spellings = {word.casefold(): spelling for word, spelling in spellings.items()}
        longest_first = sorted(self._spellings, key=len, reverse=True)
        self._words = re.compile("|".join(map(_whole, longest_first)), re.IGNORECASE)

    def spelt(self, text: str) -> str:
        """Return `text` with the spellings of its words."""
        return self._words.sub(lambda word: self._spellings.get(word[0].casefold(), word[0]), text)


def _whole(word: str) -> str:
    letter = f"[^\\W{_CJK}]"
    before = f"(?<!{letter})" if re.match(letter, word[0]) else ""
    after = f"(?!{letter})" if re.match(letter, word[-1]) else ""
    return before + re.escape(word) + after


def lexicon_in(path: Path) -> Lexicon:
    """Return the lexicon in a file: a JSON object, such as `{"SQL": "sequel"}`.

    Raises:
        ConfigurationError: it cannot be read, or is none.
    """
    try:
        spellings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}", param="lexicon") from error
    if not isinstance(spellings, dict) or not all(
        word.strip() and isinstance(spelling, str) for word, spelling in spellings.items()
    ):
        raise ConfigurationError(
            f'{path} is no JSON object of words and spellings, such as {{"SQL": "sequel"}}',
            param="lexicon",
        )
    return Lexicon(spellings)
