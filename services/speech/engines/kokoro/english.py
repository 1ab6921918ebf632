"""English text as Kokoro's phonemes, by misaki's dictionaries; no part of it is GPL.

Kokoro was trained on what misaki makes of text. Its dictionaries (Apache-2.0) are data, read here
without its code, which needs spaCy and a model of spaCy's that is on no package index. Without a
tagger, a word that is said in several ways (`read`) is said in its most usual one.
"""

# ruff: noqa: RUF001 (phonemes)

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

Spoken = str | Mapping[str, str | None]
"""Phonemes; or those of each role of the word, `DEFAULT` among them."""


PUNCTUATION: Final = frozenset(';:,.!?—…"()“”')
"""The marks that Kokoro knows."""

_TOKEN: Final = re.compile(
    r"[$£€]\s?\d+(?:,\d{3})*(?:\.\d+)?|\d+(?:,\d{3})*(?:\.\d+)*(?:(?:st|nd|rd|th|s)\b|%)?"
    r"|[^\W\d_]+(?:['’][^\W\d_]+)*['’]?|[-–]|[^\w\s]|_"
)
_SYMBOLS: Final = {
    "&": "and",
    "%": "percent",
    "@": "at",
    "+": "plus",
    "=": "equals",
    "#": "number",
    "$": "dollar",
    "€": "euro",
    "£": "pound",
    "°": "degrees",
    "*": "times",
}
_MARKS: Final = {"–": "—", "„": "“", "«": "“", "»": "”", "[": "(", "]": ")"}
_MONEY: Final = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}
_WRITTEN_SHORT: Final = {
    "dr.": "doctor",
    "mr.": "mister",
    "mrs.": "missus",
    "ms.": "miz",
    "st.": "saint",
    "vs.": "versus",
    "etc.": "etcetera",
    "prof.": "professor",
    "e.g.": "for example",
    "i.e.": "that is",
}
_SHORT: Final = re.compile(
    r"(?<!\w)(?:" + "|".join(re.escape(one) for one in _WRITTEN_SHORT) + ")", re.IGNORECASE
)
_VOWELS: Final = frozenset("AIOQWYaiuæɑɒɔəɛɜɪʊʌᵻɐ")
_STRESSES: Final = "ˈˌ"
_UNSTRESSED: Final = str.maketrans("", "", _STRESSES)
_MOST_DIGITS: Final = 15
_YEARS: Final = range(1100, 2100)


