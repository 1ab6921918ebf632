"""Text prepared for upstream's models: cleaned, its language guessed, its numbers in words.

Control tokens such as `<|endofprompt|>` steer the model, so none passes in a user's text, and the
service adds those that a family needs. The inline tags that upstream documents do (`[laughter]`,
`[breath]`, `<strong></strong>`, `<laughter></laughter>`, family 3's `[j][ǐ]` and `[AA1]`).

Numbers are spelt with wetext's grammars and inflect, as upstream does. They are loaded on first
use, in about 0.3 s.
"""

# ruff: noqa: RUF001 (the punctuation of many scripts)

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

from services.errors import ConfigurationError, InvalidRequestError, shown
from services.speech.engines.scripts import language_by_script
from services.speech.engines.segments import printable

Language = Literal["zh", "en", "ja", "ko", "yue", "de", "es", "fr", "it", "ru"]
"""What a family can speak; Chinese dialects other than Cantonese count as `zh`."""

LANGUAGES: Final[dict[int, tuple[Language, ...]]] = {
    2: ("zh", "en", "ja", "ko", "yue"),
    3: get_args(Language),
}
"""The languages of each family, as upstream's README lists them."""

_SINITIC: Final = frozenset({"cmn", "wuu", "nan", "hak", "gan", "hsn", "cjy", "cdo"})
_HAN: Final = re.compile("[\u4e00-\u9fff]")

_CONTROL_TOKEN: Final = re.compile(r"<\|[^<>|\s]*\|>")
_PICTOGRAPH: Final = re.compile(
    "[\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]", re.UNICODE
)
# Joiners, direction marks, variation selectors, the keycap, tags: no sound, and hiding places.
_INVISIBLE: Final = re.compile(
    "[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u20e3\ufe00-\ufe0f\ufeff\ufff9-\ufffc"
    "\U000e0000-\U000e0fff]"
)
# What each family was trained to find around transcripts and instructions. Upstream leaves most of
# it to its callers; where it is missing family 2 speaks the instruction.
_ASSISTANT: Final = "You are a helpful assistant."
_END: Final = "<|endofprompt|>"
_MARK: Final = {2: "", 3: _ASSISTANT + _END}
_INSTRUCTED: Final = {2: "", 3: _ASSISTANT + " "}
_STRESS_TAG: Final = re.compile(r"</?(?:strong|laughter)>")
_PHONEME_TAG: Final = re.compile(r"(\[[A-Z]{1,2}\d\])")
_BRACKET: Final = re.compile("[（）【】`]")
# A space between CJK has no sound; upstream keeps it only between two ASCII characters.
_CJK_SPACE: Final = re.compile("(?<![!-~]) | (?![!-~])")

_CJK: Final = "\u3041-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff"  # written without spaces


def language_of(tag: str, family: int) -> Language:
    """Return the language that a BCP-47 tag names: zh-Hant is zh, zh-yue is yue.

    Raises:
        InvalidRequestError: not one that `family` speaks (`unsupported_language`).
    """
    first, *rest = tag.lower().replace("_", "-").split("-")
    primary = "yue" if first == "zh" and "yue" in rest else "zh" if first in _SINITIC else first
    for language in LANGUAGES[family]:
        if language == primary:
            return language
    raise InvalidRequestError(
        f"language {shown(tag)} is not one that this model speaks; it speaks "
        f"{', '.join(LANGUAGES[family])}",
        param="language",
        code="unsupported_language",
    )


def guess_language(text: str, context: Language | None = None) -> Language:
    """Return the language of `text` by its script; `context` is that of the text around it.

    Kana is ja, hangul ko, Chinese characters zh (ja or yue in such a context), Cyrillic ru, and
    Latin letters en: German, Spanish, French and Italian need a tag or a context. Without any
    letter it is the context's language, or en.
    """
    found = language_by_script(text, "en")
    if found is None and any(map(str.isalpha, text)):
        return context if context in ("de", "es", "fr", "it") else "en"
    if found == "cmn":
        return context if context in ("ja", "yue") else "zh"
    if found in ("be", "mk", "ru", "sr", "uk"):
        return "ru"
    return "ja" if found == "ja" else "ko" if found == "ko" else context or "en"


def cleaned(text: str) -> str:
    """Return `text` with emoji and control characters as spaces, without invisible ones.

    Each character by itself, so that a stream may be cleaned piece by piece.
    """
    return printable(_PICTOGRAPH.sub(" ", _INVISIBLE.sub("", text)))


def is_sayable(text: str) -> bool:
    """Return whether a letter or a digit is left to say; a tag such as `[laughter]` counts."""
    said = _STRESS_TAG.sub("", cleaned(text))
    return any(unicodedata.category(character)[0] in "LN" for character in said)


def refuse_control_tokens(text: str, param: str) -> None:
    """Raise if `text` holds a control token.

    Raises:
        InvalidRequestError: it does (`control_token`); `param` names the field at fault.
    """
    found = _CONTROL_TOKEN.search(cleaned(text))
    if found:
        raise InvalidRequestError(
            f"{param} holds the control token {shown(found.group())}; the service sets such tokens "
            "itself, from the other fields",
            param=param,
            code="control_token",
        )


def normalise(segment: str, language: Language) -> str:
    """Return one segment as the model is given it: what upstream's text_normalize makes of it.

    Numbers are spelt in Chinese and English only; upstream's English rules would spoil every other
    language ("10h30"), whose segments only lose odd spaces and brackets. A segment without closing
    punctuation gets some. Empty if nothing is left to say; never with a control token.
    """
    text = " ".join(unicodedata.normalize("NFC", cleaned(segment)).split())
    is_chinese = language in ("zh", "yue") or (language == "en" and _HAN.search(text) is not None)
    if is_chinese:
        text = _chinese(text)
    else:
        text = " ".join(_BRACKET.sub("", text).replace("——", " ").split())
        if language == "en":
            text = _around_phonemes(english, text)
    # Dropping characters may have joined others into a token.
    text = text.replace("<|", "< ")
    if not is_sayable(text):
        return ""
    if unicodedata.category(text[-1])[0] == "P" or text[-1] == ">":
        return text
    return text + ("。" if is_chinese or language == "ja" else ".")


def _chinese(text: str) -> str:
    text = _CJK_SPACE.sub("", _around_phonemes(_grammar("zh").normalize, text))
    text = text.replace("²", "平方").replace("³", "立方").replace(".", "。")
    text = _BRACKET.sub("", text.replace(" - ", "，")).replace("——", " ")
    return re.sub("[，,、]+$", "。", text)


def _around_phonemes(rule: Callable[[str], str], text: str) -> str:
    """Apply `rule` to all but phoneme tags, whose digit is no number."""

    def applied(part: str) -> str:
        body = part.strip()
        return part.replace(body, rule(body), 1) if body else part

    parts = _PHONEME_TAG.split(text)
    return "".join(part if i % 2 else applied(part) for i, part in enumerate(parts))


def english(text: str) -> str:
    """Return `text` with its numbers, dates, sums and signs in English words."""
    try:
        spelt: str = _grammar("en").normalize(text)
    except AssertionError:
        # The grammar gives up on some words ("[5]", "±3"): the others are still worth it.
        words = text.split(" ")
        spelt = " ".join(map(english, words)) if words[1:] else text
    spelt = spelt.replace("²", " squared").replace("³", " cubed")
    return re.sub(r"\d+", _number, spelt)


def _number(digits: re.Match[str]) -> str:
    # inflect's words end below 10**36; longer ones are no quantity anyway.
    group = 1 if len(digits.group()) > 36 else 0  # noqa: PLR2004
    words: str = _inflect().number_to_words(digits.group(), group=group)
    return words


@functools.cache
def _grammar(language: str) -> Any:
    from wetext import Normalizer  # noqa: PLC0415  its grammars take a moment to load

    return Normalizer(lang=language, remove_erhua=False)


@functools.cache
def _inflect() -> Any:
    import inflect  # noqa: PLC0415  likewise

    return inflect.engine()


def with_mark(family: int, text: str) -> str:
    """Return what goes with a recording: its transcript or, without one, a segment of text."""
    return _MARK[family] + text


def instruction(family: int, text: str) -> str:
    """Return the prompt text that makes a model speak as `text` says."""
    return _INSTRUCTED[family] + text + _END


class Lexicon:
    """Spellings of words that a model says wrong.

    A word is whole, in any case, and the longest one at a place wins.
    """

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
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    if not isinstance(spellings, dict) or not all(
        word.strip() and isinstance(spelling, str) for word, spelling in spellings.items()
    ):
        raise ConfigurationError(
            f'{path} is no JSON object of words and spellings, such as {{"SQL": "sequel"}}'
        )
    return Lexicon(spellings)