class English:
    """One of two accents."""

    def __init__(self, *, british: bool, unknown: Callable[[str], str] | None) -> None:
        """Read the dictionaries, which takes a quarter of a second.

        `unknown` makes phonemes of a word that is in neither; without it, the word is spelt.
        """
        self._british = british
        self._unknown = unknown
        accent = "gb" if british else "us"
        data = files("misaki.data")
        self._sure: dict[str, Spoken] = json.loads(
            data.joinpath(f"{accent}_gold.json").read_text(encoding="utf-8")
        )
        self._others: dict[str, Spoken] = json.loads(
            data.joinpath(f"{accent}_silver.json").read_text(encoding="utf-8")
        )

    def __call__(self, text: str) -> str:
        """Return the phonemes of a sentence, with the punctuation that Kokoro knows."""
        text = _SHORT.sub(lambda short: _WRITTEN_SHORT[short.group().lower()], text)
        said: list[str] = []
        following = ""  # the phonemes of the next word; a mark ends the clause
        for token in reversed(list(_TOKEN.finditer(text))):
            spoken = self._say(token.group(), following)
            after = text[token.end() : token.end() + 1]
            said.append(spoken + (" " if after.isspace() else ""))
            following = spoken
        return " ".join("".join(reversed(said)).split())

    def _say(self, token: str, following: str) -> str:
        mark = _MARKS.get(token, token)
        if mark in PUNCTUATION:
            return mark
        if any(character.isdigit() for character in token):
            return " ".join(self._word(word, "") for word in in_words(token).split())
        if token in _SYMBOLS:
            return f" {self._word(_SYMBOLS[token], '')} "
        if token in {"-", "_", "/"}:
            return " "
        if not any(character.isalpha() for character in token):
            return ""
        return self._word(token, following)

    def _word(self, written: str, following: str) -> str:  # noqa: PLR0911  a table of words
        word = written.replace("’", "'").removesuffix("'")
        begins = next((sound for sound in following if sound not in f"{_STRESSES} "), "")
        closes = not begins or begins in PUNCTUATION
        match word.lower():
            case "the":
                return "ði" if begins in _VOWELS else "ðə"
            case "a" if written != "A" or not closes:
                return "ɐ"
            case "an":
                return "ɐn"
            case "to" if not closes:
                return "tʊ" if begins in _VOWELS else "tə"
            case "in" if not closes:
                return "ɪn"
            case "i":
                return "ˌI"
        if len(word) > 1 and word.isupper() and word not in self._sure:
            in_lower = self._known(word.lower(), closes=closes) if len(word) > 3 else None  # noqa: PLR2004
            return in_lower or self._spelt(word)
        return (
            self._known(word, closes=closes)
            or self._inflected(word.lower(), closes=closes)
            or (self._unknown(word) if self._unknown else "")
            or self._spelt(word)
        )

    def _known(self, word: str, *, closes: bool) -> str | None:
        for spelling in dict.fromkeys((word, word.lower(), word.capitalize())):
            found = self._sure.get(spelling) or self._others.get(spelling)
            if isinstance(found, str):
                return found
            if found is not None:
                return (found.get("None") if closes else None) or found["DEFAULT"]
        return None

    def _inflected(self, word: str, *, closes: bool) -> str | None:
        """Return the phonemes of a known word with -s, -'s, -ed or -ing."""
        for ending, stems, said in (
            ("'s", ("",), self._plural),
            ("ies", ("y",), self._plural),
            ("es", ("", "e"), self._plural),
            ("s", ("",), self._plural),
            ("ied", ("y",), self._past),
            ("ed", ("", "e"), self._past),
            ("ing", ("", "e"), self._going),
        ):
            if not word.endswith(ending):
                continue
            base = word.removesuffix(ending)
            doubled = (base[:-1],) if len(base) > 2 and base[-1] == base[-2] else ()  # noqa: PLR2004
            for stem in (*(base + letter for letter in stems), *doubled):
                found = self._known(stem, closes=closes) if len(stem) > 1 else None
                if found:
                    return said(found)
        return None

    def _plural(self, stem: str) -> str:
        if stem[-1] in "ptkfθ":
            return f"{stem}s"
        return f"{stem}{self._weak}z" if stem[-1] in "szʃʒʧʤ" else f"{stem}z"

    def _past(self, stem: str) -> str:
        if stem[-1] in "pkfθʃsʧ":
            return f"{stem}t"
        if stem[-1] not in "td":
            return f"{stem}d"
        return f"{self._flapped(stem)}{self._weak}d"

    def _going(self, stem: str) -> str:
        return f"{self._flapped(stem)}ɪŋ"

    def _flapped(self, stem: str) -> str:
        flaps = not self._british and stem[-1] == "t" and stem[-2:-1] in _VOWELS | {"ɹ"}
        return f"{stem[:-1]}ɾ" if flaps else stem

    @property
    def _weak(self) -> str:
        return "ɪ" if self._british else "ᵻ"

    def _spelt(self, word: str) -> str:
        names = [self._sure.get(letter.upper()) for letter in word]
        letters = [name.translate(_UNSTRESSED) for name in names if isinstance(name, str)]
        if not letters:
            return ""
        *first, last = letters
        return "".join((*(f"ˌ{one}" for one in first), f"ˈ{last}"))


def in_words(number: str) -> str:  # noqa: PLR0911  a kind of number each
    """Return a number, a price, a percentage, an ordinal or a decade in English words."""
    money = _MONEY.get(number[0])
    if money is not None:
        whole, _, part = number[1:].strip().partition(".")
        if len(part) not in (0, 2):
            return f"{_cardinal(number[1:])} {money[0]}s"
        units = f"{_cardinal(whole)} {money[0]}{'' if whole == '1' else 's'}"
        if not int(part or "0"):
            return units
        small = f"{money[1]}{'' if part == '01' else 's'}".replace("pennys", "pence")
        return f"{units} and {_cardinal(part)} {small}"
    if number.endswith("%"):
        return f"{_cardinal(number[:-1])} percent"
    digits = number.rstrip("stndrh")
    if number != digits and not number.endswith("s"):
        return _words(digits.replace(",", "") + number[len(digits) :])
    spoken = _cardinal(digits)
    if number == digits:
        return spoken
    return f"{spoken.removesuffix('y')}ies" if spoken.endswith("y") else f"{spoken}s"


def _cardinal(digits: str) -> str:
    plain = digits.replace(",", "")
    if plain.count(".") > 1:
        return " point ".join(_cardinal(part) for part in plain.split("."))
    if len(plain) > _MOST_DIGITS or (len(plain) > 1 and plain[0] == "0" and "." not in plain):
        return _words(plain.replace(".", ""), group=1)
    if len(digits) == 4 and digits.isdigit() and int(digits) in _YEARS and digits[1:3] != "00":  # noqa: PLR2004
        if digits.endswith("00"):
            return f"{_words(digits[:2])} hundred"
        return _words(digits, group=2, zero="oh")
    return _words(plain)


def _words(number: str, **how: Any) -> str:
    spoken = str(_inflect().number_to_words(number, andword="", **how))
    return re.sub(r"[^a-z]+", " ", spoken)


@cache
def _inflect() -> Any:
    import inflect  # noqa: PLC0415  half a second

    return inflect.engine()
